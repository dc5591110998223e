"""The job that makes a dataset of whatever the user pointed at. The engine is imported when it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.jobs.control import Token
from engine.jobs.events import Message, Progress
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import JobKind, Outcome
from ui.page.context import AppContext
from ui.page.messages import counted

if TYPE_CHECKING:
    from engine.data.import_config import ImportConfig
    from engine.data.import_result import ImportResult

KIND = JobKind.DATASET
STAGES = ("Images downloaded", "Images unpacked", "Images fetched", "Megabytes unpacked")


def import_images(context: AppContext, place: str, name: str, config: ImportConfig | None = None) -> Work:
    """Return the job that reads a folder, list, archive or Hugging Face id. What an earlier try has read is kept."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.data.importing import import_source

        def progress(done: int, total: int, label: str) -> None:
            # A scan reports file names: one label for all of them lets the page estimate the time left.
            emit(Progress(done, total, label if label in STAGES else "Images read"))

        result = import_source(context.workspace, place, name, config, progress, token)
        emit(Message(f"{result.pictures:,} images, {result.problems:,} problems in {place}."))
        context.set_result(
            KIND,
            note=f"{result.name}: {counted(result.pictures, 'image', 'images')}, "
            f"{counted(result.captioned, 'caption', 'captions')}. Found: {result.found}.",
            facts=tuple(("", sentence) for sentence in _sentences(result)),
        )
        context.focus_on(result.name)
        return "completed"

    return work


def _sentences(result: ImportResult) -> list[str]:
    failures = [f"The images that could not be loaded are listed in {result.failures}."] if result.failures else []
    guessed = [f"Guessed: {doubt}" for doubt in result.doubts]
    return [*guessed, *result.account, *result.notes, *failures]


def suggested_name(place: str) -> str:
    """Return a name for the dataset of a folder, list or id."""
    from engine.data.before_import import suggest_name

    return suggest_name(place or "")
