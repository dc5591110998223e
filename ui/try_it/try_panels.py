"""The form of Try it: a widget for each declared setting of an image, in folded panels."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import gradio as gr

from engine.inference.declaration import Panel, Setting
from engine.inference.settings import declared
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import note
from ui.page.user_image import UserDrawing, UserImage
from ui.page.view import View

Fields = dict[str, Any]
"""Widgets by name: of a declared setting, or of a field of ``DrawRequest``."""
AS_TRAINED = ""
RADIO_CHOICES = 4
"""Settings with at most this many choices become radio buttons, others a list."""


def add_settings(fields: Fields, panel: Panel) -> None:
    """Add the widgets of all settings that are declared for a panel and are not in ``fields`` yet, in order."""
    rows: list[list[Setting]] = []
    for one in declared().values():
        if one.panel == panel and one.name not in fields:
            if one.same_row and rows:
                rows[-1].append(one)
            else:
                rows.append([one])
    for row in rows:
        with gr.Row() if len(row) > 1 else nullcontext():
            for one in row:
                fields[one.name] = _widget(one)


def _widget(one: Setting) -> Any:
    """Build the gradio component of a setting."""
    common: dict[str, Any] = {
        "label": one.label,
        "info": one.help or None,
        "elem_id": f"try-{one.name.replace('_', '-')}",
    }
    if one.choices:
        entries = [(choice.title, choice.name) for choice in one.choices]
        if len(entries) <= RADIO_CHOICES:
            return gr.Radio(entries, value=one.default, **common)
        hints = {choice.name: choice.hint for choice in one.choices}
        box = gr.Dropdown(entries, value=one.default, **common | {"info": hints[one.default] or one.help})
        box.change(lambda name: gr.Dropdown(info=hints.get(name) or one.help), [box], [box], **NO_PROGRESS)
        return box
    if one.kind is bool:
        return gr.Checkbox(value=one.default, **common)
    if one.slider is not None:
        low, high, step = one.slider
        return gr.Slider(low, high, value=one.default, step=step, **common)
    if one.kind in (int, float):
        return gr.Number(one.default, precision=0 if one.kind is int else None, **common)
    return gr.Textbox(str(one.default or ""), lines=one.lines, max_lines=one.max_lines, **common)


def sampling_panel(fields: Fields) -> None:
    """Build the panel that says how images are sampled, and how many."""
    with gr.Accordion("Sampler, size, number of images", open=False, elem_id="try-more"):
        add_settings(fields, "sampling")
        fields["count"] = gr.Slider(
            1, 8, value=1, step=1, label="Number of images", info="Each with the next seed.", elem_id="try-count"
        )
        fields["random_seed"] = gr.Checkbox(label="Random seed each time", elem_id="try-any-seed")
        fields["compare"] = gr.Checkbox(value=True, label="Also without the ControlNet", elem_id="try-compare")
        fields["memory_saving"] = gr.Radio(
            [("automatic", 0), ("VAE in tiles", 1), ("offload to RAM (slow)", 2)],
            value=0,
            label="Memory saving",
            info="Turned on automatically when memory runs out. On a small card, choose it beforehand.",
            elem_id="try-memory",
        )


def control_panel(fields: Fields) -> Any:
    """Build the panel that says when and how the ControlNet acts. Returns it."""
    with gr.Accordion("Control mode, start and end", open=False, elem_id="try-say") as panel:
        add_settings(fields, "control")
    return panel


def img2img_panel(fields: Fields) -> None:
    """Build the panel for img2img and inpainting."""
    with gr.Accordion("Draw over an image (img2img, inpainting)", open=False, elem_id="try-over"):
        fields["editor"] = UserDrawing(
            type="pil",
            label="Image",
            sources=["upload", "clipboard"],
            brush=gr.Brush(colors=["#ffffff"], color_mode="fixed"),
            layers=False,
            transforms=(),
            height=320,
            buttons=[],
            elem_id="try-picture",
        )
        gr.HTML(note("Paint over the parts to redraw (inpainting). If nothing is painted, the whole image changes."))
        add_settings(fields, "img2img")


def second_panel(context: AppContext, live: Live, fields: Fields) -> None:
    """Build the panel for another ControlNet in place of the run's, and for a second one."""
    with gr.Accordion("Other ControlNets: another file, or a second one", open=False, elem_id="try-second"):
        fields["own"] = gr.Textbox(
            label="Another ControlNet file",
            max_lines=1,
            info="Path of a file or folder; replaces the checkpoint above.",
            elem_id="try-own",
        )
        second = declared()["second"]
        fields["second"] = gr.Dropdown(
            [("none", "")],
            value="",
            label=second.label,
            allow_custom_value=True,
            info=second.help,
            elem_id="try-second-net",
        )
        fields["second_control"] = UserImage(
            label="Its control image (empty: the same one)", height=160, buttons=[], elem_id="try-second-map"
        )
        add_settings(fields, "second")

    def runs(view: View) -> list[Any]:
        return [gr.Dropdown([("none", ""), *((name, str(context.workspace.runs / name)) for name in view.runs)])]

    live.outputs([fields["second"]], lambda view: view.runs, runs)


def base_panel(context: AppContext, live: Live, fields: Fields) -> Any:
    """Build the panel for other bases. Returns the button that draws on all bases of a folder."""
    models = context.workspace.models
    with gr.Accordion("Try it with other base models", open=False, elem_id="try-base"):
        base = declared()["base"]
        fields["base"] = gr.Dropdown(
            [("as trained", AS_TRAINED)],
            value=AS_TRAINED,
            label=base.label,
            allow_custom_value=True,
            info=base.help,
            elem_id="try-base-choice",
        )
        add_settings(fields, "base")
        fields["bases_folder"] = gr.Textbox(
            str(models), label="Folder of bases", max_lines=1, elem_id="try-bases-folder"
        )
        on_all = gr.Button("Draw with all bases in the folder", elem_id="try-transfer")

    def names(_view: View) -> list[Any]:
        from engine.families.files import bases_in

        found = [path.replace(str(models), "").lstrip("/\\") for path in bases_in(models)]
        return [gr.Dropdown([("as trained", AS_TRAINED), *((name, name) for name in found)])]

    live.outputs([fields["base"]], lambda view: Path(models).stat().st_mtime_ns, names)
    return on_all
