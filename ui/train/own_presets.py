"""Below the form: its settings are kept as a preset of the user's, and such a preset is deleted again."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.config.presets import flatten, unflatten
from engine.config.user_presets import OF_ONE_RUN
from engine.families.files import family_of
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import counted, note, problem_list
from ui.train.run_form import NO_PROGRESS, RunForm

WORDS = (
    "Only what you changed is kept, without the dataset and the run's name. Everything else goes on following the "
    "app's preset. The name of a preset of yours that is there already: it is replaced."
)


def build_own_presets(context: AppContext, live: Live, form: RunForm) -> None:
    with gr.Accordion("Keep these settings for other runs", open=False, elem_id="own-presets"):
        gr.HTML(note(WORDS))
        title = gr.Textbox(label="Name of your preset", max_lines=1, max_length=60, elem_id="own-preset-title")
        with gr.Row():
            save = gr.Button("Keep as a preset", elem_id="own-preset-keep")
            delete = gr.Button("Delete this preset", visible=False, elem_id="own-preset-delete")
        told = gr.HTML(elem_id="own-preset-told")
        broken = gr.HTML(_broken(context))

    def kept(name: str, *values: Any) -> str:
        form.remember(*values)
        return note(keep(context, name))

    def forgotten(*values: Any) -> str:
        form.remember(*values)
        return note(forget(context))

    live.refresh_after(save.click(context.catch_errors(kept), [title, *form.inputs], [told], **NO_PROGRESS))
    live.refresh_after(delete.click(context.catch_errors(forgotten), form.inputs, [told], **NO_PROGRESS))
    live.outputs([delete, broken], lambda view: (view.draft.preset, view.draft.number), lambda view: [
        gr.Button(visible=context.user_presets.own(view.draft.preset)), _broken(context)
    ])  # fmt: skip


def keep(context: AppContext, title: str) -> str:
    """Keep the draft as a preset, which it then stands on; a sentence.

    Raises:
        UserError: a setting is out of bounds, nothing differs, or the name cannot be used.
    """
    draft, presets = context.draft, context.user_presets
    config, _ = context.config_of(draft)
    family = family_of(context.workspace, context.base_of(draft))
    name = presets.keep(title, context.preset_of(draft).name, family, config)
    context.set_draft(name, _of_this_run(draft.changes), refresh_forms=True)
    made = presets.all[name]
    own = counted(len(flatten(made.values)), "setting", "settings")
    return f"{made.title} is in the list of presets now, with {own} of yours."


def forget(context: AppContext) -> str:
    """Delete the draft's preset, if it is the user's; its settings stay in the form."""
    draft, presets = context.draft, context.user_presets
    preset = context.preset_of(draft)
    if preset.stands_on is None:
        return f"{preset.title} is the app's own."
    presets.forget(preset.name)
    changes = unflatten({**flatten(preset.values), **flatten(draft.changes)})
    context.set_draft(preset.stands_on.name, changes, refresh_forms=True)
    return f"{preset.title} is deleted. Its settings are still in the form; keep them again if that was a mistake."


def _of_this_run(changes: dict[str, Any]) -> dict[str, Any]:
    flat = flatten(changes)
    return unflatten({dotted: flat[dotted] for dotted in OF_ONE_RUN if dotted in flat})


def _broken(context: AppContext) -> str:
    problems = context.user_presets.problems
    return problem_list(problems, len(problems)) if problems else ""
