"""Settings & help: theme, folders, versions, a check of the installation, and pages of help."""

from __future__ import annotations

import platform
import re
from html import escape
from importlib import metadata

import gradio as gr

from engine.install.edition import BAT_OR_SH, edition
from engine.machine.cards import usable
from engine.machine.units import format_bytes
from engine.workspace.paths import APP_FOLDER
from engine.workspace.remembered import CARD, remember, remembered
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.style import CHOSEN_THEME, SET_THEME

AUTOMATIC = "automatic"
TROUBLESHOOTING = APP_FOLDER / "docs" / "troubleshooting.md"
LINK = re.compile(r"\[([^\]]+)\]\(([\w-]+\.md)(?:#[\w-]+)?\)")
SHOWN_VERSIONS = ("torch", "diffusers", "transformers", "accelerate", "gradio", "numpy", "pillow")
HELP = """
### In five steps
1. **Dataset**: choose a folder of images. A text file next to each image (same name, `.txt`) is its caption.
2. **Conditions**: choose what the ControlNet will follow, such as edges or depth, and make the maps of all images.
3. **Train**: the preset for your computer is already selected. Press Start. You can close or reload the page at any
   time.
4. **Try it**: generate with any checkpoint, next to the same image without control.
5. **Export**: take it to ComfyUI, AUTOMATIC1111 or diffusers.

### Glossary
- **Base model**: the model that your ControlNet is trained for and works with, such as Stable Diffusion 1.5.
- **Control image** (condition map, or map): the image that tells the ControlNet *where* things are: edges, depth, a
  pose, … Training needs one for each image.
- **Step**: one optimizer step, that is, one update of the weights from one batch of images.
- **Queue**: jobs waiting for their turn. A job that you start while another one is running is added to it; the
  button in the header shows the queue.
- **Checkpoint**: the ControlNet as it was after one step, saved on disk.
- **Loss**: how far the prediction was off. It stays noisy: watch the preview images and the score instead.
- **Held-out images**: images that are never trained on. Scores and preview images use them.
- **Preview images**: what the run generates from held-out control images every few hundred steps.
- **Score**, or **adherence**: how well generated images follow their control images. 0 is chance, 1 the best possible.
- **Control gain**: how much worse the loss gets with the control image of another image. While it is near zero, the
  ControlNet does not use its control images.
- **Sudden convergence**: a ControlNet seems to do nothing for a while, then follows within a few hundred steps.
- **Prompt dropout**: the share of training images whose caption is hidden, so that the control image counts more.
- **EMA**: a running average of the weights, which often gives smoother images.
- **Control-LoRA**: a much smaller file that holds only the difference between the ControlNet and its base model.
- **LoRA**: a small file that teaches the base model a style or subject, without control images.

### If it does not follow the control image
Train longer, look at the maps on the Conditions tab (the net learns nothing from maps that are nearly black or nearly
white), and check the captions.

### Good to know
Nothing leaves this computer unless you start a download or an upload. Your images are only read. Pause saves
everything: you can switch the computer off and resume tomorrow, with the same result.
"""


def build(context: AppContext, live: Live) -> None:
    """Build the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=340):
            theme = gr.Radio(
                [("Same as the system", "system"), ("Light", "light"), ("Dark", "dark")],
                value="system",
                label="Theme",
                elem_id="theme-choice",
            )
            choose_guide(context, live)
            gr.HTML("<h3>Folders</h3>" + _table(folders_html(context)))
            gr.HTML("<h3>Versions</h3>" + _table(_versions()) + note(how_to_update()), elem_id="versions")
            hardware = context.hardware
            gr.HTML(
                "<h3>This computer</h3>"
                + note(hardware.sentence[:1].upper() + hardware.sentence[1:])
                + note(hardware.banner, "warning")
            )
            choose_card(context, live)
            check = gr.Button("Check the installation", elem_id="doctor-run")
            report = gr.HTML(elem_id="doctor-report")
        with gr.Column(scale=1, min_width=340):
            gr.Markdown(HELP, elem_classes="help")
            with gr.Accordion("Common problems and solutions", open=False, elem_id="troubleshooting"):
                gr.Markdown(troubleshooting(), elem_classes="help")
    theme.change(None, [theme], None, js=SET_THEME)
    live.on(check.click, _check_installation, None, [report], show_progress="full")
    live.demo.load(None, None, [theme], js=CHOSEN_THEME)


def choose_card(context: AppContext, live: Live) -> None:
    """Build the choice of the graphics card. With a single card there is nothing to show."""
    cards = usable()
    if len(cards) < 2:
        return
    wanted = remembered(context.workspace).get(CARD, "")
    card = gr.Radio(
        [("The one with the most memory", AUTOMATIC), *((f"{c.number}: {c.title}", c.mark) for c in cards)],
        value=next((c.mark for c in cards if c.mark == wanted), AUTOMATIC),
        label="Graphics card for training and Try it",
        info="NVIDIA's are numbered as in nvidia-smi. To train on all cards, start the run from a terminal (see the "
        "Train tab).",
        elem_id="card-choice",
    )
    said = gr.HTML(elem_id="card-chosen")

    def remember_card(mark: str) -> str:
        remember(context.workspace, **{CARD: "" if mark == AUTOMATIC else mark})
        return note("Takes effect the next time the app starts.", "good")

    live.on(card.input, remember_card, [card], [said])


def choose_guide(context: AppContext, live: Live) -> None:
    """Build the switch of the guide at the top of the page."""
    shown = gr.Checkbox(
        not context.guide.state.hidden,
        label="Show the guide at the top of the page",
        info="Your first ControlNet, step by step.",
        elem_id="guide-shown",
    )
    live.on(shown.input, lambda show: context.guide.hide(not show), [shown])
    live.outputs([shown], lambda view: view.guide.hidden, lambda view: [gr.Checkbox(not view.guide.hidden)])


def troubleshooting() -> str:
    """Return the page of common problems as Markdown, without its title, and with links to other pages as text."""
    try:
        text = TROUBLESHOOTING.read_text(encoding="utf-8")
    except OSError as error:
        return f"{TROUBLESHOOTING} cannot be read: {error.strerror or error}."
    return LINK.sub(r"\1 (docs/\2)", text.partition("\n")[2].strip())


def folders_html(context: AppContext) -> dict[str, str]:
    """Return the folders of the workspace and its free disk space, by title."""
    workspace = context.workspace
    return {
        "Workspace": str(workspace.root),
        "Runs": str(workspace.runs),
        "Your base models": str(workspace.models),
        "Images from Try it": str(workspace.outputs),
        "Free disk space": format_bytes(workspace.free_bytes()),
    }


def how_to_update() -> str:
    """The sentence below the versions."""
    return (
        f"To get the newest version, close the app and start {BAT_OR_SH} --update in {APP_FOLDER}. Your datasets, "
        "runs and presets are kept, and a version that does not work on this computer is undone. The app never "
        "looks for updates by itself."
    )


def _versions() -> dict[str, str]:
    """Return the versions of the packages, without importing them."""
    found = {"ControlNet Studio": edition(APP_FOLDER), "Python": platform.python_version()}
    for name in SHOWN_VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _table(rows: dict[str, str]) -> str:
    cells = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
    return f"<table class='facts'>{cells}</table>"


def _check_installation() -> str:
    """Return the installer's report. This takes some seconds: it starts a new Python and imports everything there."""
    from engine.install.doctor import examine
    from engine.install.layout import Layout

    lines = "\n".join(str(finding) for finding in examine(Layout(APP_FOLDER)))
    return f"<pre class='log' tabindex='0'>{escape(lines)}</pre>"
