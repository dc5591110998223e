"""The commands "grid" and "timelapse": compare the checkpoints of a run.

python -m engine.cli grid RUN --steps 100,300,500 --images 1-4 --strengths 0.5,1 --out grid.png
python -m engine.cli timelapse RUN --image 2 --format gif
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from engine.disk.typed_path import path_of
from engine.jobs.control import Control
from engine.machine.units import counted
from engine.workspace.paths import Workspace

if TYPE_CHECKING:
    from engine.evaluation.grid import GridRequest


def add_commands(commands: Any) -> None:
    """Add "grid" and "timelapse" to the command line's parsers."""
    grid = commands.add_parser("grid", help="images of several checkpoints side by side, as one image")
    grid.add_argument("run", help="the run's folder name")
    grid.add_argument("--steps", help="checkpoints, for example 100,300,500; default: six, spread over the run")
    grid.add_argument(
        "--images",
        "--pictures",
        dest="pictures",
        default="1-2",
        help="held-out images, for example 1-4 or 1,3; 0: none",
    )
    grid.add_argument(
        "--control", action="append", default=[], type=path_of, metavar="IMAGE", help="one of your own control images"
    )
    grid.add_argument(
        "--prompt", action="append", default=[], help="prompts to use instead of the images' own captions"
    )
    grid.add_argument("--negative", default="", help="what the images should not show")
    grid.add_argument("--seeds", default="0", help="for example 0,1,2")
    grid.add_argument("--strengths", help="control strengths, for example 0.5,1,1.5; default: as in the run")
    grid.add_argument("--sampling-steps", type=int, default=0, help="denoising steps; default: as in the run")
    grid.add_argument("--guidance", type=float, default=0.0, help="guidance (CFG) scale; default: as in the run")
    grid.add_argument("--no-plain", action="store_true", help="no column without ControlNet")
    grid.add_argument("--out", type=path_of, help="a .png or .webp file; default: in the run's folder")
    lapse = commands.add_parser("timelapse", help="the previews of one held-out image over all steps, as an animation")
    lapse.add_argument("run", help="the run's folder name")
    lapse.add_argument(
        "--image", "--picture", dest="picture", type=int, default=1, help="which preview image to show; the first is 1"
    )
    lapse.add_argument("--alone", action="store_true", help="leave out the control image and the original")
    lapse.add_argument("--seconds", type=float, default=0.4, help="how long each step is shown")
    lapse.add_argument("--format", choices=["webp", "gif"], default="webp")
    lapse.add_argument("--out", type=path_of, help="default: in the run's folder")


def grid(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Draw the missing images of a grid and write the sheet. Returns the exit status 0."""
    from engine.cli.output import EventPrinter
    from engine.evaluation.grid_drawing import draw_grid
    from engine.evaluation.grid_sheet import format_of, save_sheet, sheet_path
    from engine.evaluation.image_cache import ImageCache
    from engine.inference.session import TrySession
    from engine.runs.run import Run

    console, run = EventPrinter(), Run(workspace.run_folder(options.run))
    kind = format_of(options.out) if options.out else "png"
    drawn = draw_grid(workspace, run, request_of(options), TrySession(workspace), control.token, console.progress)
    for note in drawn.notes:
        console.say(f"     {note}")
    path = save_sheet(drawn, ImageCache(workspace), options.out or sheet_path(run.folder, kind), kind)
    if drawn.best is not None:
        console.say(f"Best checkpoint by the verdict: step {drawn.best:,}.")
    console.say(f"Written: {path}")
    return 0


def request_of(options: argparse.Namespace) -> GridRequest:
    """Build the grid request from the command's options.

    Raises:
        UserError: a part of a list is not a number.
    """
    from engine.evaluation.grid import GridRequest, numbers

    return GridRequest(
        steps=None if options.steps is None else numbers(options.steps, int),
        without=not options.no_plain,
        pictures=tuple(number - 1 for number in numbers(options.pictures, int) if number),
        controls=tuple(options.control),
        prompts=tuple(options.prompt),
        seeds=numbers(options.seeds, int),
        strengths=numbers(options.strengths or "", float),
        negative=options.negative,
        sampling_steps=options.sampling_steps,
        guidance=options.guidance,
    )


def timelapse(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Write a time-lapse. Returns the exit status 0."""
    from engine.cli.output import EventPrinter
    from engine.evaluation.timelapse import frames_of, make_timelapse, timelapse_path
    from engine.runs.run import Run

    console, run = EventPrinter(), Run(workspace.run_folder(options.run))
    frames = frames_of(run, options.picture - 1, beside=not options.alone)
    target = options.out or timelapse_path(run.folder, options.picture - 1, options.format)
    make_timelapse(frames, target, options.format, options.seconds, control.token, console.progress)
    console.say(f"{counted(len(frames), 'step')}, from {frames[0].step:,} to {frames[-1].step:,}.")
    console.say(f"Written: {target}")
    return 0


COMMANDS = {"grid": grid, "timelapse": timelapse}
