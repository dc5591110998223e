"""Fields for the user's own images, dropped on the page or drawn there. They refuse what cannot be opened.

Call ``wire_upload`` for each field: what is refused is then taken out of it, and what a browser cannot show is replaced
by a copy that it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.disk.image_formats import upright
from engine.disk.images import opened
from engine.errors import UserError
from ui.page.live import NO_PROGRESS, Live
from ui.server.gradio_patches import define_without_stubs

define_without_stubs()


SHOWN = frozenset({"PNG", "JPEG", "WEBP", "GIF", "BMP", "AVIF", "ICO"})
"""Pillow's names of the formats that browsers show."""
DEEP = frozenset({"I", "F"})
"""Modes that lose values in a file that browsers show. Such an image stays as it is."""


class UserImage(gr.Image):
    """gradio's image field. Its value is the path of a file that could be opened as an image."""

    is_template = True  # the browser draws it as the class it derives from

    def __init__(self, sources: Sequence[str] = ("upload", "clipboard"), **options: Any) -> None:
        # With an image_mode gradio would decode and convert the image before anyone checks its size.
        super().__init__(type="filepath", image_mode=None, sources=list(sources), format="png", **options)
        self._refused: set[str] = set()

    def get_config(self, cls: type[Any] | None = None) -> dict[str, Any]:
        """Return what the browser needs. gradio collects it from the parameters of ``cls``; from those of this subclass
        label, height and buttons would be missing."""
        return super().get_config(cls or gr.Image)

    def preprocess(self, payload: Any) -> str | None:
        """Return the path of the upload. Raises gr.Error, which the page shows, if it is no image or far too large."""
        if payload is None:
            return None
        if payload.path is None:
            path = super().preprocess(payload)
        else:
            path = payload.path
        first = str(path) not in self._refused
        try:
            check_image(Path(str(path)), payload.orig_name or "The image", show=first)
        except gr.Error:
            self._refused.add(str(path))
            raise
        return str(path)


class UserDrawing(gr.ImageEditor):
    """gradio's image editor. It checks the background and every layer before they are decoded."""

    is_template = True

    def convert_and_format_image(self, file: Any, flatten_on_white: bool = False) -> Any:
        """Override gradio's conversion. ``file``: an upload, or the bytes that the page's canvas sent."""
        if file is not None:
            drawn = isinstance(file, (bytes, bytearray, memoryview))
            name = "The drawing" if drawn else file.orig_name or "The image"
            check_image(Path(name if drawn else file.path), name, bytes(file) if drawn else None)
        return super().convert_and_format_image(file, flatten_on_white)


def wire_upload(live: Live, field: UserImage | UserDrawing) -> None:
    """Empty the field after an upload that is refused; show a copy of an image that browsers cannot show."""
    is_image = isinstance(field, UserImage)
    event = live.on(field.upload, shown if is_image else lambda value: None, [field], [field] if is_image else None)
    event.failure(lambda: None, None, [field], **NO_PROGRESS)


def shown(path: str | None) -> Any:
    """The value of the field after an upload: an upright copy (Pillow) of what browsers cannot show, such as TIFF."""
    if path is None:
        return None
    with opened(Path(path)) as image:
        if image.format in SHOWN or image.mode in DEEP:
            return gr.skip()
        copy = upright(image)
        return copy if copy.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else copy.convert("RGB")


def check_image(path: Path, name: str, data: bytes | None = None, show: bool = True) -> None:
    """Raise gr.Error, which the page shows, if the image cannot be opened or is far too large.

    Args:
        name: what the error calls the file.
        data: its bytes, if it is not on the disk.
        show: False for a file that was refused before: every event that has the field among its inputs ends here.
    """
    try:
        with opened(path, data):
            pass
    except UserError as error:
        text = f"{error.what} {error.why} {error.try_this}".replace(path.name, name)
        raise gr.Error(escape(text), print_exception=False, title="This image cannot be used", visible=show) from error
