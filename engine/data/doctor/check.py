"""Checks a whole dataset: a background job on all cores that can be stopped and resumed.

Measuring reads every file once, and its results are kept. Judging turns them into findings and is repeated each time.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2

from engine.conditions import registry
from engine.data.dataset import Dataset
from engine.data.description import ConditionSpec
from engine.data.doctor import captions, duplicates, files, images, lost_lines, names, pairs
from engine.data.doctor.check_store import CheckStore, Measurement, maps_of
from engine.data.doctor.classes import ClassCounts
from engine.data.doctor.facts import VERSION
from engine.data.doctor.finding import Hit, Rules, SampleFacts, Summary
from engine.data.doctor.measure import Extract, measure_image, measure_map
from engine.data.held_out import choose
from engine.data.samples import Problem, Sample
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted

PAGE = 256
SAVE_SECONDS = 2.0
_JUDGES = (files.judge, images.judge, captions.judge, pairs.judge)


@dataclass(frozen=True)
class CheckResult:
    """The result of a check. ``counts``: name of the finding -> number of hits."""

    pictures: int
    measured: int
    """Number of images that had to be read. The others were known from an earlier check."""
    counts: dict[str, int]
    seconds: float


def check(
    dataset: Dataset,
    resolution: int = 512,
    held_out: int = 0,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    workers: int | None = None,
) -> CheckResult:
    """Measures what is new or has changed, then judges everything. Needs some hundred bytes of memory per image.

    Args:
        resolution: of the run, in pixels.
        held_out: number of pairs that will be held out.

    Raises:
        UserError: the dataset's folder is not writable.
        Cancelled: the token was cancelled; finished measurements are kept.
    """
    began = time.monotonic()
    store = CheckStore(dataset.folder)
    try:
        read = _measure_all(dataset, store, token, progress, workers or os.cpu_count() or 1)
        held_out_keys = frozenset(choose(dataset, held_out, token=token)) if held_out else frozenset[str]()
        hits, classes = _judge_all(dataset, store, Rules(resolution, held_out_keys), token)
        total = dataset.count()
        about = {"when": time.strftime("%Y-%m-%d %H:%M"), "resolution": str(resolution), "pictures": str(total)}
        about |= classes.about()
        spec = dataset.condition
        same_maps = spec is not None and store.about().get(lost_lines.MAPS) == spec.fingerprint
        kept = lost_lines.LINES_LOST.name if same_maps else ""
        store.replace_hits(hits, {**about, "fingerprint": dataset.fingerprint, "maps": maps_of(dataset)}, kept)
    except OSError as error:
        raise UserError(
            f"The results of the check of {dataset.name} cannot be written to {dataset.folder}.",
            f"The system says: {error.strerror or error}.",
            "Free some space or check the folder's permissions, then check again: it continues from here.",
        ) from error
    return CheckResult(total, read, store.counts(), time.monotonic() - began)


def pages(dataset: Dataset, token: CancelToken | None = None) -> Iterator[list[Sample]]:
    """All samples, with one page in memory at a time."""
    offset = 0
    while page := dataset.samples(offset, PAGE):
        if token:
            token.raise_if_cancelled()
        yield page
        offset += PAGE


def _measure_all(
    dataset: Dataset, store: CheckStore, token: CancelToken | None, progress: OnProgress | None, workers: int
) -> int:
    total, done, read = dataset.count(), 0, 0
    spec = dataset.condition
    ready = dataset.index.map_states() if spec and not spec.provided else {}
    extract = extractor(spec)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="doctor")  # Pillow and OpenCV release Python's lock
    waiting: deque[tuple[str, str, Future[Measurement]]] = deque()
    finished: list[tuple[str, str, Measurement]] = []
    saved = time.monotonic()

    def take() -> None:
        nonlocal saved
        key, state, future = waiting.popleft()
        finished.append((key, state, future.result()))
        if time.monotonic() - saved > SAVE_SECONDS:
            store.keep(finished)
            finished.clear()
            saved = time.monotonic()

    try:
        for page in pages(dataset, token):
            known = store.states(sample.key for sample in page)
            for sample in page:
                map = _map_of(dataset, spec, ready, sample)
                state = _state(sample, map, spec)
                done += 1
                if known.get(sample.key) != state:
                    if token:
                        token.raise_if_cancelled()
                    waiting.append((sample.key, state, pool.submit(_measure, sample, map, extract)))
                    read += 1
                while len(waiting) >= 4 * workers:
                    take()
                if progress:
                    progress(done, total, sample.key)
        while waiting:
            take()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        store.keep(finished)
    return read


def extractor(spec: ConditionSpec | None) -> Extract | None:
    """The extractor of the dataset's type, for comparison. None if its maps cannot be made again quickly."""
    if spec is None:
        return None
    condition = registry.get(spec.type)
    if condition.extract is None or not getattr(condition, "live", True) or getattr(spec, "varied", None) is not None:
        return None  # models and programs are slow, and the random parameters of each image are unknown here
    function, parameters = condition.extractor, spec.parameters
    return lambda image: function(image, **parameters)


def _map_of(
    dataset: Dataset, spec: ConditionSpec | None, ready: dict[str, tuple[str, str]], sample: Sample
) -> Path | None:
    """The sample's map, if it exists and was made from the current image."""
    if spec is None or (spec.provided and sample.condition is None):
        return None
    if not spec.provided and ready.get(sample.key) != (spec.fingerprint, sample.digest):
        return None
    return dataset.condition_path(sample)


def _state(sample: Sample, map: Path | None, spec: ConditionSpec | None) -> str:
    """A string that changes when a file changes, or when maps have to be compared with others."""
    parts = [str(VERSION), spec.fingerprint if spec else ""]
    for path in (sample.image, map):
        try:
            facts = path.stat() if path else None
        except OSError:
            facts = None
        parts += [str(path), f"{facts.st_size}:{facts.st_mtime_ns}" if facts else "gone"]
    return "|".join(parts)


def _measure(sample: Sample, map: Path | None, extract: Extract | None) -> Measurement:
    try:
        facts, image = measure_image(sample.image, sample.old_ground)
    except UserError:
        return None, None, str(sample.image)
    if map is None:
        return facts, None, ""
    try:
        return facts, measure_map(map, image, extract, sample.old_ground), ""
    except UserError:
        return facts, None, str(map)
    except (cv2.error, ValueError):  # the type cannot make a map of this image, so compare with the image instead
        return facts, measure_map(map, image, None, sample.old_ground), ""


def _rows(dataset: Dataset, store: CheckStore, token: CancelToken | None) -> Iterator[tuple[SampleFacts, str]]:
    """Every sample with its measurements, and the path of its unreadable file, if any."""
    for page in pages(dataset, token):
        known = store.measured(sample.key for sample in page)
        for sample in page:
            image, map, trouble = known.get(sample.key, (None, None, ""))
            yield SampleFacts(sample, image, map), trouble


def _judge_all(
    dataset: Dataset, store: CheckStore, rules: Rules, token: CancelToken | None
) -> tuple[list[Hit], ClassCounts]:
    summary, caption_counts, classes = Summary(), Counter[str](), ClassCounts()
    for row, _ in _rows(dataset, store, token):
        _count(row, summary)
        caption_counts[row.sample.caption] += 1
        classes.add(row.sample)
    repeated = {
        text for text, count in caption_counts.items() if text.strip() and captions.is_repeated(count, summary.pictures)
    }
    hits = [hit for problem in _problems(dataset, token) if (hit := _of_problem(problem))]
    seen = _Seen()
    for row, trouble in _rows(dataset, store, token):
        if trouble:
            hits.append(Hit((files.classify(Path(trouble)) or files.DAMAGED).name, trouble))
        for judge in _JUDGES:
            hits += judge(row, rules, summary)
        if row.sample.caption in repeated:
            text = row.sample.caption
            hits.append(
                Hit(captions.REPEATED.name, row.sample.key, f"{counted(caption_counts[text], 'time')}: {text[:100]}")
            )
        seen.add(row)
    if token:
        token.raise_if_cancelled()
    return [*hits, *pairs.common_shift(summary), *seen.compare(rules), *classes.hits()], classes


def _count(row: SampleFacts, summary: Summary) -> None:
    if row.image is None:
        return
    summary.pictures += 1
    summary.grey += row.image.grey
    pairs.note_shift(row, summary)
    if row.map and not row.map.known and not pairs.blank(row.map):
        summary.maps += 1
        if row.map.polarity:
            summary.polarity[row.map.polarity] = summary.polarity.get(row.map.polarity, 0) + 1


def _problems(dataset: Dataset, token: CancelToken | None) -> Iterator[Problem]:
    offset = 0
    while page := dataset.problems(offset, PAGE):
        if token:
            token.raise_if_cancelled()
        yield from page
        offset += PAGE


def _of_problem(problem: Problem) -> Hit | None:
    """The hit for a file that the scan could not use."""
    finding = pairs.of_problem(problem) or files.classify(problem.path)
    return Hit(finding.name, str(problem.path), problem.why) if finding else None


class _Seen:
    """The few facts about every image that are needed to compare all of them. Kept in memory."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.digests: dict[str, str] = {}
        self.pictures: dict[str, tuple[str, bytes, bool, tuple[float, ...]]] = {}
        self.maps: dict[str, tuple[str, bytes]] = {}

    def add(self, row: SampleFacts) -> None:
        key, image, map = row.sample.key, row.image, row.map
        self.keys.append(key)
        if image is None or image.spread < images.MIN_SPREAD:
            return
        self.digests[key] = row.sample.digest or key
        area = row.sample.width * row.sample.height
        value = (
            float(not image.grey),
            float(area),
            -max(0.0, image.blur),
            float(row.sample.bytes),
            float(bool(row.sample.caption.strip())),
        )
        self.pictures[key] = (image.phash, bytes.fromhex(image.thumb), image.grey, value)
        if map and not pairs.blank(map):
            self.maps[key] = (map.phash, bytes.fromhex(map.thumb))

    def compare(self, rules: Rules) -> list[Hit]:
        def same_image(one: str, other: str) -> bool:
            a, b = self.pictures[one], self.pictures[other]
            return duplicates.alike(a[1], b[1], a[2] != b[2])

        def same_map(one: str, other: str) -> bool:
            return duplicates.same_map(self.maps[one][1], self.maps[other][1])

        groups = duplicates.near_groups(((k, p[0]) for k, p in self.pictures.items()), same_image)
        found = list(names.clashes(self.keys))
        found += duplicates.hits(groups.members(), self.digests, rules.held_out, lambda k: self.pictures[k][3])
        maps = duplicates.near_groups(((k, m[0]) for k, m in self.maps.items()), same_map, duplicates.NEAR_MAP)
        return found + list(duplicates.repeated_maps(maps.members(), groups))
