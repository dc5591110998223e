"""Settings inside a PNG: as the text that AUTOMATIC1111 writes and reads, and complete as JSON beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine.disk.durable import atomic_write
from engine.disk.images import opened
from engine.errors import UserError
from engine.inference.declaration import Setting
from engine.inference.settings import declared
from engine.version import VERSION

if TYPE_CHECKING:
    from engine.inference.request import TryRequest

A1111_KEY, STUDIO_KEY = "parameters", "controlnet_studio"
"""Names of the two text chunks."""
A1111_ORDER = (
    "Steps",
    "Sampler",
    "CFG scale",
    "Seed",
    "Size",
    "Model",
    "Denoising strength",
    "ControlNet 0",
    "Version",
)
"""Order of the settings line; other keys follow."""
A1111_CONTROL_ORDER = ("Module", "Model", "Weight", "Guidance Start", "Guidance End", "Control Mode")
# Name: value, Name: "quoted value" and so on, as in the last line of A1111's text.
_PAIR = re.compile(r'([A-Za-z][\w \-/]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,\s*|$)')
_NEGATIVE = "Negative prompt:"


def save_png(path: Path, image: Image.Image, settings: Mapping[str, Any]) -> Path:
    """Write an image with its settings inside.

    Args:
        settings: plain values by name: those of ``request_settings``, and anything else to be stored with them.
    """
    info = PngInfo()
    info.add_text(A1111_KEY, a1111_text(settings))
    info.add_text(STUDIO_KEY, json.dumps(dict(settings)))
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)
    return path


def request_settings(request: TryRequest) -> dict[str, Any]:
    """Return the settings of a request as plain values, for ``save_png``: all but its images and its ControlNet."""
    values: dict[str, Any] = {name: one.stored(getattr(request, name)) for name, one in declared().items()}
    return values | {
        "change": request.change if request.image is not None else None,
        "inpainted": request.mask is not None,
        "without_control": request.without_control,
    }


def a1111_text(settings: Mapping[str, Any]) -> str:
    """Write prompt, negative prompt and a line of settings as A1111 does.

    Args:
        settings: as for ``save_png``. What is missing or None is left out of the line.
    """
    line: dict[str, Any] = {"Version": f"ControlNet Studio {VERSION}"}
    control: dict[str, Any] = {"Module": "none", "Model": settings.get("net", "")}
    for name, one in declared().items():
        value = settings.get(name)
        if value is not None and one.a1111:
            line[one.a1111] = _title(one, value)
        if value is not None and one.a1111_control:
            control[one.a1111_control] = _title(one, value)
    if "width" in settings and "height" in settings:
        line["Size"] = f"{settings['width']}x{settings['height']}"
    line["Model"] = Path(str(settings.get("base", ""))).stem
    if settings.get("net"):
        # The extension splits this at commas and colons, and ignores all of it where a name has one.
        pairs = _ordered(control, A1111_CONTROL_ORDER)
        line["ControlNet 0"] = ", ".join(f"{name}: {re.sub('[,:]', ' ', str(value))}" for name, value in pairs)
    negative = [f"{_NEGATIVE} {settings['negative']}"] if settings.get("negative") else []
    last = ", ".join(f"{name}: {_quoted(value)}" for name, value in _ordered(line, A1111_ORDER))
    return "\n".join([str(settings.get("prompt", "")), *negative, last])


def _title(one: Setting, value: Any) -> Any:
    return next((choice.title for choice in one.choices if value in (choice.name, choice.title)), value)


def _ordered(pairs: Mapping[str, Any], order: tuple[str, ...]) -> Iterable[tuple[str, Any]]:
    return sorted(pairs.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))


def _quoted(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,:\n]", text) else text


def parse_a1111(text: str) -> dict[str, Any]:
    """Read the settings in A1111's text. Returns those that it has, by our names.

    The settings of the ControlNet extension are ignored: they belong to another ControlNet.
    """
    *lines, last = text.strip().split("\n")
    pairs = dict(_PAIR.findall(last))
    if len(pairs) < 3:  # there is no line of settings, only a prompt
        lines, pairs = [*lines, last], {}
    prompt: list[str] = []
    negative: list[str] = []
    for line in lines:
        if line.strip().startswith(_NEGATIVE):
            negative.append(line.strip()[len(_NEGATIVE) :].strip())
        else:
            (negative if negative else prompt).append(line)
    found: dict[str, Any] = {"prompt": "\n".join(prompt), "negative": "\n".join(negative)}
    for name, one in declared().items():
        if one.a1111 in pairs and (value := _parsed(one, pairs)) is not None:
            found[name] = value
    size = re.fullmatch(r"(\d+)x(\d+)", pairs.get("Size", ""))
    if size:
        found["width"], found["height"] = int(size[1]), int(size[2])
    return found


def _parsed(one: Setting, pairs: Mapping[str, str]) -> Any:
    """Return the value of a setting, or None if it cannot be read."""
    text = pairs[one.a1111]
    if one.choices:
        titles = {choice.title.lower(): choice.name for choice in one.choices}
        # A1111 1.9 and later write "DPM++ 2M" and "Karras" apart.
        return titles.get(f"{text} {pairs.get('Schedule type')}".lower()) or titles.get(text.lower())
    if one.kind is bool:
        return text == "True"
    try:
        return one.kind(text)
    except ValueError:
        return None


def read_settings(path: Path | str) -> dict[str, Any]:
    """Read the settings in an image: ours, or else those in A1111's text.

    Raises:
        UserError: it is not an image, or it has no settings.
    """
    name = Path(path).name
    with opened(Path(path)) as image:
        texts = dict(getattr(image, "text", {}) or image.info)
    try:
        ours = json.loads(texts.get(STUDIO_KEY, "null"))
    except ValueError:
        ours = None
    if isinstance(ours, dict):
        return ours
    if isinstance(texts.get(A1111_KEY), str):
        return parse_a1111(texts[A1111_KEY])
    raise UserError(
        f"{name} contains no settings.",
        "It was not written by this app or AUTOMATIC1111, or another program or website removed the settings.",
        "Choose the original PNG in the outputs folder.",
    )


def newest(folder: Path, count: int, ending: str) -> list[Path]:
    """Return the ``count`` newest images whose names begin with a date and end with ``ending``, newest first."""
    names = sorted((entry.name for entry in os.scandir(folder) if entry.name.endswith(ending)), reverse=True)
    return [folder / name for name in names[:count]]
