"""A picture of the user's, dropped on the page: what cannot be opened is refused in words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from engine.data.images import opened
from engine.errors import UserError
from ui.quick_gradio import write_no_stubs

write_no_stubs()


class UserPicture(gr.Image):
    """gradio's picture field, which gives the path of a file that was opened and found to be a picture."""

    is_template = True  # the page draws it as what it is made from

    def __init__(self, sources: Sequence[str] = ("upload", "clipboard"), **options: Any) -> None:
        # No mode: gradio would decode and convert the picture before anybody looked at its size.
        super().__init__(type="filepath", image_mode=None, sources=list(sources), **options)

    def get_config(self, cls: type[Any] | None = None) -> dict[str, Any]:
        """What the page is told. gradio looks it up by the parameters of the class, which are its own one's here:
        without label, height and buttons the field cannot be drawn at all."""
        return super().get_config(cls or gr.Image)

    def preprocess(self, payload: Any) -> str | None:
        """The path of the upload; raises gr.Error, which the page shows, for what is no picture or far too large."""
        if payload is None:
            return None
        if payload.path is None:
            path = super().preprocess(payload)
        else:
            path = payload.path
        try:
            with opened(Path(str(path))):
                return str(path)
        except UserError as error:
            name = payload.orig_name or "The picture"
            words = f"{error.what} {error.why} {error.try_this}".replace(Path(str(path)).name, name)
            raise gr.Error(escape(words), print_exception=False, title="This picture cannot be used") from error
