"""Settings & help: look, folders, versions, the installation's own report, and a page of help."""

from __future__ import annotations

import platform
from html import escape
from importlib import metadata
from typing import Any

import gradio as gr

from engine.machine.units import format_bytes
from engine.version import VERSION
from engine.workspace.paths import APP_FOLDER
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.style import CHOSEN_THEME, SET_THEME
from ui.settings.help import troubleshooting

NO_PROGRESS: dict[str, Any] = {"api_visibility": "private"}
SHOWN_VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "gradio", "numpy", "pillow")
HELP = """
### In five steps
1. **Dataset**: choose a folder with images. A text file beside each image (same name, `.txt`) is its caption.
2. **Conditions**: choose what the net will obey, look at a few maps, make all of them.
3. **Train**: the preset for your computer is chosen already. Press Start; you may close or reload the page any time.
4. **Try it**: draw with any checkpoint, beside the same image without control.
5. **Export**: take it to ComfyUI, AUTOMATIC1111 or diffusers.

### Words
- **Control image, condition map**: the image that says *where* things are: edges, light and dark, …
- **Step**: one correction of the net's weights. **Checkpoint**: the net as it was at one step, saved on disk.
- **Loss**: how far the net's guess was off. It stays noisy; look at the control images and the score instead.
- **Score**: how well images follow the control image, on pairs that were not trained on: 0 is chance, 1 perfect.
- **Sudden convergence**: a ControlNet does nothing visible for a while, then obeys within a few hundred steps.

### If it does not obey
Train longer, look at the maps on the Conditions tab (nearly black or white ones teach nothing), and check the captions.

### Good to know
Nothing leaves this computer. Your images are only read. Pause saves everything: you may switch the computer off and
resume tomorrow, and the result is the same.
"""


def build(context: AppContext, live: Live) -> None:
    """Everything on the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=340):
            theme = gr.Radio(
                [("Like the system", "system"), ("Light", "light"), ("Dark", "dark")],
                value="system",
                label="Colours",
                elem_id="theme-choice",
            )
            gr.HTML("<h3>Folders</h3>" + _table(_folders(context)))
            gr.HTML("<h3>Versions</h3>" + _table(_versions()))
            gr.HTML(
                "<h3>This computer</h3>"
                + note(_capital(context.hardware.sentence))
                + note(context.hardware.banner, "warning")
            )
            check = gr.Button("Check the installation", elem_id="doctor-run")
            report = gr.HTML(elem_id="doctor-report")
        with gr.Column(scale=1, min_width=340):
            gr.Markdown(HELP, elem_classes="help")
            with gr.Accordion("Common problems and their answers", open=False, elem_id="troubleshooting"):
                gr.Markdown(troubleshooting(), elem_classes="help")
    theme.change(None, [theme], None, js=SET_THEME)
    check.click(context.catch_errors(_doctor), None, [report], **NO_PROGRESS)
    live.demo.load(None, None, [theme], js=CHOSEN_THEME)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _folders(context: AppContext) -> dict[str, str]:
    workspace = context.workspace
    return {
        "Workspace": str(workspace.root),
        "Runs": str(workspace.runs),
        "Your base models": str(workspace.models),
        "Images from Try it": str(workspace.outputs),
        "Free disk": format_bytes(workspace.free_bytes()),
    }


def _versions() -> dict[str, str]:
    """Read from the packages' descriptions: nothing is imported."""
    found = {"ControlNet Studio": VERSION, "Python": platform.python_version()}
    for name in SHOWN_VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _table(rows: dict[str, str]) -> str:
    cells = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
    return f"<table class='facts'>{cells}</table>"


def _doctor() -> str:
    """The installer's report; takes some seconds, for it starts Python anew and imports everything there."""
    from engine.install.doctor import examine
    from engine.install.layout import Layout

    lines = "\n".join(str(finding) for finding in examine(Layout(APP_FOLDER)))
    return f"<pre class='log' tabindex='0'>{escape(lines)}</pre>"
