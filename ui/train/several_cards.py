"""Where a computer has several cards: the window trains on one, and says how all of them are used."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.config.toml import launch_command, write_run_file
from engine.workspace.paths import APP_FOLDER
from ui.page.context import AppContext
from ui.page.messages import note
from ui.train.run_form import NO_PROGRESS, RunForm

FILE = "run.toml"


def build_several_cards(context: AppContext, form: RunForm) -> None:
    """Below the form, where there is more than one card: nothing else is shown."""
    count = context.hardware.cards
    if count < 2:
        return
    words = (
        f"This window trains on one card. Your {count} cards share the images of each step when the run is started "
        "from a terminal: the same run, in less time. Write the settings down, copy the command, close the app (two "
        f"programs at once would get in each other's way), open a terminal in {APP_FOLDER} and paste it there."
    )
    with gr.Accordion(f"Train on {count} cards", open=False, elem_id="several-cards"):
        gr.HTML(note(words))
        write = gr.Button("Write the settings down", elem_id="several-cards-write")
        command = gr.Textbox(
            label="Command",
            lines=3,
            interactive=False,
            visible=False,
            buttons=["copy"],
            elem_id="several-cards-command",
        )
        told = gr.HTML()

    def written(*values: Any) -> tuple[Any, str]:
        form.remember(*values)
        line, sentence = write_down(context)
        return gr.Textbox(value=line, visible=True), note(sentence)

    write.click(context.catch_errors(written), form.inputs, [command, told], **NO_PROGRESS)


def write_down(context: AppContext) -> tuple[str, str]:
    """Write the draft's settings into the workspace; the command that trains with them, and a sentence.

    Raises:
        UserError: a setting is out of bounds.
    """
    config, _ = context.config_of(context.draft)
    path = context.workspace.root / FILE
    write_run_file(path, config)
    command = launch_command(context.hardware.cards, "train", str(path), workspace=context.workspace)
    return command, f"Written to {path}. The run is in the list above when the app is opened again."
