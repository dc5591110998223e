"""Changes all captions of a dataset, or previews the change, with one page of samples in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from engine.data import captions
from engine.data.dataset import Dataset
from engine.data.samples import Sample
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted

PAGE = 2000
EXAMPLES = 5
SEARCH_SECONDS = 60.0
"""Longest time that all searches of one operation may take."""

REPORT_SECONDS = 0.5
"""Interval of progress reports."""

Change = Callable[[Sample], str]
"""Returns the new caption of a sample that has its current caption."""


@dataclass(frozen=True)
class EditPreview:
    """A change before it is applied. ``examples``: the first few changes as (key, caption before, caption after)."""

    total: int
    changed: int
    examples: list[tuple[str, str, str]]


@dataclass(frozen=True)
class EmptyCount:
    """How many captions are empty, and how many there are."""

    empty: int
    total: int

    @property
    def share(self) -> float:
        return self.empty / self.total if self.total else 0.0


def replacing(search: str, by: str, regex: bool = False, match_case: bool = True, whole_words: bool = False) -> Change:
    """Searches and replaces. Raises UserError for an invalid expression, before any caption is changed."""
    captions.replace("", search, by, regex=regex, match_case=match_case, whole_words=whole_words)
    taken = 0.0

    def change(sample: Sample) -> str:
        nonlocal taken
        began = time.monotonic()
        new = captions.replace(sample.caption, search, by, regex=regex, match_case=match_case, whole_words=whole_words)
        taken += time.monotonic() - began
        if taken > SEARCH_SECONDS:
            raise captions.too_slow(search, f"It took more than {SEARCH_SECONDS:g} s")
        return new

    return change


def adding(prefix: str = "", suffix: str = "", trigger: str = "") -> Change:
    """Adds text before and after, and a trigger word in front, none of it twice. UserError if all are empty."""
    if not (prefix.strip() or suffix.strip() or trigger.strip()):
        raise UserError(
            "There is nothing to add.", "All the fields are empty.", "Enter a prefix, suffix or trigger word."
        )
    return lambda sample: captions.add_trigger(captions.add(sample.caption, prefix, suffix), trigger)


def cleaning() -> Change:
    """Removes HTML, web addresses, control characters and backslashes."""
    return lambda sample: captions.clean(sample.caption)


def templating(template: str, only_empty: bool = False) -> Change:
    """Fills in a template: {name}, {folder}, {caption}. Raises UserError for any other field."""
    captions.from_template(template, "a/b.png")
    return lambda s: (
        s.caption if only_empty and s.caption.strip() else captions.from_template(template, s.key, s.caption)
    )


def naming(only_empty: bool = False) -> Change:
    """Makes captions from file names. Keeps those whose file name was given by a camera."""

    def change(sample: Sample) -> str:
        if only_empty and sample.caption.strip():
            return sample.caption
        return captions.from_file_name(sample.key) or sample.caption

    return change


def preview(
    dataset: Dataset, change: Change, token: CancelToken | None = None, progress: OnProgress | None = None
) -> EditPreview:
    """Tries a change on all captions without writing anything."""
    total = changed = 0
    examples: list[tuple[str, str, str]] = []
    for _, sample in _captions(dataset, token, progress, "Captions searched"):
        total += 1
        if (new := change(sample)) != sample.caption:
            changed += 1
            if len(examples) < EXAMPLES:
                examples.append((sample.key, sample.caption, new))
    return EditPreview(total, changed, examples)


def apply(
    dataset: Dataset, what: str, change: Change, token: CancelToken | None = None, progress: OnProgress | None = None
) -> int:
    """Changes all captions as one operation that can be undone. ``what`` is its name in the history.

    Returns how many changed. If it is cancelled, nothing changes.
    """
    with dataset.captions.operation(what) as writing:
        scanned = _captions(dataset, token, progress, "Captions changed")
        return writing.put((sample.key, original, change(sample)) for original, sample in scanned)


def set_captions(dataset: Dataset, captions_by_key: Mapping[str, str]) -> int:
    """Sets captions that were typed by hand, as one operation. Returns how many changed. KeyError for unknown keys."""
    name = next(iter(captions_by_key), "")
    what = (
        f"Edited {name}" if len(captions_by_key) == 1 else f"Edited {counted(len(captions_by_key), 'caption')} by hand"
    )
    rows = [(key, dataset.index.sample(key).caption, " ".join(text.split())) for key, text in captions_by_key.items()]
    with dataset.captions.operation(what) as writing:
        return writing.put(rows)


def empty(dataset: Dataset) -> EmptyCount:
    """Counts empty captions. Fast for any number of captions."""
    store, index = dataset.captions, dataset.index.path
    return EmptyCount(store.count(index, "empty"), store.count(index))


def _captions(
    dataset: Dataset, token: CancelToken | None, progress: OnProgress | None, label: str
) -> Iterator[tuple[str, Sample]]:
    """All scanned captions, each with its sample, which has its current caption. One page is in memory at a time."""
    total, done, reported = dataset.count(), 0, time.monotonic()
    while scanned := dataset.index.samples(done, PAGE):
        for one, sample in zip(scanned, dataset.captions.overlay(scanned), strict=True):
            if token:
                token.raise_if_cancelled()
            yield one.caption, sample
            done += 1
            if progress and (done == total or time.monotonic() - reported > REPORT_SECONDS):
                progress(min(done, total), total, label)
                reported = time.monotonic()
