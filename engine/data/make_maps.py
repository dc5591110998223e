"""Makes all condition maps of a dataset: a background job on all cores that can be stopped and resumed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from engine.conditions import ready, registry, variation, weights
from engine.conditions.coverage import coverage
from engine.conditions.declaration import ConditionType
from engine.data import map_files
from engine.data.dataset import Dataset
from engine.data.description import ConditionSpec
from engine.data.samples import Problem, Sample
from engine.disk.images import digest, load_array
from engine.disk.in_use import remove_file
from engine.distributed.group import ALONE, ProcessGroup
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.errors import is_device_lost, is_out_of_memory
from engine.machine.memory import AdaptiveBatch, free_memory

SAVE_EVERY = 64  # finished maps before they are recorded in the index
SAVE_SECONDS = 2.0
BATCH = 8  # images per batch of a model
BATCH_PIXELS = 16_000_000  # at most, so that large images do not fill the memory
HOPELESS = 25  # the job stops after so many failures without a single map


@dataclass(frozen=True)
class BatchReport:
    """The result. ``kept``: maps that existed already. ``warnings``: maps that look nearly empty or nearly full."""

    made: int
    kept: int
    failures: list[Problem]
    warnings: list[Problem]


@dataclass(frozen=True)
class _Made:
    key: str
    digest: str
    warning: str


_Outcome = _Made | Problem | None  # None: the map existed already


def make_all(
    dataset: Dataset,
    type: str,
    parameters: Mapping[str, Any] | None = None,
    token: CancelToken | None = None,
    progress: OnProgress | None = None,
    workers: int | None = None,
    resolution: int | None = None,
    varied: int | None = None,
    group: ProcessGroup = ALONE,
) -> BatchReport:
    """Writes every sample's map to ``dataset.condition_path``, and sets the type as the dataset's condition.

    A map is kept if it was made by the same type, parameters and resolution from the same image. So another call only
    makes what has changed, and a call after a stop continues where it stopped. Files that fail are reported and
    skipped. The processes of ``group`` share the work and return a common report.

    Args:
        resolution: images whose shorter side is larger, in pixels, are first scaled down to it, so that edges are as
            wide as the net will see them.
        varied: seed of random parameters for each image (see ``engine.conditions.variation``). None: fixed ones.

    Raises:
        UserError: bad parameters, missing weights, a full disk, or no map could be made.
        Cancelled: the token was cancelled.
    """
    condition = registry.get(type)
    ready.check(condition, registry.resolve_parameters(type, parameters))
    resolution = resolution if condition.extract else None
    spec = group.broadcast(lambda: dataset.set_condition(type, parameters, resolution=resolution, varied=varied))
    dataset = dataset if group.main else Dataset.open(dataset.folder)
    total = dataset.count()
    if spec.provided:
        return BatchReport(0, total, [], [])
    failures: list[Problem] = []
    warnings: list[Problem] = []
    made = kept = done = 0
    work = _Worker(dataset, condition, spec, token)
    workers = workers or os.cpu_count() or 1
    finished: list[tuple[str, str, str]] = []
    saved = time.monotonic()
    waiting: deque[tuple[list[Sample], Future[list[_Outcome]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="maps")  # Pillow and OpenCV release Python's lock
    try:
        batches = enumerate(map_batches(_paged(dataset), BATCH if condition.batch else 1, resolution))
        todo = (batch for number, batch in batches if group.owns(number))
        while True:
            while len(waiting) < 4 * workers and (batch := next(todo, None)):
                waiting.append((batch, pool.submit(work, batch)))
            if not waiting:
                break
            batch, future = waiting.popleft()
            for sample, result in zip(batch, future.result(), strict=True):
                if token:
                    token.raise_if_cancelled()
                done += 1
                if isinstance(result, _Made):
                    made += 1
                    finished.append((result.key, spec.fingerprint, result.digest))
                    if result.warning:
                        warnings.append(Problem(sample.image, result.warning, "", "Look at it on the Conditions tab."))
                elif isinstance(result, Problem):
                    failures.append(result)
                    if len(failures) == done == HOPELESS:
                        raise UserError(
                            f"No map could be made from the first {HOPELESS} images.",
                            f"{result.what} {result.why}",
                            result.try_this,
                        )
                else:
                    kept += 1
                if progress:
                    progress(
                        min(total, done * group.world_size), total, sample.key
                    )  # assumes that the other processes are equally far
            if len(finished) >= SAVE_EVERY or time.monotonic() - saved > SAVE_SECONDS:
                dataset.index.mark_maps(finished)
                finished.clear()
                saved = time.monotonic()
    except OSError as error:
        raise UserError(
            f"The maps cannot be written to {dataset.folder}.",
            f"The system says: {error.strerror or error}.",
            "Free some space or check the folder's permissions, then make all maps again: it continues from here.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        dataset.index.mark_maps(finished)
        weights.free()
    return _merge(group.gather(BatchReport(made, kept, failures, warnings)))


def _merge(reports: Sequence[BatchReport]) -> BatchReport:
    """The common report of several processes."""
    made, kept = sum(report.made for report in reports), sum(report.kept for report in reports)
    failures = [problem for report in reports for problem in report.failures]
    return BatchReport(made, kept, failures, [problem for report in reports for problem in report.warnings])


class _Worker:
    """Makes and writes the maps of a batch of samples. Called from several threads at once."""

    def __init__(
        self, dataset: Dataset, condition: ConditionType, spec: ConditionSpec, token: CancelToken | None
    ) -> None:
        self._dataset, self._condition, self._spec, self._token = dataset, condition, spec, token
        self._states = dataset.index.map_states()
        self._batch = AdaptiveBatch(BATCH, smallest=2)  # single images go through the extractor
        self._model = threading.Lock()  # one batch at a time; meanwhile other threads read and write files

    def __call__(self, samples: Sequence[Sample]) -> list[_Outcome]:
        outcomes: dict[str, _Outcome] = {}
        images: list[tuple[Sample, str, np.ndarray]] = []
        for sample in samples:
            outcomes[sample.key] = self._guarded(sample, partial(self._read, sample, images))
        for sample, content, map in self._maps(images, outcomes):
            outcomes[sample.key] = self._guarded(sample, partial(self._write, sample, content, map))
        return [outcomes[sample.key] for sample in samples]

    def _read(self, sample: Sample, into: list[tuple[Sample, str, np.ndarray]]) -> None:
        content = _digest_now(self._dataset, sample)
        known = self._states.get(sample.key) == (self._spec.fingerprint, content)
        if not known or not self._dataset.condition_path(sample).exists():
            into.append((sample, content, read_image(sample.image, self._spec.resolution, sample.old_ground)))

    def _maps(
        self, images: list[tuple[Sample, str, np.ndarray]], outcomes: dict[str, _Outcome]
    ) -> Iterator[tuple[Sample, str, np.ndarray]]:
        """Makes the maps, in batches if the type can. After an error one by one, to find out which image caused it."""
        done = 0
        several = len(images) > 1 and self._batch.size > 1
        if several and self._condition.batcher is not None and self._spec.varied is None:
            # Errors are handled below, where single calls show which image they belong to.
            with contextlib.suppress(*_FAILURES):
                for maps in self._batch.over(images, self._extract_batch):
                    some = images[done : done + len(maps)]
                    done += len(maps)
                    yield from ((sample, content, map) for (sample, content, _), map in zip(some, maps, strict=True))
        for sample, content, image in images[done:]:
            values = variation.varied(self._condition, self._spec.parameters, self._spec.varied, sample.key)
            made: list[np.ndarray] = []  # stays empty on failure
            outcomes[sample.key] = self._guarded(sample, partial(self._extract_one, image, values, made))
            yield from ((sample, content, map) for map in made)

    def _extract_batch(self, images: Sequence[tuple[Sample, str, np.ndarray]]) -> Sequence[np.ndarray]:
        return self._call(self._condition.maps_of, [image for _, _, image in images], self._spec.parameters)

    def _extract_one(self, image: np.ndarray, values: Mapping[str, Any], into: list[np.ndarray]) -> None:
        into.append(self._call(self._condition.map_of, image, values))

    def _call(self, function: Any, images: Any, values: Mapping[str, Any]) -> Any:
        with self._model if self._condition.models else contextlib.nullcontext():
            return function(images, values, self._token)

    def _write(self, sample: Sample, content: str, map: np.ndarray) -> _Made:
        values = variation.varied(self._condition, self._spec.parameters, self._spec.varied, sample.key)
        two_level = self._condition.two_level
        path = self._dataset.map_path(sample, self._condition.name)
        map_files.write(path, map, self._condition.name, values, two_level)
        remove_file(path.with_suffix(".png" if path.suffix == ".webp" else ".webp"))  # another type's map
        return _Made(sample.key, content, coverage(map[::2, :, 0] if two_level else map[::2])["warning"])

    def _guarded(self, sample: Sample, work: Callable[[], _Made | None]) -> _Outcome:
        try:
            return work()
        except UserError as error:
            return Problem(sample.image, error.what, error.why, error.try_this)
        except OSError:
            raise  # a fault of the disk, not of the image
        except _FAILURES as error:
            if is_device_lost(error):
                raise  # the other images would fail in the same way
            what, short = f"No map could be made from {sample.image.name}.", is_out_of_memory(error)
            why, advice = f"{self._condition.title} failed: {error}.", "Check the image, or leave it out."
        if short:
            free_memory()
            why = f"{self._condition.title}: there is not enough memory, even for one image at a time."
            advice = (
                "Close other programs that use the graphics card, then make all maps again. It continues from here."
            )
        return Problem(sample.image, what, why, advice)


_FAILURES = (UserError, cv2.error, ValueError, MemoryError, RuntimeError)  # RuntimeError: from torch


def read_image(path: Path, resolution: int | None, old_ground: bool = False) -> np.ndarray:
    """Reads an image for an extractor: RGB uint8 (h, w, 3), scaled down to a shorter side of ``resolution`` pixels."""
    image = load_array(path, resolution, old_ground)
    height, width = image.shape[:2]
    if resolution is None or min(height, width) <= resolution:
        return image
    scale = resolution / min(height, width)
    size = (round(width * scale), round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def map_batches(samples: Iterator[Sample], most: int, resolution: int | None) -> Iterator[list[Sample]]:
    """Batches of ``most`` samples, fewer if they are large."""
    batch: list[Sample] = []
    pixels = 0.0
    for sample in samples:
        scale = min(1.0, resolution / max(1, min(sample.width, sample.height))) if resolution else 1.0
        size = sample.width * sample.height * scale**2
        if batch and (len(batch) == most or pixels + size > BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0.0
        batch.append(sample)
        pixels += size
    if batch:
        yield batch


def _paged(dataset: Dataset, size: int = 256) -> Iterator[Sample]:
    """All samples, with one page in memory at a time."""
    offset = 0
    while page := dataset.samples(offset, size):
        yield from page
        offset += size


def _digest_now(dataset: Dataset, sample: Sample) -> str:
    """The image's digest. Reads the file, and updates the index, only if its size or time has changed."""
    try:
        state = sample.image.stat()
    except OSError as error:
        raise UserError(
            f"{sample.image.name} is no longer there.",
            f"The system says: {error.strerror}.",
            "Read the folder again on the Dataset tab.",
        ) from error
    if (state.st_size, state.st_mtime_ns) == (sample.bytes, sample.mtime_ns) and sample.digest:
        return sample.digest
    content = digest(sample.image)
    dataset.index.update_file(sample.key, content, state.st_size, state.st_mtime_ns)
    return content
