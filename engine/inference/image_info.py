"""Settings inside of a PNG: the text that AUTOMATIC1111 writes and reads, and all of ours as JSON beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine.disk.durable import atomic_write
from engine.disk.images import opened
from engine.errors import UserError
from engine.inference import samplers
from engine.version import VERSION

if TYPE_CHECKING:
    from engine.inference.request import TryRequest

THEIRS, OURS = "parameters", "controlnet_studio"
# Name: value, Name: "quoted value" and so on, as the last line of AUTOMATIC1111's text has them.
_PAIR = re.compile(r'([A-Za-z][\w \-/]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,\s*|$)')
_NEGATIVE = "Negative prompt:"
_NUMBERS: dict[str, tuple[str, type]] = {
    "Steps": ("steps", int),
    "CFG scale": ("guidance", float),
    "Seed": ("seed", int),
    "Denoising strength": ("change", float),
}


def save_png(path: Path, image: Image.Image, settings: Mapping[str, Any]) -> Path:
    """Write an image with its settings inside, under a temporary name first.

    Args:
        settings: plain values by name; those of ``a1111_text``, and whatever else is to be found again.
    """
    info = PngInfo()
    info.add_text(THEIRS, a1111_text(settings))
    info.add_text(OURS, json.dumps(dict(settings)))
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)
    return path


def request_settings(request: TryRequest) -> dict[str, Any]:
    """What of a request is plain values, to be kept in the image; its images and the net's path are not."""
    values = {field.name: getattr(request, field.name) for field in fields(request)}
    kept: dict[str, Any] = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
    kept |= {
        "second": str(request.second or ""),
        "change": request.change if request.image is not None else None,
        "inpainted": request.mask is not None,
    }
    return kept


def a1111_text(settings: Mapping[str, Any]) -> str:
    """Prompt, negative prompt and one line of settings, as AUTOMATIC1111 and what reads its images expect."""
    net = {
        "Module": "none",
        "Model": settings.get("net", ""),
        "Weight": settings.get("strength", 1.0),
        "Guidance Start": settings.get("start", 0.0),
        "Guidance End": settings.get("end", 1.0),
        "Control Mode": samplers.balance(settings.get("balance", "balanced")).title,
    }
    values: dict[str, Any] = {
        "Steps": settings["steps"],
        "Sampler": samplers.sampler(settings.get("sampler", samplers.DEFAULT)).title,
        "CFG scale": settings["guidance"],
        "Seed": settings["seed"],
        "Size": f"{settings['width']}x{settings['height']}",
        "Model": Path(str(settings.get("base", ""))).stem,
    }
    if settings.get("change") is not None:
        values["Denoising strength"] = settings["change"]
    if settings.get("net"):
        # The extension parts this at commas and colons and passes all of it over where a name holds one.
        values["ControlNet 0"] = ", ".join(f"{name}: {re.sub('[,:]', ' ', str(value))}" for name, value in net.items())
    values["Version"] = f"ControlNet Studio {VERSION}"
    line = ", ".join(f"{name}: {_quoted(value)}" for name, value in values.items())
    negative = [f"{_NEGATIVE} {settings['negative']}"] if settings.get("negative") else []
    return "\n".join([str(settings.get("prompt", "")), *negative, line])


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def parse_a1111(text: str) -> dict[str, Any]:
    """Settings by our names from such a text; those that it does not tell are left out."""
    *lines, last = text.strip().split("\n")
    pairs = dict(_PAIR.findall(last))
    if len(pairs) < 3:  # no line of settings, only a prompt
        lines, pairs = [*lines, last], {}
    prompt: list[str] = []
    negative: list[str] = []
    for line in lines:
        if line.strip().startswith(_NEGATIVE):
            negative.append(line.strip()[len(_NEGATIVE) :].strip())
        else:
            (negative if negative else prompt).append(line)
    found: dict[str, Any] = {"prompt": "\n".join(prompt), "negative": "\n".join(negative)}
    for theirs, (ours, kind) in _NUMBERS.items():
        try:
            found[ours] = kind(pairs[theirs])
        except (KeyError, ValueError):
            continue  # another program left it out, or has words there
    size = re.fullmatch(r"(\d+)x(\d+)", pairs.get("Size", ""))
    if size:
        found["width"], found["height"] = int(size[1]), int(size[2])
    titles = {one.title.lower(): one.name for one in samplers.SAMPLERS}
    for name in (f"{pairs.get('Sampler')} {pairs.get('Schedule type')}", pairs.get("Sampler", "")):
        if name.lower() in titles:
            found["sampler"] = titles[name.lower()]
            break
    return found


def read_settings(path: Path | str) -> dict[str, Any]:
    """Settings that an image carries: ours, or what AUTOMATIC1111's text tells.

    Raises:
        UserError: it is no image, or carries none.
    """
    name = Path(path).name
    with opened(Path(path)) as image:
        texts = dict(getattr(image, "text", {}) or image.info)
    try:
        ours = json.loads(texts.get(OURS, "null"))
    except ValueError:
        ours = None
    if isinstance(ours, dict):
        return ours
    if isinstance(texts.get(THEIRS), str):
        return parse_a1111(texts[THEIRS])
    raise UserError(
        f"{name} carries no settings.",
        "Neither this app nor AUTOMATIC1111 wrote any into it; many programs and websites take them out.",
        "Choose the PNG itself, as it was saved in the outputs folder.",
    )


def newest(folder: Path, count: int, ending: str) -> list[Path]:
    """The last ``count`` images of a folder whose names begin with their date and end so, newest first."""
    names = sorted((entry.name for entry in os.scandir(folder) if entry.name.endswith(ending)), reverse=True)
    return [folder / name for name in names[:count]]
