"""The command line's Try it: images from a run's net, saved as PNGs with their settings inside."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.inference import samplers
from engine.jobs.control import Control
from engine.workspace.paths import Workspace


def add_command(commands: Any) -> None:
    """Declare it."""
    sample = commands.add_parser("sample", help="draw images with a run's ControlNet")
    sample.add_argument("run", help="the run's folder name")
    sample.add_argument("--control", type=Path, help="a condition map; default: a held-out one, with its caption")
    sample.add_argument("--photo", type=Path, help="an image whose map is made as in training, in place of --control")
    sample.add_argument("--prompt", help="default: the caption of the held-out image, or none")
    sample.add_argument("--negative", default="")
    sample.add_argument("--step", type=int, help="checkpoint; default: the newest")
    sample.add_argument("--net", type=Path, help="another ControlNet, file or folder, in place of a checkpoint")
    sample.add_argument("--base", help="another base of the same family; default: the run's")
    sample.add_argument("--bases", type=Path, metavar="FOLDER", help="draw on every base in there: does it transfer?")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--count", type=int, default=1, help="images, each with the next seed")
    sample.add_argument("--steps", type=int, help="default: as the run draws its own images")
    sample.add_argument("--guidance", type=float)
    sample.add_argument("--strength", type=float, help="of the control; 0 is off, 1 as trained")
    sample.add_argument("--start", type=float, default=0.0, help="share of the steps at which the control begins")
    sample.add_argument("--end", type=float, default=1.0, help="share of the steps at which it ends")
    sample.add_argument("--guess", action="store_true", help="guess mode: the net alone, prompt empty")
    sample.add_argument("--balance", default="balanced", choices=[one.name for one in samplers.BALANCES])
    sample.add_argument("--sampler", default=samplers.DEFAULT, choices=[one.name for one in samplers.SAMPLERS])
    sample.add_argument("--width", type=int, help="pixels; default: as trained")
    sample.add_argument("--height", type=int)
    sample.add_argument("--over", type=Path, metavar="PICTURE", help="draw over this image (img2img)")
    sample.add_argument("--mask", type=Path, help="white where --over is drawn anew (inpainting)")
    sample.add_argument("--change", type=float, default=0.75, help="how much of --over is drawn anew")
    sample.add_argument("--second", type=Path, metavar="NET", help="a second ControlNet beside it")
    sample.add_argument("--second-control", type=Path, help="its map; default: the same")
    sample.add_argument("--second-strength", type=float, default=1.0)
    sample.add_argument("--without", action="store_true", help="also without the ControlNet, to compare")
    sample.add_argument("--out", type=Path, help="folder; default: the workspace's outputs")


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Draw, save, say where."""
    from engine.cli.output import Console
    from engine.conditions import places, registry
    from engine.inference.session import TrySession
    from engine.inference.transfer import Transferred, transfer
    from engine.runs.run import Run

    console = Console()
    places.use(workspace)
    trained = Run(workspace.run_folder(options.run))
    request, name, words = _request(options, workspace, trained)
    categorical = registry.get(str(trained.condition["type"])).categorical
    session = TrySession(workspace)
    results: list[Transferred]
    if options.bases:
        from engine.families.files import bases_in

        bases = [workspace.locate_base(request.base), *bases_in(options.bases)]
        results = transfer(session, request, bases, control.token, console.progress, categorical)
        requests = [replace(request, base=result.base) for result in results]
    else:
        requests = [replace(request, seed=request.seed + number) for number in range(max(1, options.count))]
        requests += [replace(request, without_control=True)] if options.without else []
        drawn = session.generate(requests, control.token, console.progress, categorical)
        results = [Transferred(one.base, image) for one, image in zip(requests, drawn, strict=True)]
    for sentence in dict.fromkeys([*words, *session.warnings]):
        console.say(sentence)
    folder = options.out or workspace.outputs
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}_{trained.name}_{name}"
    for one, result in zip(requests, results, strict=True):
        if result.image is None:
            console.say(f"{result.name}: {result.problem}")
            continue
        where = f"_{result.name}" if options.bases else ""
        ending = "without" if one.without_control else "with"
        path = _save(folder / f"{stem}{where}_seed-{one.seed}_{ending}.png", result.image, one, trained.name, name)
        console.say(str(path))
    return 0


def _request(options: argparse.Namespace, workspace: Workspace, trained: Any) -> tuple[Any, str, list[str]]:
    """What was asked for, the net's name, and sentences about the control image."""
    from engine.disk.images import load_rgb
    from engine.inference.control_image import held_out_maps, look_warning, map_of
    from engine.inference.request import TryRequest

    as_trained, caption, words = trained.config.validation, "", []
    if options.photo:
        control = map_of(trained, load_rgb(options.photo))
    elif options.control:
        control = load_rgb(options.control)
        words = [sentence] if (sentence := look_warning(workspace, trained, control)) else []
    else:
        pairs = held_out_maps(workspace, trained)
        if not pairs:
            raise UserError("There is no control image.", "The run's dataset is gone.", "Give one with --control.")
        control, caption = load_rgb(pairs[0][0]), pairs[0][1]
    net, name = _net(options, trained)
    side = trained.config.data.resolution
    request = TryRequest(
        base=options.base or trained.config.model.base,
        controlnet=net,
        prompt=caption if options.prompt is None else options.prompt,
        control=control,
        negative=options.negative,
        seed=options.seed,
        steps=options.steps or as_trained.sampling_steps,
        guidance=as_trained.guidance_scale if options.guidance is None else options.guidance,
        strength=as_trained.strength if options.strength is None else options.strength,
        width=options.width or side,
        height=options.height or options.width or side,
        sampler=options.sampler,
        start=options.start,
        end=options.end,
        guess=options.guess,
        balance=options.balance,
        image=load_rgb(options.over) if options.over else None,
        change=options.change,
        mask=load_rgb(options.mask) if options.mask else None,
        second=options.second,
        second_control=load_rgb(options.second_control) if options.second_control else None,
        second_strength=options.second_strength,
    )
    return request, name, words


def _net(options: argparse.Namespace, trained: Any) -> tuple[Path, str]:
    if options.net:
        return options.net, options.net.stem
    for checkpoint in reversed(trained.checkpoints()):
        if options.step in (None, checkpoint.step):
            return checkpoint.controlnet, f"step-{checkpoint.step}"
    which = f"at step {options.step:,}" if options.step is not None else "yet"
    raise UserError(
        "There is no such checkpoint.", f"The run {trained.name} has none {which}.", "Choose another step, or --net."
    )


def _save(path: Path, image: Any, request: Any, run_name: str, net: str) -> Path:
    from engine.inference.image_info import request_settings, save_png

    settings = request_settings(request) | {"run": run_name, "net": net}
    settings |= {"width": image.width, "height": image.height}
    return save_png(path, image, settings)
