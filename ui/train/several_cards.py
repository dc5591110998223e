"""On a computer with several graphics cards: the window trains on one, and shows the command that uses all of them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.config.toml import launch_command, write_run_file
from engine.workspace.paths import APP_FOLDER
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.train.run_form import RunForm

FILE = "run.toml"


def build_several_cards(context: AppContext, live: Live, form: RunForm) -> None:
    """Build the folded help below the form. With a single card there is nothing to show."""
    count = context.hardware.cards
    if count < 2:
        return
    text = (
        f"This window trains on one graphics card. To train on all {count}, start the run from a terminal: it is the "
        "same run, only faster, because the cards share the images of each step. Write the settings to a file, copy "
        "the command, close the app (only one program can use the workspace at a time), open a terminal in "
        f"{APP_FOLDER} and paste the command."
    )
    with gr.Accordion(f"Train on {count} graphics cards", open=False, elem_id="several-cards"):
        gr.HTML(note(text))
        write = gr.Button("Write the settings to a file", elem_id="several-cards-write")
        command = gr.Textbox(
            label="Command",
            lines=3,
            interactive=False,
            visible=False,
            buttons=["copy"],
            elem_id="several-cards-command",
        )
        result = gr.HTML()

    def write_settings(*values: Any) -> tuple[Any, str]:
        form.edits.remember(*values)
        line, sentence = write_draft(context)
        return gr.Textbox(value=line, visible=True), note(sentence)

    live.on(write.click, write_settings, form.inputs, [command, result])


def write_draft(context: AppContext) -> tuple[str, str]:
    """Write the draft's settings into the workspace. Returns the command that trains with them, and a sentence.

    Raises:
        UserError: a setting is out of bounds.
    """
    config, _ = context.config_of(context.draft)
    path = context.workspace.root / FILE
    write_run_file(path, config)
    command = launch_command(context.hardware.cards, "train", str(path), workspace=context.workspace)
    return command, f"Written to {path}. The run appears in the list above the next time you open the app."
