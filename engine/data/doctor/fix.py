"""Acts on findings: excludes images, writes corrected copies into the dataset's folder, undoes both.

The user's own files are only read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from engine.data.dataset import WEBP_LIMIT, Dataset
from engine.data.decisions import Correction
from engine.data.doctor import captions, pairs
from engine.data.doctor.alignment import TURNS, UNDO
from engine.data.doctor.catalogue import BY_NAME, SEVERITIES
from engine.data.doctor.check_store import CheckStore
from engine.data.doctor.facts import MapFacts
from engine.data.doctor.finding import Finding, Hit
from engine.data.samples import Sample
from engine.disk.durable import atomic_write_bytes
from engine.disk.images import digest, load_map, load_rgb
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

FOLDER = "corrected"
BATCH = 64
NEAR_GROUND = 40  # grey values; JPEG artefacts around lines stay within this distance of the background


@dataclass(frozen=True)
class FindingState:
    """A finding with the number of its open, excluded and corrected hits."""

    finding: Finding
    open: int
    excluded: int
    corrected: int

    @property
    def total(self) -> int:
        return self.open + self.excluded + self.corrected


def states(dataset: Dataset) -> list[FindingState]:
    """All findings of the last check that have hits or decisions, the serious ones first."""
    store = CheckStore(dataset.folder)
    if not store.exists:
        return []
    decisions, counts = dataset.decisions.current, store.counts()
    excluded = _count(decisions.excluded.values())
    corrected = _count(correction.finding for correction in decisions.corrections.values())
    found = []
    for name, finding in BY_NAME.items():
        left = counts.get(name, 0)
        if left and (excluded or corrected):
            left = len(open_hits(dataset, finding))
        state = FindingState(finding, left, excluded.get(name, 0), corrected.get(name, 0))
        if state.total:
            found.append(state)
    return sorted(found, key=lambda state: SEVERITIES.index(state.finding.severity))


def open_hits(dataset: Dataset, finding: Finding) -> list[Hit]:
    """The hits of a finding for which nothing was decided yet."""
    decisions = dataset.decisions.current
    done = {c.key for c in decisions.corrections.values() if c.finding == finding.name}
    hits = CheckStore(dataset.folder).hits(finding.name)
    return [hit for hit in hits if hit.key not in decisions.excluded and hit.key not in done]


def decided_hits(dataset: Dataset, finding: Finding) -> list[Hit]:
    """The images that were excluded or corrected for a finding, with the decision as detail."""
    decisions = dataset.decisions.current
    out = [Hit(finding.name, key, "left out") for key, name in decisions.excluded.items() if name == finding.name]
    made = [c.key for c in decisions.corrections.values() if c.finding == finding.name]
    return sorted([*out, *(Hit(finding.name, key, "corrected") for key in made)], key=lambda hit: hit.key)


def exclude(dataset: Dataset, finding: Finding) -> int:
    """Excludes the open hits of a finding. Returns how many. Raises UserError if there is nothing to exclude."""
    if not finding.excludable:
        why = "These files are not used anyway." if finding.unusable else "It concerns the whole dataset."
        raise UserError(f"{finding.title}: nothing was done.", why, finding.what_to_do)
    keys = [hit.key for hit in open_hits(dataset, finding)]
    dataset.decisions.exclude(keys, finding.name)
    return len(keys)


def undo(dataset: Dataset, finding: Finding) -> int:
    """Undoes the decisions made for a finding. Returns how many there were."""
    return dataset.decisions.undo(finding.name)


def correct(
    dataset: Dataset, finding: Finding, token: CancelToken | None = None, progress: OnProgress | None = None
) -> int:
    """Writes corrected copies for the open hits of a finding. Returns how many.

    Raises UserError for a finding that has no correction, for maps that the app makes itself, and for files that cannot
    be read or written.
    """
    if finding.correct is None:
        raise UserError(
            f"{finding.title}: this cannot be corrected automatically.",
            "The right content is unknown.",
            finding.what_to_do,
        )
    if finding.correct == "map" and (dataset.condition is None or not dataset.condition.provided):
        raise UserError(
            f"{finding.title}: nothing was done.",
            "These maps were made by the app.",
            "Make all maps again on the Conditions tab.",
        )
    hits = open_hits(dataset, finding)
    store = CheckStore(dataset.folder)
    made: list[Correction] = []
    try:
        for number, hit in enumerate(hits, 1):
            if token:
                token.raise_if_cancelled()
            correction = _corrected(dataset, store, finding, hit)
            if correction:
                made.append(correction)
            if progress:
                progress(number, len(hits), hit.key)
            if len(made) % BATCH == BATCH - 1:
                dataset.decisions.correct(made)
    finally:
        dataset.decisions.correct(made)  # also after a stop
    return len(made)


def _corrected(dataset: Dataset, store: CheckStore, finding: Finding, hit: Hit) -> Correction | None:
    try:
        original = dataset.untreated(hit.key)
    except KeyError:
        return None  # it has been deleted since the check
    sample = dataset.sample(hit.key)
    if finding.correct == "caption":
        text = captions.corrected(sample.caption)
        return Correction(hit.key, "caption", original.caption, text, "", 0, 0, finding.name)
    if finding.correct == "picture":
        return _write(
            dataset,
            original.digest,
            sample,
            "picture",
            np.asarray(load_rgb(sample.image, old_ground=sample.old_ground)),
            finding,
        )
    facts = store.measured([hit.key])[hit.key][1]
    if facts is None or sample.condition is None or facts.digest != sample.condition_digest:
        return None  # it was corrected for another reason since the check, so its measurements are outdated
    map = _MAP_FIXES[finding.name](np.asarray(load_map(sample.condition, sample.old_ground)), facts)
    return _write(dataset, original.condition_digest, sample, "map", map, finding)


def _write(
    dataset: Dataset, original: str, sample: Sample, part: str, pixels: np.ndarray, finding: Finding
) -> Correction:
    """Writes a lossless copy, named after the sample's key."""
    buffer = io.BytesIO()
    ending = ".webp" if max(pixels.shape) <= WEBP_LIMIT else ".png"
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if ending == ".webp":
        image.save(buffer, "WEBP", lossless=True, method=1, quality=25)
    else:
        image.save(buffer, "PNG", compress_level=1)
    relative = Path(FOLDER) / f"{part}s" / f"{sample.key}{ending}"
    target = dataset.folder / relative
    try:
        atomic_write_bytes(target, buffer.getvalue(), unique=True)
        facts = target.stat()
    except OSError as error:
        raise UserError(
            f"The corrected copy of {sample.key} cannot be written.",
            f"The system says: {error.strerror or error}.",
            "Free some space or check the permissions of the dataset's folder.",
        ) from error
    name = relative.as_posix()
    return Correction(sample.key, part, original, name, digest(target), facts.st_size, facts.st_mtime_ns, finding.name)


def _inverted(map: np.ndarray, facts: MapFacts) -> np.ndarray:
    return 255 - map


def _stretched(map: np.ndarray, facts: MapFacts) -> np.ndarray:
    return np.clip(np.round(map * (255 / max(1, facts.brightest))), 0, 255).astype(np.uint8)


def _turned(map: np.ndarray, facts: MapFacts) -> np.ndarray:
    turn = TURNS[UNDO[str(facts.alignment["turn"])]]
    return np.stack([turn(map[..., channel]) for channel in range(3)], axis=-1)


def _shifted(map: np.ndarray, facts: MapFacts) -> np.ndarray:
    """Shifts back by whole pixels, so that hard lines stay hard. Fills the border with background."""
    dx, dy = round(float(facts.alignment["dx"])), round(float(facts.alignment["dy"]))
    matrix = np.array([[1, 0, -dx], [0, 1, -dy]], np.float64)
    border = cv2.BORDER_CONSTANT if facts.lines else cv2.BORDER_REPLICATE
    ground = (_ground(map),) * 3
    size = (map.shape[1], map.shape[0])
    return cv2.warpAffine(map, matrix, size, flags=cv2.INTER_NEAREST, borderMode=border, borderValue=ground)


def _lossless(map: np.ndarray, facts: MapFacts) -> np.ndarray:
    """Sets values close to the background to the background, and values close to full strength to full strength."""
    grey = cv2.cvtColor(map, cv2.COLOR_RGB2GRAY).astype(np.int16)
    ground = _ground(map)
    grey[np.abs(grey - ground) <= NEAR_GROUND] = ground
    grey[np.abs(grey - (255 - ground)) <= NEAR_GROUND] = 255 - ground
    return cv2.cvtColor(grey.astype(np.uint8), cv2.COLOR_GRAY2RGB)


def _ground(map: np.ndarray) -> int:
    return 255 if int((map == 255).sum()) > int((map == 0).sum()) else 0


_MAP_FIXES: dict[str, Callable[[np.ndarray, MapFacts], np.ndarray]] = {
    pairs.DARK.name: _stretched,
    pairs.INVERTED.name: _inverted,
    pairs.TURNED.name: _turned,
    pairs.SHIFTED.name: _shifted,
    pairs.LOSSY.name: _lossless,
}


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
