"""The checkpoints of a run on the Train tab: which there are, which stay for good, and what they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from engine.disk.space import free_bytes
from engine.jobs.events import DiskSeen
from engine.machine.units import format_bytes
from engine.runs.checkpoints import Checkpoint, broken_checkpoints, list_checkpoints
from engine.runs.retention import size_of, star, trim
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import counted, note
from ui.page.view import View


def build_checkpoints(context: AppContext, live: Live, run: Any) -> None:
    """A folded list: tick what is to be kept whatever the settings say."""
    with gr.Accordion("Checkpoints", open=False, visible=False, elem_id="checkpoints") as box:
        about = gr.HTML(elem_id="checkpoints-about")
        starred = gr.CheckboxGroup(
            [],
            label="Keep for good (★)",
            info="Ticked ones are never removed, whatever “Checkpoints kept” says.",
            elem_id="checkpoints-starred",
        )
        shrink = gr.Button("Shrink old checkpoints", elem_id="checkpoints-shrink")
        hint = (
            "Shrinking drops what only a resume needs from all but the newest two; all can still be tried and exported."
        )
        gr.HTML(note(hint))
        told = gr.HTML(elem_id="checkpoints-told")

    def mark(name: str, steps: list[int]) -> None:
        mark_starred(context.workspace.run_folder(name), steps)

    def make_smaller(name: str) -> str:
        count, freed = trim(context.workspace.run_folder(name), keep=2)
        words = f"{counted(count, 'checkpoint', 'checkpoints')} shrunk, {format_bytes(freed)} freed."
        return note(words if count else "There was nothing to shrink.", "good")

    live.refresh_after(
        starred.input(context.catch_errors(mark, has_outputs=False), [run, starred], None, **NO_PROGRESS)
    )
    live.refresh_after(shrink.click(context.catch_errors(make_smaller), [run], [told], **NO_PROGRESS))

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
    """Changes with every star, on whatever page it was set, and with what is shrunk; reads no file."""
    try:
        return tuple(sorted((entry.name, entry.stat().st_mtime_ns) for entry in (folder / "checkpoints").iterdir()))
    except OSError:
        return ()  # none yet, or one that vanished while we looked: the next look is a second away


def mark_starred(folder: Path, steps: list[int]) -> None:
    """The ticked ones have a star, the others have none."""
    for checkpoint in list_checkpoints(folder):
        if checkpoint.starred != (checkpoint.step in steps):
            star(folder, checkpoint.step, checkpoint.step in steps)


def label(checkpoint: Checkpoint) -> str:
    """One line of the list."""
    star_sign = "★ " if checkpoint.starred else ""
    kind = "" if checkpoint.resumable else ", weights only"
    return f"{star_sign}step {checkpoint.step:,} · {format_bytes(size_of(checkpoint.folder))}{kind}"


def describe(folder: Path, found: list[Checkpoint], broken: list[str]) -> str:
    """What the run takes and what is left, and a sentence for each checkpoint that cannot be used."""
    words = f"This run takes {format_bytes(size_of(folder))}; the disk has {format_bytes(free_bytes(folder))} left."
    lines = [note(f"{counted(len(found), 'checkpoint', 'checkpoints')}. {words}")]
    return "".join([*lines, *(note(sentence, "warning") for sentence in broken)])


def disk_words(seen: DiskSeen | None) -> str:
    """The disk of a run that is going on, in a line."""
    if seen is None:
        return ""
    upcoming = f" · next checkpoint at most {format_bytes(seen.next_checkpoint)}" if seen.next_checkpoint else ""
    return f"Disk: {format_bytes(seen.free)} free · this run {format_bytes(seen.run)}{upcoming}"
