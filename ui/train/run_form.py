"""The form of the next run: a preset, the few settings that everyone chooses, and the rest in folded groups."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import gradio as gr

from engine import config
from engine.bases.catalog import catalog_bases
from engine.families.files import configs_of
from engine.workspace.paths import Workspace, bundled_bases
from ui.page.context import AppContext
from ui.page.form import describe, widget
from ui.page.live import Live
from ui.page.view import View
from ui.train.bases_panel import build_bases
from ui.train.draft_edits import PRESET, DraftEdits
from ui.train.settings_panel import build_settings, changes_html, not_applicable_html

WHAT = (
    ("ControlNet", "controlnet"),
    ("LoRA", "lora"),
    ("Subject", "subject"),
    ("New word", "word"),
    ("Whole base", "base"),
    ("SVDiff", "svdiff"),
    ("LCM", "lcm"),
)
"""Choices of what is trained."""
WHAT_HINT = "All but the ControlNet teach the base and need no condition maps. LCM: a LoRA that draws in few steps."

OF_KIND = {
    "factors": ("rank", "layers"),
    "text": ("text_rate",),
    "lcm": ("lcm_steps", "guidance_low", "guidance_high"),
    "named": ("word",),
    "word": ("begun_as", "vectors"),
    "preserved": ("preserve", "class_prompt", "class_images", "preserve_weight"),
}
"""Settings right below, for each kind of run that has some."""

SENT_NOW = "(...values) => { values[1] = Date.now(); return values; }"
"""Fills ``RunForm.sent`` when a page sends its form."""


class RunForm:
    """Widgets that show the context's draft. ``edits`` writes what the user enters into it."""

    def __init__(self, context: AppContext, live: Live, below: Any = None) -> None:
        """Build the form.

        Args:
            below: the column for the settings that are not needed at each start; None: right below the others.
        """
        self._context = context
        self.edits = DraftEdits(context)
        values = self.edits.values(context.draft)
        stamp = self.edits.shown.add(context.draft.number, values)
        self.stamp = gr.Number(stamp, precision=0, elem_id="form-stamp", elem_classes="pressed-by-script")
        self.sent = gr.Number(0, elem_id="form-sent", elem_classes="pressed-by-script")
        self.settings = {"tuning.what": _what_is_trained(str(values["tuning.what"]))}
        for kind, names in OF_KIND.items():
            with gr.Row(elem_classes=f"only-{kind}"):
                for name in names:
                    field = config.fields("tuning")[name]
                    self.settings[f"tuning.{name}"] = widget(field, values[f"tuning.{name}"], f"set-tuning-{name}")
        with gr.Row(equal_height=True):
            self.preset = gr.Dropdown(
                self._presets(),
                value=values[PRESET],
                label="Preset",
                info=f"Chosen for this computer: {context.hardware.sentence}.",
                elem_id="train-preset",
                min_width=200,
            )
            self.settings["data.dataset"] = self._dataset()
        self.settings["model.base"] = self._base(str(values["model.base"]))
        with gr.Row(equal_height=True):
            steps = config.fields("train")["steps"]
            self.settings["train.steps"] = widget(steps, values["train.steps"], "set-train-steps")
            self.name = gr.Textbox(label="Name of the run", info="Empty: the dataset's name.", max_lines=1)
        with below or nullcontext():
            build_bases(context, live)
            made, self.changed = build_settings(values)
            self.not_applicable = gr.HTML(elem_id="settings-not-applicable", elem_classes="pressed-by-script")
        self.settings |= made
        self.edits.names = tuple(self.settings)
        self.inputs = [self.stamp, self.sent, self.preset, self.name, *self.settings.values()]
        self._wire(live)

    def _dataset(self) -> Any:
        hint = "Images with captions; a ControlNet also needs condition maps."
        return gr.Dropdown(
            [], label="Dataset", info=hint, allow_custom_value=True, elem_id="set-data-dataset", min_width=200
        )

    def _base(self, value: str) -> Any:
        about = describe(config.fields("model")["base"])
        return gr.Dropdown(
            base_names(self._context.workspace),
            value=value,
            allow_custom_value=True,
            label=about.label,
            info=about.hint,
            elem_id="set-model-base",
        )

    def _wire(self, live: Live) -> None:
        for box in (self.preset, self.name, *self.settings.values()):
            # gradio drops a second change of one box while the first is on its way, unless told otherwise
            live.on(box.input, self.edits.remember, self.inputs, js=SENT_NOW, trigger_mode="always_last")
        live.on(self.changed.click, self.edits.reset)
        shown = [self.stamp, self.preset, self.name, *self.settings.values()]
        live.outputs(shown, lambda view: (view.draft.number, view.datasets), self._render, "form")
        live.outputs([self.not_applicable], lambda view: (str(view.draft), view.draft.number), self._not_applicable)
        live.outputs(
            [self.changed], lambda view: str(view.draft), lambda view: [changes_html(self.edits.changed(view.draft))]
        )

    def _not_applicable(self, _view: View) -> list[Any]:
        values = self.edits.values(self._context.draft)
        chosen = {name: values[f"tuning.{name}"] for name in ("what", "preserve")}
        tuning = config.TuningConfig.model_construct(**chosen)  # other settings may be out of bounds meanwhile
        return [not_applicable_html(tuning, configs_of(self._context.workspace, str(values["model.base"])).facts)]

    def _presets(self) -> list[tuple[str, str]]:
        return [(preset.title, name) for name, preset in self._context.user_presets.all.items()]

    def _render(self, view: View) -> list[Any]:
        draft = self._context.draft
        values = self.edits.values(draft)
        filled = {dotted: values[dotted] for dotted in self.settings}
        filled["data.dataset"] = gr.Dropdown(list(view.datasets), value=values["data.dataset"] or None)
        filled["model.base"] = gr.Dropdown(base_names(self._context.workspace), value=values["model.base"])
        preset = gr.Dropdown(self._presets(), value=values[PRESET])
        return [self.edits.shown.add(draft.number, values), preset, values["name"], *filled.values()]


def base_names(workspace: Workspace) -> list[str]:
    """Return the bundled bases and what is in the workspace's models. Downloaded bases go by their hub id."""
    try:
        names = [path.name for path in workspace.models.iterdir() if not path.name.startswith(".")]
    except OSError:
        names = []  # the folder or its disk is gone; the app's own bases are still there
    ids = {base.id.replace("/", "--"): base.id for base in catalog_bases()}
    return [*bundled_bases(), *sorted(ids.get(name, name) for name in names)]


def _what_is_trained(value: str) -> Any:
    about = describe(config.fields("tuning")["what"])
    return gr.Radio(WHAT, value=value, label=about.label, info=WHAT_HINT, elem_id="set-tuning-what")
