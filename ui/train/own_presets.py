"""Below the form: save its settings as a preset of the user's own, and delete such a preset."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.config.presets import flatten, unflatten
from engine.config.user_presets import RUN_ONLY
from engine.families.files import family_of
from engine.machine.units import counted
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note, problem_list
from ui.train.run_form import RunForm

HELP = (
    "Saves the settings that you changed, except for the dataset and the name of the run. All other settings keep "
    "following the app's preset. If you already have a preset of this name, it is replaced."
)


def build_own_presets(context: AppContext, live: Live, form: RunForm) -> None:
    """Build the folded form."""
    with gr.Accordion("Save these settings as a preset", open=False, elem_id="own-presets"):
        with gr.Row(elem_classes="beside"):
            title = gr.Textbox(
                label="Name of your preset", info=HELP, max_lines=1, max_length=60, elem_id="own-preset-title"
            )
            save = gr.Button("Save the preset", scale=0, min_width=150, elem_id="own-preset-keep")
            delete = gr.Button("Delete this preset", visible=False, scale=0, min_width=170, elem_id="own-preset-delete")
        result = gr.HTML(elem_id="own-preset-result")
        broken = gr.HTML(_broken_presets(context))

    def save_preset(name: str, *values: Any) -> str:
        form.edits.remember(*values)
        return note(save_draft(context, name))

    def delete_preset(*values: Any) -> str:
        form.edits.remember(*values)
        return note(delete_own(context))

    live.on(save.click, save_preset, [title, *form.inputs], [result], refresh=True)
    live.on(delete.click, delete_preset, form.inputs, [result], refresh=True)
    live.outputs(
        [delete, broken],
        lambda view: (view.draft.preset, view.draft.number),
        lambda view: [gr.Button(visible=context.user_presets.is_own(view.draft.preset)), _broken_presets(context)],
    )


def save_draft(context: AppContext, title: str) -> str:
    """Save the draft as a preset, and base the draft on it. Returns a sentence.

    Raises:
        UserError: a setting is out of bounds, nothing differs, or the name cannot be used.
    """
    draft, presets = context.draft, context.user_presets
    config, _ = context.config_of(draft)
    family = family_of(context.workspace, context.base_of(draft))
    name = presets.save(title, context.preset_of(draft).name, family, config)
    context.set_draft(name, _of_this_run(draft.changes), refresh_forms=True)
    made = presets.all[name]
    own = counted(len(flatten(made.values)), "setting", "settings")
    return f"{made.title} is now in the list of presets, with {own} of your own."


def delete_own(context: AppContext) -> str:
    """Delete the draft's preset if it is the user's. Its settings stay in the form. Returns a sentence."""
    draft, presets = context.draft, context.user_presets
    preset = context.preset_of(draft)
    if preset.based_on is None:
        return f"{preset.title} comes with the app and cannot be deleted."
    presets.delete(preset.name)
    changes = unflatten({**flatten(preset.values), **flatten(draft.changes)})
    context.set_draft(preset.based_on.name, changes, refresh_forms=True)
    return f"{preset.title} is deleted. Its settings are still in the form: save them again if that was a mistake."


def _of_this_run(changes: dict[str, Any]) -> dict[str, Any]:
    flat = flatten(changes)
    return unflatten({dotted: flat[dotted] for dotted in RUN_ONLY if dotted in flat})


def _broken_presets(context: AppContext) -> str:
    problems = context.user_presets.problems
    return problem_list(problems, len(problems)) if problems else ""
