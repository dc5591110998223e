"""Asks for unclear roles of a folder's parts: roles are preselected, and three pairs show what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.machine.units import counted
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note

if TYPE_CHECKING:
    from engine.data.layouts.model import Part, Reading

MOST = 12
"""Parts that are asked about; for more, there is the setting "Roles"."""
PAIRS = 3
SIDE = 256
ROLES = [("Image", "image"), ("Condition map", "map"), ("Caption", "caption"), ("Ignored", "ignored")]
COLUMN_ROLES = [*ROLES[:3], ("Loss weight", "weight"), ROLES[3]]
COUNTED = {"column": "rows", "captions": "texts"}
KINDS = {
    "folder": "Folder",
    "column": "Column",
    "ending": "Ending",
    "split": "Folder",
    "list": "List",
    "captions": "Captions in",
    "half": "The",
}


class QuestionPanel:
    """The panel. It is hidden until ``show`` is called."""

    def __init__(self, context: AppContext, live: Live) -> None:
        self._context = context
        with gr.Column(elem_classes="card", visible=False, elem_id="question") as self.column:
            self._why = gr.HTML(elem_id="question-why")
            with gr.Row(elem_classes="wrap"):
                self._roles = [
                    gr.Dropdown(ROLES, visible=False, min_width=220, elem_id=f"question-role-{number}")
                    for number in range(MOST)
                ]
            gr.HTML(
                "<p class='hint'>The first few, as they would be read: each image, followed by its condition map.</p>"
            )
            self._pairs = gr.Gallery(
                show_label=False,
                columns=2 * PAIRS,
                height="auto",
                object_fit="contain",
                interactive=False,
                elem_id="question-pairs",
            )
            with gr.Row():
                self._read = gr.Button("Read them like this", variant="primary", elem_id="question-read")
                self._close = gr.Button("Do not read", elem_id="question-close")
        self._names = gr.State([])
        self.outputs = [self.column, self._why, self._names, self._pairs, *self._roles]

    def wire(
        self, live: Live, place: Any, start: Callable[[dict[str, str], list[Any]], None], inputs: list[Any]
    ) -> None:
        """Wire the panel's events.

        Args:
            place: the box with the folder.
            start: reads the folder with these roles; gets the values of ``inputs``, too.
        """

        def read(names: list[str], *values: Any) -> Any:
            start(dict(zip(names, values[:MOST], strict=False)), list(values[MOST:]))
            return gr.Column(visible=False)

        def try_out(place: str, names: list[str], *roles: str) -> list[tuple[Any, str]]:
            return self._shown(place, dict(zip(names, roles, strict=False)))

        live.on(
            self._read.click,
            read,
            [self._names, *self._roles, *inputs],
            [self.column],
            refresh=True,
            show_progress="full",
        )
        live.on(self._close.click, lambda: gr.Column(visible=False), None, [self.column])
        for role in self._roles:
            live.on(role.input, try_out, [place, self._names, *self._roles], [self._pairs])

    def show(self, place: str, reading: Reading) -> list[Any]:
        """The panel's outputs for a folder."""
        parts = list(reading.parts.values())[:MOST]
        more = len(reading.parts) - len(parts)
        why = [
            *reading.doubts,
            *([f"{counted(more, 'more part keeps its role', 'more parts keep their roles')}."] if more > 0 else []),
        ]
        text = "".join(f"<li>{escape(sentence)}</li>" for sentence in why)
        ask = note("Check the role of each part of this folder", "warning") + f"<ul class='problems'>{text}</ul>"
        return [
            gr.Column(visible=True),
            ask,
            [part.name for part in parts],
            self._shown(place, {part.name: part.role for part in parts}),
            *(_dropdown(parts[number] if number < len(parts) else None) for number in range(MOST)),
        ]

    def hidden(self) -> list[Any]:
        """The panel's outputs if there is nothing to ask."""
        return [gr.Column(visible=False), "", [], [], *[gr.Dropdown(visible=False)] * MOST]

    def _shown(self, place: str, roles: dict[str, str]) -> list[tuple[Any, str]]:
        """A few images, each followed by its map, as they would be read with these roles."""
        from engine.data.before_import import first_pairs
        from engine.disk.images import thumbnail
        from engine.errors import UserError

        shown = []
        for number, item in enumerate(first_pairs(place, roles, PAIRS), 1):
            what = item.caption or item.key
            for path, said in ((item.image, what), (item.condition, "its map")):
                if path is not None:
                    try:
                        small = thumbnail(path, self._context.workspace.thumbnails, SIDE)
                    except UserError:
                        continue  # reading the folder reports why
                    shown += [(image, f"{number}. {said}"[:120]) for image, said in _parts(small, said, item.halves)]
        return shown


def _parts(small: Path, said: str, halves: tuple[str, ...]) -> list[tuple[Any, str]]:
    """The thumbnail of an image with its words, or its halves that are used: the image, then its map."""
    if not halves:
        return [(str(small), said)]
    from engine.data.layouts.halves import cut
    from engine.disk.image_formats import open_image

    with open_image(small) as whole:
        by_role = dict(zip(halves, cut(whole), strict=True))
    return [(by_role[role], words) for role, words in (("image", said), ("map", "its map")) if role in by_role]


def _dropdown(part: Part | None) -> Any:
    if part is None:
        return gr.Dropdown(visible=False)
    count = f"{part.count:,} {COUNTED.get(part.kind, 'images')}"
    example = re.split(r"[/\\\\]", part.examples[0])[-1] if part.examples else ""
    example = f": {example[:39]}…" if len(example) > 40 else f": {example}" if example else ""
    here = "The folder itself" if part.name == "." else f"{KINDS[part.kind]} {part.name}"
    roles = COLUMN_ROLES if part.kind == "column" else ROLES
    return gr.Dropdown(roles, visible=True, label=here, info=f"{count}{example}", value=part.role)
