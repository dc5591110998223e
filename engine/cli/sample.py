"""The command "sample": draw images with a run's ControlNet and save them as PNGs with their settings inside."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.disk.typed_path import path_of
from engine.errors import UserError
from engine.inference import settings
from engine.jobs.control import CancelToken, Control
from engine.workspace.paths import Workspace


def add_command(commands: Any) -> None:
    """Add "sample" to the command line's parsers. The settings of an image come from ``engine.inference.settings``."""
    sample = commands.add_parser("sample", help="draw images with a run's ControlNet, LoRA or new word")
    sample.add_argument("run", help="the run's folder name")
    sample.add_argument("--control", type=path_of, help="a control image; default: a held-out one, with its caption")
    sample.add_argument(
        "--photo", type=path_of, help="instead of --control: an image whose control image is made as in training"
    )
    sample.add_argument("--step", type=int, help="checkpoint; default: the newest")
    sample.add_argument("--net", type=path_of, help="another ControlNet, file or folder, instead of a checkpoint")
    sample.add_argument(
        "--bases",
        type=path_of,
        metavar="FOLDER",
        help="draw with every base in this folder, to see whether the ControlNet works with them",
    )
    sample.add_argument("--count", type=int, default=1, help="number of images, each with the next seed")
    sample.add_argument("--over", type=path_of, metavar="IMAGE", help="draw over this image (img2img)")
    sample.add_argument(
        "--mask", type=path_of, metavar="IMAGE", help="mask for --over: white areas are redrawn (inpainting)"
    )
    sample.add_argument(
        "--second-control",
        type=path_of,
        metavar="IMAGE",
        help="control image of the second ControlNet; default: the same one",
    )
    sample.add_argument("--without", action="store_true", help="also draw without the ControlNet, to compare")
    sample.add_argument("--out", type=path_of, help="folder, or a .png file for one image; default: outputs")
    add_settings(sample.add_argument_group("settings of the image"))


DEFAULTS = {"prompt": "the caption of the held-out image, or none", "base": "the run's", "height": "the width"}
"""Defaults of this command that are neither declared nor the run's."""


def add_settings(group: Any) -> None:
    """Add a flag for each declared setting of an image. A flag that is not given is None."""
    for one in settings.declared().values():
        if one.kind is bool:
            group.add_argument(one.flag, action="store_true", default=None, help=_help(one))
        else:
            choices = [choice.name for choice in one.choices] or None
            group.add_argument(
                one.flag,
                type=path_of if one.kind is Path else one.kind,
                choices=choices,
                metavar=one.metavar,
                help=_help(one),
            )


def _help(one: settings.Setting) -> str:
    default = DEFAULTS.get(one.name) or ("as in the run" if one.from_run else one.default)
    facts = [one.bounds] if one.bounds else []
    if default not in (None, "") and one.kind is not bool:
        facts.append(f"default: {default}")
    text = " ".join(filter(None, (f"{one.title}.", one.help, f"({'; '.join(facts)})" if facts else "")))
    return text.replace("%", "%%")


def given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that were given on the command line, by name."""
    values = {name: getattr(options, name) for name in settings.declared()}
    return {name: value for name, value in values.items() if value is not None}


def run(options: argparse.Namespace, workspace: Workspace, control: Control) -> int:
    """Draw the images, save them and print where; exit status 0."""
    from engine.cli.output import EventPrinter
    from engine.conditions import places
    from engine.inference.control_image import condition_type
    from engine.inference.session import TrySession
    from engine.inference.transfer import Transferred, transfer
    from engine.runs.run import Run
    from engine.tuning.facts import facts_of

    console = EventPrinter()
    places.use(workspace)
    trained = Run(workspace.run_folder(options.run))
    by_prompt = facts_of(trained.config).added_to_base
    categorical = not by_prompt and condition_type(trained).categorical
    request, name, notes = _request(options, workspace, trained, control.token)
    session = TrySession(workspace)
    results: list[Transferred]
    if options.bases:
        from engine.families.files import bases_in

        bases = list(dict.fromkeys([workspace.locate_base(request.base), *bases_in(options.bases)]))
        results = transfer(session, request, bases, control.token, console.progress, categorical)
        requests = [replace(request, base=result.base) for result in results]
    else:
        requests = [replace(request, seed=request.seed + number) for number in range(max(1, options.count))]
        requests += [replace(request, without_control=True)] if options.without else []
        drawn = session.generate(requests, control.token, console.progress, categorical)
        results = [Transferred(one.base, image) for one, image in zip(requests, drawn, strict=True)]
    for note in dict.fromkeys([*notes, *session.warnings]):
        console.say(note)
    folder, only = options.out or workspace.outputs, None
    if options.out and options.out.suffix.lower() == ".png" and len(results) == 1:
        folder, only = options.out.parent, options.out
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}_{trained.name}_{name}"
    for one, result in zip(requests, results, strict=True):
        if result.image is None:
            console.say(f"{result.name}: {result.problem}")
            continue
        where = f"_{result.name}" if options.bases else ""
        ending = "without" if one.without_control else "with"
        path = only or folder / f"{stem}{where}_seed-{one.seed}_{ending}.png"
        path = _save(path, result.image, one, trained.name, name)
        console.say(str(path))
    return 0


def _request(
    options: argparse.Namespace, workspace: Workspace, trained: Any, token: CancelToken
) -> tuple[Any, str, list[str]]:
    """Return the request, the ControlNet's name, and notes about the control image."""
    from engine.disk.images import load_map, load_rgb
    from engine.inference.control_image import blank_map, held_out_maps, look_warning, map_of
    from engine.inference.request import TryRequest
    from engine.tuning.facts import facts_of

    caption, notes, side = "", [], trained.config.data.resolution
    if facts_of(trained.config).added_to_base:
        control = blank_map(side, side)
    elif options.photo:
        control = map_of(trained, load_rgb(options.photo), token)
    elif options.control:
        control = load_map(options.control)
        notes = [sentence] if (sentence := look_warning(workspace, trained, control)) else []
    else:
        pairs = held_out_maps(workspace, trained)
        if not pairs:
            raise UserError("There is no control image.", "The run's dataset is gone.", "Name one with --control.")
        control, caption = load_map(pairs[0][0]), pairs[0][1]
    net, name = _net(options, trained)
    given = given_settings(options)
    if "second" in given and given["second"] in {Path(folder.name) for folder in workspace.run_folders()}:
        given["second"] = workspace.run_folder(str(given["second"]))
    if "width" in given:
        given.setdefault("height", given["width"])
    defaults = settings.run_defaults(trained.config) | {"base": trained.config.model.base, "prompt": caption}
    request = TryRequest(
        **defaults | given,
        controlnet=net,
        control=control,
        image=load_rgb(options.over) if options.over else None,
        mask=load_rgb(options.mask) if options.mask else None,
        second_control=load_map(options.second_control) if options.second_control else None,
    )
    return request, name, notes


def _net(options: argparse.Namespace, trained: Any) -> tuple[Path, str]:
    if options.net:
        return options.net, options.net.stem
    from engine.runs.adapters import net_of
    from engine.runs.choice import choose_checkpoint

    checkpoint, notices = choose_checkpoint(trained, options.step)
    for sentence in notices:
        print(sentence)
    return net_of(checkpoint), f"step-{checkpoint.step}"


def _save(path: Path, image: Any, request: Any, run_name: str, net: str) -> Path:
    from engine.inference.image_info import request_settings, save_png

    values = request_settings(request) | {"run": run_name, "net": net}
    values |= {"width": image.width, "height": image.height}
    return save_png(path, image, values)
