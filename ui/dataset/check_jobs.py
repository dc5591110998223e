"""The jobs of the Check panel, and its findings as text and images. The engine is imported when it is needed."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from engine.jobs.control import Token
from engine.jobs.events import Message
from engine.jobs.runner import Emit, Work, progress_events
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import counted
from engine.queue.data_jobs import CheckDataset
from ui.page.choices import open_dataset
from ui.page.context import AppContext
from ui.page.messages import note

if TYPE_CHECKING:
    from PIL import Image

    from engine.data.crop_plan import CropPlan
    from engine.data.dataset import Dataset
    from engine.data.doctor.finding import Finding, Hit
    from engine.data.doctor.fix import FindingState

KIND = JobKind.CHECK
ALL_IMAGES = ""
"""The entry for all images in the list of findings."""
MAX_EXAMPLES = 12
ON_MAPS = "map_"
"""Prefix of the findings about maps. Their examples show image, map, and the map laid over the image."""
MAX_FILES = 50
SIGNS = {"serious": "‼", "warning": "!", "note": "·"}
SEVERITY = {
    "serious": "Serious: it harms training or makes the score wrong.",
    "warning": "It lowers quality.",
    "note": "Good to know.",
}


def check(context: AppContext, name: str) -> Work:
    """Return the job that checks all images and maps. Files known from an earlier check are not read again."""

    def work(token: Token, emit: Emit) -> Outcome:
        _check(context, open_dataset(context, name), token, emit)
        return "completed"

    return work


def correct(context: AppContext, name: str, finding: str) -> Work:
    """Return the job that writes corrected copies of what a finding names, then checks again."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.data.doctor import fix

        dataset = open_dataset(context, name)
        made = fix.correct(dataset, finding_named(finding), token, progress_events(emit, "Copies written"))
        emit(Message(f"{counted(made, 'corrected copy', 'corrected copies')} written to {dataset.folder}."))
        _check(context, dataset, token, emit)
        return "completed"

    return work


def queued(context: AppContext, name: str, finding: str = "") -> CheckDataset:
    """Return the check as a job of the queue. ``finding``: what to correct first."""
    config = context.config_of(context.draft)[0]
    correct, base = (finding,) if finding else (), config.model.base
    data = config.data
    return CheckDataset(dataset=name, resolution=data.resolution, held_out=data.held_out, correct=correct, base=base)


def _check(context: AppContext, dataset: Dataset, token: Token, emit: Emit) -> None:
    from engine.data.crop_plan import CropPlan
    from engine.data.doctor.check import check
    from engine.data.doctor.lost_lines import measure_lines
    from engine.data.through_vae import LABEL

    config = context.config_of(context.draft)[0]
    data = config.data
    done = check(dataset, data.resolution, data.held_out, token, progress_events(emit, "Images checked"))
    emit(Message(f"{dataset.name}: {counted(done.pictures, 'image')} checked, {done.measured:,} of them read."))
    progress = progress_events(emit, LABEL)
    found = measure_lines(context.workspace, dataset, config.model.base, CropPlan.of(data), token, progress)
    if found is not None:
        emit(Message(f"{found.words} {found.try_this}".strip()))


def exclude(context: AppContext, name: str, finding: str) -> None:
    """Exclude the images that a finding names."""
    from engine.data.doctor import fix

    number = fix.exclude(open_dataset(context, name), finding_named(finding))
    context.set_result(KIND, note=f"{number:,} left out.")  # makes the other tabs show the dataset again
    context.files_changed()


def undo(context: AppContext, name: str, finding: str) -> None:
    """Undo what was excluded or corrected because of a finding."""
    from engine.data.doctor import fix

    number = fix.undo(open_dataset(context, name), finding_named(finding))
    context.set_result(KIND, note=f"{number:,} restored.")
    context.files_changed()


def finding_named(name: str) -> Finding:
    """The finding with this name (``Finding.name``). Raises KeyError."""
    from engine.data.doctor.catalogue import BY_NAME

    return BY_NAME[name]


def choices(states: list[FindingState], images: int) -> list[tuple[str, str]]:
    """Return the list of findings: a sign for the severity, the title, the number of images."""
    entries = [(f"All images ({images:,})", ALL_IMAGES)]
    for state in states:
        resolved = f", {state.total - state.open:,} resolved" if state.total > state.open else ""
        title = f"{SIGNS[state.finding.severity]}  {state.finding.title} ({state.open:,}{resolved})"
        entries.append((title, state.finding.name))
    return entries


def summary(dataset: Dataset, states: list[FindingState]) -> str:
    """Return when the dataset was checked, and how much was found."""
    from engine.data.doctor.check_store import CheckStore

    store = CheckStore(dataset.folder)
    about = store.about() if store.exists else {}
    if "when" not in about:
        return note("Not checked yet. The check only reads your files.")
    text = f"Checked {about['when']} for training at {about['resolution']} px."
    if about.get("fingerprint") != dataset.fingerprint:
        text += " The dataset has changed since."
    serious = sum(1 for state in states if state.open and state.finding.severity == "serious")
    left = sum(1 for state in states if state.open)
    if not left:
        return note(f"{text} No problems found.", "good")
    found = f"{counted(left, 'kind of problem', 'kinds of problems')}, {serious:,} of them serious."
    return note(f"{text} {found}", "warning" if serious else "hint")


def class_counts(dataset: Dataset) -> str:
    """Return how many images each folder has, and each word of the captions, at the last check."""
    from engine.data.doctor.check_store import CheckStore
    from engine.data.doctor.classes import FOLDERS, WORDS, counts_in

    store, rows = CheckStore(dataset.folder), ""
    about = store.about() if store.exists else {}
    for title, name in (("Images by folder", FOLDERS), ("Images by word in the caption", WORDS)):
        if counts := counts_in(about, name):
            said = ", ".join(f"{escape(of)} <b>{count:,}</b>" for of, count in counts)
            rows += f"<tr><th>{title}</th><td>{said}</td></tr>"
    hint = "<p class='hint'>Class balance, among the settings of the Train tab, draws small classes more often.</p>"
    return f"<table class='facts'>{rows}</table>{hint}" if rows else ""


def details(state: FindingState | None) -> str:
    """Return a finding as a table."""
    if state is None:
        return note("Select a problem to see examples, or browse all images below.")
    finding = state.finding
    numbers = ((state.excluded, "left out"), (state.corrected, "corrected"))
    resolved = ", ".join(f"{number:,} {word}" for number, word in numbers if number)
    rows = [
        ("Found", f"{state.open:,}" + (f" ({resolved})" if resolved else "")),
        ("How serious", SEVERITY[finding.severity]),
        ("Why it matters", finding.why),
        ("What to do", finding.what_to_do),
    ]
    cells = "".join(f"<tr><th>{escape(head)}</th><td>{escape(text)}</td></tr>" for head, text in rows)
    return f"<h3>{escape(finding.title)}</h3><table class='facts'>{cells}</table>"


def files_listed(hits: list[Hit]) -> str:
    """Return a list of files that cannot be shown because they are not images."""
    from pathlib import Path

    items = "".join(f"<li><b>{escape(Path(h.key).name)}</b> {escape(h.detail)}</li>" for h in hits[:MAX_FILES])
    more = f"<p class='hint'>And {len(hits) - MAX_FILES:,} more.</p>" if len(hits) > MAX_FILES else ""
    return f"<ul class='problems'>{items}</ul>{more}"


def hits_to_show(dataset: Dataset, finding: Finding) -> list[Hit]:
    """Return the open hits of a finding or, if all are resolved, the resolved ones."""
    from engine.data.doctor import fix

    if finding.unusable:
        return []
    return fix.open_hits(dataset, finding) or fix.decided_hits(dataset, finding)


def examples(context: AppContext, dataset: Dataset, finding: Finding, hits: list[Hit]) -> list[tuple[Any, str]]:
    """Return images for the gallery. For a finding about maps they include the map."""
    from engine.data import training_view
    from engine.data.crop_plan import CropPlan
    from engine.disk.images import thumbnail
    from engine.errors import UserError

    shown: list[tuple[Any, str]] = []
    for hit in hits[:MAX_EXAMPLES]:
        for key in (hit.key, hit.other):
            if not key:
                continue
            try:
                sample = dataset.sample(key)
                if finding.name.startswith(ON_MAPS):
                    image: Any = training_view.strip(dataset, sample, CropPlan(256), 160)
                else:
                    image = str(thumbnail(sample.image, context.workspace.thumbnails, 256, sample.digest or None))
            except (KeyError, UserError):
                continue  # gone since the check
            shown.append((image, f"{key}: {hit.detail}" if key == hit.key else key))
    return shown


def image_seen(
    dataset: Dataset, hits: list[Hit] | None, at: int, plan: CropPlan
) -> tuple[Image.Image | None, str, int]:
    """Return one image as the ControlNet sees it, text about it, and its number.

    Args:
        hits: the images to browse; None: all images of the dataset.
        at: number of the image; it wraps around.
    """
    from engine.data import training_view
    from engine.errors import UserError

    total = dataset.count() if hits is None else len(hits)
    if not total:
        return None, "", 0
    at %= total
    detail = ""
    try:
        if hits is None:
            sample = dataset.samples(at, 1)[0]
        else:
            sample, detail = dataset.sample(hits[at].key), hits[at].detail
        image = training_view.strip(dataset, sample, plan)
    except (KeyError, IndexError):
        return None, note("This image was removed after the check.", "warning"), at
    except UserError as error:
        return None, note(f"{error.what} {error.why}", "warning"), at
    width, height = plan.size(sample)
    parts = "image, map, and the map over the image" if training_view.map_path(dataset, sample) else "no map yet"
    text = f"{at + 1:,} of {total:,} · <b>{escape(sample.key)}</b>"
    if detail:
        text += f" · {escape(detail)}"
    caption = f"<br>“{escape(sample.caption[:300])}”" if sample.caption else ""
    return image, f"<p class='hint'>{text} · {width} x {height} px: {parts}{caption}</p>", at
