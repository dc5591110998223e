"""Images of the user's, dropped on the page or drawn there: what cannot be opened is refused in words."""

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
    """gradio's image field, which gives the path of a file that was opened and found to be an image."""

    is_template = True  # the page draws it as what it is made from

    def __init__(self, sources: Sequence[str] = ("upload", "clipboard"), **options: Any) -> None:
        # No mode: gradio would decode and convert the image before anybody looked at its size.
        super().__init__(type="filepath", image_mode=None, sources=list(sources), **options)

    def get_config(self, cls: type[Any] | None = None) -> dict[str, Any]:
        """What the page is told. gradio looks it up by the parameters of the class, which are its own one's here:
        without label, height and buttons the field cannot be drawn at all."""
        return super().get_config(cls or gr.Image)

    def preprocess(self, payload: Any) -> str | None:
        """The path of the upload; raises gr.Error, which the page shows, for what is no image or far too large."""
        if payload is None:
            return None
        if payload.path is None:
            path = super().preprocess(payload)
        else:
            path = payload.path
        look_at(Path(str(path)), payload.orig_name or "The image")
        return str(path)


class UserDrawing(gr.ImageEditor):
    """gradio's editor, which looks at every image of a drawing before it is decoded: what is drawn on, and layers."""

    is_template = True

    def convert_and_format_image(self, file: Any, flatten_on_white: bool = False) -> Any:
        """See gradio; ``file``: an upload, or what the page's own canvas sent."""
        if file is not None:
            drawn = isinstance(file, (bytes, bytearray, memoryview))
            name = "The drawing" if drawn else file.orig_name or "The image"
            look_at(Path(name if drawn else file.path), name, bytes(file) if drawn else None)
        return super().convert_and_format_image(file, flatten_on_white)


def look_at(path: Path, name: str, data: bytes | None = None) -> None:
    """Raise gr.Error, which the page shows, for what is no image or far too large. ``name``: as people know it."""
    try:
        with opened(path, data):
            pass
    except UserError as error:
        words = f"{error.what} {error.why} {error.try_this}".replace(path.name, name)
        raise gr.Error(escape(words), print_exception=False, title="This image cannot be used") from error
