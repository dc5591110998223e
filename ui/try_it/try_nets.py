"""The ControlNets that Try it offers: a run's live weights, checkpoints and finished exports, or any file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from engine.disk.typed_path import typed_path
from engine.errors import UserError
from engine.jobs.snapshot import JobSnapshot
from engine.machine.onnx_packages import DESCRIPTION
from engine.machine.units import counted
from engine.runs.adapters import net_of
from ui.page.choices import NEWEST, NEWEST_ENTRY, checkpoints_of, left_out_of, pick_checkpoint
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.view import View

LIVE_NET = "live"
LIVE_ENTRY = ("live: the weights as they are now", LIVE_NET)
EXPORT = "export:"
EXPORT_ENDINGS = (".safetensors", ".pth")


@dataclass(frozen=True)
class Net:
    """A ControlNet to draw with. ``path``: its folder or file. ``name``: for the page and for file names."""

    path: Path
    name: str
    live: bool = False
    notes: tuple[str, ...] = ()
    """What there is to say about the choice."""


def training_run(snapshot: JobSnapshot) -> str:
    """Return the folder name of the run that is training now, or an empty string."""
    if snapshot.is_training and snapshot.run_folder is not None:
        return str(snapshot.run_folder.name)
    return ""


def exports_of(context: AppContext, run: str | None) -> list[Path]:
    """Return the finished exports of a run that Try it can read, newest first."""
    folder = context.workspace.runs / (run or "") / "exports"
    if not run or not folder.is_dir():
        return []
    marks = ("config.json", DESCRIPTION)
    found = [p for p in folder.iterdir() if p.suffix in EXPORT_ENDINGS or any((p / mark).is_file() for mark in marks)]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def entries(context: AppContext, run: str | None) -> list[tuple[str, Any]]:
    """Return the entries of the list for a run. "The newest" comes first and is always there."""
    live = [LIVE_ENTRY] if run and training_run(context.runner.snapshot) == run else []
    saved = [
        (f"step {c.step:,} · {counted(c.images_seen, 'image')} seen", c.step) for c in checkpoints_of(context, run)
    ]
    exports = [(f"export {path.name}", EXPORT + path.name) for path in exports_of(context, run)]
    return [NEWEST_ENTRY, *live, *saved, *exports]


def net_list(context: AppContext, live: Live, run_box: Any, elem_id: str) -> Any:
    """Build a list of the selected run's ControlNets. It is updated while the run trains; the selection stays."""
    box = gr.Dropdown([NEWEST_ENTRY], value=NEWEST, label="Checkpoint", elem_id=elem_id, interactive=True)

    def of_run(run: str | None) -> Any:
        return gr.Dropdown(entries(context, run), value=NEWEST)

    def refreshed(run: str | None, chosen: Any) -> Any:
        found = entries(context, run)
        if chosen == LIVE_NET and LIVE_ENTRY not in found:  # the run has ended: its last checkpoint has these weights
            return gr.Dropdown(found, value=NEWEST)
        return gr.Dropdown(found)

    def key(view: View) -> Any:
        made = view.results.get("export")
        return view.runs, view.shown_run, view.history.checkpoint, training_run(view.snapshot), made and made.number

    saved = gr.State("")
    live.on(run_box.change, of_run, [run_box], [box])
    live.on(saved.change, refreshed, [run_box, box], [box])
    live.outputs([saved], key, lambda view: [repr(key(view))])
    return box


def pick_net(context: AppContext, run: str | None, chosen: Any, own: str = "") -> Net:
    """Return the selected ControlNet. ``own``: path of any file or folder, which takes precedence over the list.

    Raises:
        UserError: there is none, or it is gone.
    """
    from engine.inference.request import LIVE

    if own.strip():
        path = Path(typed_path(own)).expanduser()
        if not path.exists():
            raise UserError(f"{path} was not found.", "There is no such file or folder.", "Check the path.")
        return Net(path, path.stem)
    if chosen == LIVE_NET:
        if training_run(context.runner.snapshot) != run:
            raise UserError(
                "There are no live weights.", f"{run} is not training now.", "Choose a checkpoint from the list."
            )
        return Net(LIVE, "live", live=True)
    if isinstance(chosen, str) and chosen.startswith(EXPORT):
        for path in exports_of(context, run):
            if path.name == chosen.removeprefix(EXPORT):
                return Net(path, path.stem)
        raise UserError(
            "There is no such export.", f"{chosen.removeprefix(EXPORT)} is gone.", "Choose from the list again."
        )
    checkpoint = pick_checkpoint(context, run, chosen)
    notes = left_out_of(context, run, chosen, checkpoint)
    return Net(net_of(checkpoint), f"step-{checkpoint.step}", notes=tuple(notes))
