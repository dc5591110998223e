"""Makes all condition maps of a dataset: a background job over all cores that can be stopped and taken up again."""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from engine.conditions import registry
from engine.conditions.coverage import coverage
from engine.data.dataset import Dataset
from engine.data.images import digest, load_rgb, replace_bytes
from engine.data.samples import CancelToken, Problem, Progress, Sample
from engine.errors import UserError

SAVE_EVERY = 64  # finished maps between two entries in the index
SAVE_SECONDS = 2.0


@dataclass(frozen=True)
class BatchReport:
    """How a run ended. ``warnings`` name maps that were made but look nearly empty or nearly full."""

    made: int
    kept: int
    failures: list[Problem]
    warnings: list[Problem]


@dataclass(frozen=True)
class _Made:
    key: str
    digest: str
    warning: str


def make_all(
    dataset: Dataset,
    type: str,
    parameters: Mapping[str, Any] | None = None,
    token: CancelToken | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    resolution: int | None = None,
) -> BatchReport:
    """Writes every sample's map to ``dataset.condition_path`` and makes the type the dataset's own.

    A map is kept when it was made by the same type, parameters and resolution from the same picture; so a second call
    does only what changed, and a call after a stop goes on where it stopped. ``resolution``: pictures whose shorter
    side is larger, in pixels, are shrunk to it first (edges are as wide as the net will see them). Files that fail are
    reported and passed over. Raises what the token raises; UserError for bad parameters or a full disk.
    """
    condition = registry.get(type)
    spec = dataset.set_condition(type, parameters, resolution=resolution)
    total = dataset.count()
    if spec.provided:
        return BatchReport(0, total, [], [])
    states = dataset.index.map_states()
    failures: list[Problem] = []
    warnings: list[Problem] = []
    made = kept = 0
    extract = condition.extractor
    workers = workers or os.cpu_count() or 1

    def work(sample: Sample) -> _Made | Problem | None:
        target = dataset.condition_path(sample)
        try:
            content = _digest_now(dataset, sample)
            if states.get(sample.key) == (spec.fingerprint, content) and target.exists():
                return None
            picture = np.asarray(_shrunk(load_rgb(sample.image), resolution))
            result = extract(picture, **spec.parameters)
            replace_bytes(target, _encode(result, target))
        except UserError as error:
            return Problem(sample.image, error.what, error.why, error.try_this)
        except (cv2.error, ValueError, MemoryError) as error:
            return Problem(
                sample.image,
                f"No map could be made of {sample.image.name}.",
                f"{condition.title} failed: {error}.",
                "Look at the picture, or leave it out.",
            )
        return _Made(sample.key, content, coverage(result)["warning"])

    finished: list[tuple[str, str, str]] = []
    saved = time.monotonic()
    waiting: deque[tuple[Sample, Future[_Made | Problem | None]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="maps")  # Pillow and OpenCV work outside Python's lock
    try:
        todo = _paged(dataset)
        for done in range(total):
            if token:
                token.raise_if_cancelled()
            while len(waiting) < 4 * workers and (sample := next(todo, None)):
                waiting.append((sample, pool.submit(work, sample)))
            if not waiting:
                break  # the index shrank under us: a new scan of the same folder
            sample, future = waiting.popleft()
            result = future.result()
            if isinstance(result, _Made):
                made += 1
                finished.append((result.key, spec.fingerprint, result.digest))
                if result.warning:
                    warnings.append(Problem(sample.image, result.warning, "", "Look at it on the Conditions tab."))
            elif isinstance(result, Problem):
                failures.append(result)
            else:
                kept += 1
            if len(finished) >= SAVE_EVERY or time.monotonic() - saved > SAVE_SECONDS:
                dataset.index.mark_maps(finished)
                finished.clear()
                saved = time.monotonic()
            if progress:
                progress(done + 1, total, sample.key)
    except OSError as error:
        raise UserError(
            f"The maps cannot be written to {dataset.folder}.",
            f"The system says: {error.strerror or error}.",
            "Free some space or check the folder's permissions, then make all maps again: it goes on from here.",
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        dataset.index.mark_maps(finished)
    return BatchReport(made, kept, failures, warnings)


def _paged(dataset: Dataset, size: int = 256) -> Iterator[Sample]:
    """All samples, a page in memory at a time."""
    offset = 0
    while page := dataset.samples(offset, size):
        yield from page
        offset += size


def _digest_now(dataset: Dataset, sample: Sample) -> str:
    """The picture's digest; read anew, and noted, only where size or time of the file differ from the index."""
    try:
        state = sample.image.stat()
    except OSError as error:
        raise UserError(
            f"{sample.image.name} is not there any more.",
            f"The system says: {error.strerror}.",
            "Scan the folder again on the Dataset tab.",
        ) from error
    if (state.st_size, state.st_mtime_ns) == (sample.bytes, sample.mtime_ns) and sample.digest:
        return sample.digest
    content = digest(sample.image)
    dataset.index.update_file(sample.key, content, state.st_size, state.st_mtime_ns)
    return content


def _shrunk(image: Image.Image, resolution: int | None) -> Image.Image:
    if resolution is None or min(image.size) <= resolution:
        return image
    scale = resolution / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _encode(map: np.ndarray, target: Path) -> bytes:
    """Lossless; the effort is low because more of it takes twice as long and saves nothing on line maps."""
    buffer = io.BytesIO()
    if target.suffix == ".webp":
        Image.fromarray(map).save(buffer, "WEBP", lossless=True, method=1, quality=25)
    else:
        Image.fromarray(map).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
