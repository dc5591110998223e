"""The checkpoints of the shown run on the Train tab: the list, which are always kept, and the disk space they use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from engine.disk.space import folder_bytes, free_bytes
from engine.jobs.events import DiskSpace
from engine.machine.units import counted, format_bytes
from engine.runs.checkpoints import Checkpoint, broken_checkpoints, list_checkpoints
from engine.runs.cleanup import star, trim
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View


def build_checkpoints(context: AppContext, live: Live, run: Any) -> None:
    """Build the folded list."""
    with gr.Accordion("Checkpoints", open=False, visible=False, elem_id="checkpoints") as box:
        about = gr.HTML(elem_id="checkpoints-about")
        starred = gr.CheckboxGroup(
            [],
            label="Always keep (★)",
            info="Ticked checkpoints are never deleted, whatever “Checkpoints kept” says.",
            elem_id="checkpoints-starred",
        )
        shrink = gr.Button("Shrink old checkpoints", elem_id="checkpoints-shrink")
        hint = (
            "Shrinking deletes what is only needed to resume, about two thirds of the size, from all but the newest "
            "two. You can still try and export all of them."
        )
        gr.HTML(note(hint))
        result = gr.HTML(elem_id="checkpoints-result")

    def star_ticked(name: str, steps: list[int]) -> None:
        star_only(context.workspace.run_folder(name), steps)

    def shrink_old(name: str) -> str:
        count, freed = trim(context.workspace.run_folder(name), keep=2)
        text = f"{counted(count, 'checkpoint')} shrunk, {format_bytes(freed)} freed."
        return note(text if count else "There was nothing to shrink.", "good")

    live.on(starred.input, star_ticked, [run, starred])
    live.on(shrink.click, shrink_old, [run], [result], refresh=True)

    def render(view: View) -> list[Any]:
        folder = context.workspace.runs / view.shown_run
        found = list_checkpoints(folder)[::-1] if view.shown_run else []
        broken = broken_checkpoints(folder) if view.shown_run else []
        choices = [(label(checkpoint), checkpoint.step) for checkpoint in found]
        return [
            gr.Accordion(visible=bool(found or broken)),
            describe(folder, found, broken) if found or broken else "",
            gr.CheckboxGroup(choices, value=[checkpoint.step for checkpoint in found if checkpoint.starred]),
        ]

    def key(view: View) -> Any:
        return view.shown_run, stamp(context.workspace.runs / view.shown_run) if view.shown_run else ()

    live.outputs([box, about, starred], key, render)


def stamp(folder: Path) -> tuple[tuple[str, int], ...]:
    """Return a value that changes with every star, save and shrink. It reads no file."""
    try:
        return tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in (folder / "checkpoints").iterdir()))
    except OSError:
        return ()  # no checkpoint yet, or one was deleted meanwhile: the next poll is a second away


def star_only(folder: Path, steps: list[int]) -> None:
    """Give the checkpoints of these steps a star, and take it from all others."""
    for checkpoint in list_checkpoints(folder):
        if checkpoint.starred != (checkpoint.step in steps):
            star(folder, checkpoint.step, checkpoint.step in steps)


def label(checkpoint: Checkpoint) -> str:
    """Return a line of the list."""
    star_sign = "★ " if checkpoint.starred else ""
    kind = "" if checkpoint.resumable else ", weights only"
    return f"{star_sign}step {checkpoint.step:,} · {format_bytes(folder_bytes(checkpoint.folder))}{kind}"


def describe(folder: Path, found: list[Checkpoint], broken: list[str]) -> str:
    """Return the disk usage of a run, and a warning for each checkpoint that cannot be used."""
    text = f"This run uses {format_bytes(folder_bytes(folder))}. Free disk space: {format_bytes(free_bytes(folder))}."
    lines = [note(f"{counted(len(found), 'checkpoint')}. {text}")]
    return "".join([*lines, *(note(sentence, "warning") for sentence in broken)])


def disk_line(seen: DiskSpace | None) -> str:
    """Return a line about the disk of a run that is training."""
    if seen is None:
        return ""
    upcoming = f" · next checkpoint up to {format_bytes(seen.next_checkpoint)}" if seen.next_checkpoint else ""
    return f"Disk: {format_bytes(seen.free)} free · this run {format_bytes(seen.run)}{upcoming}"
