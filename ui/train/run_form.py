"""The settings of the next run: a preset, the few settings that everyone chooses, and the rest folded away."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine import config
from engine.bases.listed import listed_bases
from engine.config import RunConfig
from engine.config.presets import flatten
from engine.jobs.control import Token
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import JobKind, Outcome
from ui.page.context import AppContext
from ui.page.form import changed_values, describe, section_widgets, widget
from ui.page.live import Live
from ui.page.messages import job_progress, note
from ui.page.states import Action
from ui.page.view import Draft, View
from ui.train.bases_panel import build_bases

FIRST = ("data.dataset", "model.base", "train.steps")
"""Settings at the top of the form."""
OWN_TESTS = (
    "validation.prompts",
    "validation.pictures_folder",
    "validation.pictures_are_maps",
    "validation.probes",
)
"""Settings of the user's own test images and prompts, in a form of their own."""


class RunForm:
    """Widgets that show the context's draft, and handlers that write what the user enters into the draft."""

    def __init__(self, context: AppContext, live: Live) -> None:
        self._context = context
        values = self._values()
        self.preset = gr.Dropdown(
            self._presets(),
            value=context.suggested_preset,
            label="Preset",
            info=f"Chosen for this computer: {context.hardware.sentence}.",
            elem_id="train-preset",
        )
        self.settings = {"data.dataset": self._dataset(), "model.base": self._base(str(values["model.base"]))}
        build_bases(context, live)
        steps = config.fields("train")["steps"]
        self.settings["train.steps"] = widget(steps, values["train.steps"], "set-train-steps")
        self.name = gr.Textbox(label="Name of the run", info="Empty: the dataset's name.", max_lines=1)
        with gr.Accordion("Your own test images and prompts", open=False, elem_id="own-tests"):
            gr.HTML(note("Added to every set of preview images, next to the held-out pairs, and scored separately."))
            fields = config.fields("validation")
            names = {dotted: dotted.split(".")[1] for dotted in OWN_TESTS}
            self.settings |= {d: widget(fields[n], values[d], f"set-validation-{n}") for d, n in names.items()}
        with gr.Accordion("More settings", open=False, elem_id="more-settings"):
            self.settings |= section_widgets(config.SECTIONS, values, advanced=False, skip=(*FIRST, *OWN_TESTS))
        with gr.Accordion("Expert settings", open=False, elem_id="expert-settings"):
            self.settings |= section_widgets(config.SECTIONS, values, advanced=True)
        self.trial = gr.Button("Try three steps", elem_id="train-trial")
        self.trial_progress = gr.HTML(elem_id="train-trial-progress")
        self.trial_cancel = gr.Button("Cancel the trial", visible=False, elem_id="train-trial-cancel")
        self.inputs = [self.preset, self.name, *self.settings.values()]
        self._wire(live)

    def _dataset(self) -> Any:
        hint = "Images with their condition maps."
        return gr.Dropdown([], label="Dataset", info=hint, allow_custom_value=True, elem_id="set-data-dataset")

    def _base(self, value: str) -> Any:
        about = describe(config.fields("model")["base"])
        return gr.Dropdown(
            self._bases(),
            value=value,
            allow_custom_value=True,
            label=about.label,
            info=about.hint,
            elem_id="set-model-base",
        )

    def _bases(self) -> list[str]:
        """Return the demo base and what is in the workspace's models. Downloaded bases go by their hub id."""
        names = (path.name for path in self._context.workspace.models.iterdir() if not path.name.startswith("."))
        ids = {base.id.replace("/", "--"): base.id for base in listed_bases()}
        return ["demo", *sorted(ids.get(name, name) for name in names)]

    def _wire(self, live: Live) -> None:
        for box in (self.name, *self.settings.values()):
            live.on(box.input, self.remember, self.inputs)
        kept = [self.preset, self.name, self.settings["data.dataset"]]
        live.on(self.preset.input, self._change_preset, kept)
        live.on(self.trial.click, self._start_trial, self.inputs)
        live.on(self.trial_cancel.click, live.job_command("cancel"))
        live.outputs(
            [self.trial, self.trial_progress, self.trial_cancel],
            lambda view: (_trial_runs(view) and view.snapshot.version, view.train.buttons[Action.START].enabled),
            _render_trial,
        )
        live.outputs(self.inputs, lambda view: (view.draft.number, view.datasets), self._render, "form")

    def remember(self, preset: str, name: str, *raw: Any) -> None:
        """Write the values of the form into the draft."""
        given = dict(zip(self.settings, raw, strict=True))
        shown = self._context.base_of(self._context.draft)  # the form shows the preset's values for this base
        base, usual = str(given["model.base"] or ""), self._context.base_of(Draft(preset))
        reference = self._of_preset(preset, shown)
        reference = reference.model_copy(update={"model": reference.model.model_copy(update={"base": usual})})
        changes = changed_values(given, reference)
        named = {"name": name.strip()} if name.strip() else {}
        self._context.set_draft(preset, {**changes, **named}, refresh_forms=base != shown)

    def _of_preset(self, preset: str, base: str) -> RunConfig:
        """Return a preset's settings for a base model."""
        return self._context.config_of(Draft(preset, {"model": {"base": base}}))[0]

    def _start_trial(self, *values: Any) -> None:
        """Measure time and memory of these settings. The line below the buttons then shows them."""
        self.remember(*values)
        config, _ = self._context.config_of(self._context.draft)
        self._context.free_models()
        self._context.start_job(JobKind.TRIAL, "Trying three steps", trial_job(self._context, config))

    def _change_preset(self, preset: str, name: str, dataset: str | None) -> None:
        """Take all values from another preset. Name and dataset stay."""
        changes: dict[str, Any] = {"data": {"dataset": dataset}} if dataset else {}
        self._context.set_draft(preset, {**changes, **({"name": name} if name else {})}, refresh_forms=True)

    def _values(self) -> dict[str, Any]:
        """Return all values by dotted name: the preset's, overridden by the draft's, which may be out of bounds."""
        draft = self._context.draft
        plain = flatten(self._of_preset(draft.preset, self._context.base_of(draft)).model_dump())
        return plain | flatten(draft.changes)

    def _presets(self) -> list[tuple[str, str]]:
        return [(preset.title, name) for name, preset in self._context.user_presets.all.items()]

    def _render(self, view: View) -> list[Any]:
        values = self._values()
        filled = [values[dotted] for dotted in self.settings]
        filled[0] = gr.Dropdown(list(view.datasets), value=values["data.dataset"] or None)
        filled[1] = gr.Dropdown(self._bases(), value=values["model.base"])
        preset = gr.Dropdown(self._presets(), value=self._context.preset_of(view.draft).name)
        return [preset, values["name"], *filled]


def trial_job(context: AppContext, config: RunConfig) -> Work:
    """Return the job that takes three optimizer steps, draws a set of preview images, and measures both."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.training.preflight import preflight_job

        return preflight_job(context.workspace, config, context.hardware)(token, emit)

    return work


def _trial_runs(view: View) -> bool:
    return view.snapshot.kind == JobKind.TRIAL and view.snapshot.alive


def _render_trial(view: View) -> list[Any]:
    """Render the button, its help or progress, and its cancel button."""
    runs = _trial_runs(view)
    text = "Measures time and memory on your own images before you start a long run. About a minute on a graphics card."
    return [
        gr.Button(interactive=view.train.buttons[Action.START].enabled),
        job_progress(view.snapshot) if runs else note(text),
        gr.Button(visible=runs),
    ]
