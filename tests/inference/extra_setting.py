"""Run by test_settings.py in a process of its own: declare one more setting, then look for it everywhere.

The declaration is the only thing that is added. It has to happen before any other module of the app is imported.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.inference import settings


@dataclass(frozen=True, kw_only=True)
class Extended(settings.DrawSettings):
    clip_skip: int = settings.setting(
        1,
        "Clip skip",
        "How many layers of the text encoder are left out; 1 is usual.",
        ge=1,
        le=12,
        slider=(1, 12, 1),
        a1111="Clip skip",
    )


settings.DrawSettings = Extended  # type: ignore[misc]


def form(folder: Path) -> Any:
    """The app's window."""
    from engine.workspace.paths import Workspace
    from ui.app import build_app
    from ui.page.context import AppContext

    return build_app(AppContext(Workspace(folder / "workspace")))[0]


def main(folder: Path) -> None:
    from PIL import Image

    from engine.cli import sample
    from engine.errors import UserError
    from engine.inference.image_info import A1111_KEY, parse_a1111, read_settings, request_settings, save_png
    from engine.inference.request import TryRequest, batch_key, prepare

    # The command line: a flag with help, and its value.
    parser = argparse.ArgumentParser()
    sample.add_settings(parser)
    assert "--clip-skip" in parser.format_help() and "between 1 and 12; default: 1" in parser.format_help()
    assert sample.given_settings(parser.parse_args(["--clip-skip", "2"])) == {"clip_skip": 2}

    # A request: the default, the bounds, and no common batch.
    blank = Image.new("RGB", (64, 64))
    request = TryRequest(base="demo", controlnet=folder, prompt="a cat", control=blank, clip_skip=2)
    assert TryRequest(base="demo", controlnet=folder, prompt="a cat", control=blank).clip_skip == 1
    assert batch_key(request) != batch_key(replace(request, clip_skip=3))
    try:
        prepare(replace(request, clip_skip=13))
    except UserError as error:
        assert "Clip skip must be between 1 and 12." in error.why
    else:
        raise AssertionError("the bounds are not checked")

    # The PNG: as JSON and as A1111's text, and back.
    path = save_png(folder / "one.png", blank, request_settings(request))
    assert read_settings(path)["clip_skip"] == 2
    text = Image.open(path).info[A1111_KEY]
    assert "Clip skip: 2" in text and parse_a1111(text)["clip_skip"] == 2

    # The page: a slider in the form, whose value is drawn with, and which an image fills again.
    demo = form(folder)
    slider = next(block for block in demo.blocks.values() if getattr(block, "elem_id", None) == "try-clip-skip")
    assert (slider.label, slider.minimum, slider.maximum, slider.value) == ("Clip skip", 1, 12, 1)
    generate = next(fn for fn in demo.fns.values() if fn.name == "start" and slider in fn.inputs)
    assert generate is not None
    restore = next(fn for fn in demo.fns.values() if fn.name == "restore")
    assert restore.fn(path)[restore.outputs.index(slider)] == 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))
