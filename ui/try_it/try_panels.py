"""The folded panels of Try it: everything that the first image can do without."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.inference import samplers
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import note
from ui.page.user_image import UserDrawing, UserImage
from ui.page.view import View

Fields = dict[str, Any]
"""Widgets by the names of ``TryRequest``, or of ``Wish`` where it has no such name."""
AS_TRAINED = ""


def drawing_panel(fields: Fields) -> None:
    """Sampler, steps, guidance, size, number of images."""
    with gr.Accordion("Sampler, size, number of images", open=False, elem_id="try-more"):
        fields["negative"] = gr.Textbox(
            label="Negative prompt", max_lines=3, info="What the image should not show.", elem_id="try-negative"
        )
        with gr.Row():
            fields["sampler"] = gr.Dropdown(
                [(one.title, one.name) for one in samplers.SAMPLERS],
                value=samplers.DEFAULT,
                label="Sampler",
                info=samplers.SAMPLERS[0].hint,
                elem_id="try-sampler",
            )
            fields["steps"] = gr.Slider(
                1, 100, value=20, step=1, label="Sampling steps", info="More is slower and finer.", elem_id="try-steps"
            )
        fields["guidance"] = gr.Slider(1, 20, value=7.5, step=0.5, label="Guidance scale", info="Pull of the prompt.")
        with gr.Row():
            fields["width"] = gr.Slider(64, 2048, value=512, step=64, label="Width (px)")
            fields["height"] = gr.Slider(64, 2048, value=512, step=64, label="Height (px)")
        fields["count"] = gr.Slider(
            1, 8, value=1, step=1, label="Images", info="Each with the next seed.", elem_id="try-count"
        )
        fields["any_seed"] = gr.Checkbox(label="A new seed each time", elem_id="try-any-seed")
        fields["compare"] = gr.Checkbox(value=True, label="Also without the ControlNet", elem_id="try-compare")
        fields["thrift"] = gr.Radio(
            [("as it fits", 0), ("decode in tiles", 1), ("parts in RAM (slow)", 2)],
            value=0,
            label="Saving memory",
            info="It saves by itself when memory runs out; here you can begin with it on a small card.",
            elem_id="try-thrift",
        )
    fields["sampler"].change(
        lambda name: gr.Dropdown(info=samplers.sampler(name).hint),
        [fields["sampler"]], [fields["sampler"]], **NO_PROGRESS,
    )  # fmt: skip


def say_panel(fields: Fields) -> None:
    """When and how strongly the net speaks."""
    with gr.Accordion("When and how the control speaks", open=False, elem_id="try-say"):
        fields["balance"] = gr.Radio(
            [(one.title, one.name) for one in samplers.BALANCES],
            value="balanced",
            label="Balance",
            info="If prompt and control image contradict each other: who gives way?",
            elem_id="try-balance",
        )
        with gr.Row():
            fields["start"] = gr.Slider(
                0, 0.95, value=0, step=0.05, label="Starts at", info="Share of the steps: 0 is the first."
            )
            fields["end"] = gr.Slider(
                0.05, 1, value=1, step=0.05, label="Ends at", info="Earlier leaves the last details to the prompt."
            )
        fields["guess"] = gr.Checkbox(
            label="Guess mode",
            info="The image is guessed from the control alone: leave the prompt empty, guidance 3 to 5.",
            elem_id="try-guess",
        )


def over_panel(fields: Fields) -> None:
    """Draw over an image, or over a part of it."""
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
        gr.HTML(note("Paint over a part, and only that part is drawn anew. Unpainted, the whole image changes."))
        fields["change"] = gr.Slider(
            0.05, 1, value=0.75, step=0.05, label="How much changes", info="Little keeps the image, 1 forgets it."
        )


def second_panel(context: AppContext, live: Live, fields: Fields) -> None:
    """A second net beside the run's."""
    with gr.Accordion("Other ControlNets: another file, or a second one beside it", open=False, elem_id="try-second"):
        fields["own"] = gr.Textbox(
            label="Another ControlNet file",
            max_lines=1,
            info="Path of a file or folder; in place of the checkpoint above.",
            elem_id="try-own",
        )
        fields["second"] = gr.Dropdown(
            [("none", "")],
            value="",
            label="Second ControlNet",
            allow_custom_value=True,
            info="Another run, or the path of a file or folder.",
            elem_id="try-second-net",
        )
        fields["second_control"] = UserImage(
            label="Its map (empty: the same)", height=160, buttons=[], elem_id="try-second-map"
        )
        fields["second_strength"] = gr.Slider(0, 2, value=1, step=0.05, label="Its strength")

    def runs(view: View) -> list[Any]:
        return [gr.Dropdown([("none", ""), *((name, str(context.workspace.runs / name)) for name in view.runs)])]

    live.outputs([fields["second"]], lambda view: view.runs, runs)


def base_panel(context: AppContext, live: Live, fields: Fields) -> Any:
    """Another base of the family; returns the button that draws on all of them."""
    with gr.Accordion("Another base: does it transfer?", open=False, elem_id="try-base"):
        fields["base"] = gr.Dropdown(
            [("as trained", AS_TRAINED)],
            value=AS_TRAINED,
            label="Base",
            allow_custom_value=True,
            info="One from the models folder, a path, or a Hugging Face id; of the same family.",
            elem_id="try-base-choice",
        )
        fields["bases_folder"] = gr.Textbox(
            str(context.workspace.models), label="Folder of bases", max_lines=1, elem_id="try-bases-folder"
        )
        everywhere = gr.Button("Draw on all bases in the folder", elem_id="try-transfer")

    def names(_view: View) -> list[Any]:
        from engine.families.files import bases_in

        found = [path.replace(str(context.workspace.models), "").lstrip("/\\") for path in bases_in(_models(context))]
        return [gr.Dropdown([("as trained", AS_TRAINED), *((name, name) for name in found)])]

    live.outputs([fields["base"]], lambda view: _models(context).stat().st_mtime_ns, names)
    return everywhere


def _models(context: AppContext) -> Any:
    return context.workspace.models
