"""Fields for the user's own images, dropped on the page or drawn there. They refuse what cannot be opened."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.disk.images import opened
from engine.errors import UserError
from ui.server.gradio_patches import define_without_stubs

define_without_stubs()


class UserImage(gr.Image):
    """gradio's image field. Its value is the path of a file that could be opened as an image."""

    is_template = True  # the browser draws it as the class it derives from

    def __init__(self, sources: Sequence[str] = ("upload", "clipboard"), **options: Any) -> None:
        # With an image_mode gradio would decode and convert the image before anyone checks its size.
        super().__init__(type="filepath", image_mode=None, sources=list(sources), **options)

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
        check_image(Path(str(path)), payload.orig_name or "The image")
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


def check_image(path: Path, name: str, data: bytes | None = None) -> None:
    """Raise gr.Error, which the page shows, if the image cannot be opened or is far too large.

    Args:
        name: what the error calls the file.
        data: its bytes, if it is not on the disk.
    """
    try:
        with opened(path, data):
            pass
    except UserError as error:
        text = f"{error.what} {error.why} {error.try_this}".replace(path.name, name)
        raise gr.Error(escape(text), print_exception=False, title="This image cannot be used") from error
