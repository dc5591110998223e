"""A dataset on disk: dataset.json (what it is) and index.sqlite (one row a picture), beside the maps made for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from engine.conditions import registry
from engine.data import index
from engine.data.caption_store import CaptionStore
from engine.data.images import replace_bytes
from engine.data.samples import Problem, Sample
from engine.data.scan import ScanReport
from engine.errors import UserError

DESCRIPTION = "dataset.json"
INDEX = "index.sqlite"
WEBP_LIMIT = 16_383  # longest side of a WebP file, in pixels


class HasDatasets(Protocol):
    """The part of the workspace that is needed here."""

    def dataset_folder(self, name: str) -> Path: ...


@dataclass(frozen=True)
class ConditionSpec:
    """Which maps a dataset has. ``fingerprint`` changes with the type, its parameters and the resolution."""

    type: str
    parameters: dict[str, Any]
    fingerprint: str
    provided: bool = False
    """The maps came with the pictures; otherwise they are in the dataset's own folder."""
    resolution: int | None = None
    """Shorter side, in pixels, that pictures were shrunk to before extraction; None: their own size."""


@dataclass(frozen=True)
class Page:
    """One page of samples; ``number`` counts from 0."""

    samples: list[Sample]
    number: int
    pages: int
    total: int


@dataclass(frozen=True)
class Split:
    """Disjoint samples to train on and to test with."""

    train: list[Sample]
    held_out: list[Sample]


class Dataset:
    """Any thread may use the object. The description is read once: open anew to see what another job changed."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder = folder
        self.index = index.Index(folder / INDEX)
        self.captions = CaptionStore(folder)
        self._description = description

    @classmethod
    def create(cls, workspace: HasDatasets, name: str, report: ScanReport, source: Path | str | None = None) -> Dataset:
        """Writes a new dataset, or brings one with the same source up to date; its finished maps are kept."""
        source = Path(source or report.source).absolute()
        folder = Path(workspace.dataset_folder(name))
        before: dict[str, Any] = {}
        if (folder / DESCRIPTION).exists():
            before = cls.open(folder)._description
            if Path(before["source"]) != source:
                raise UserError(
                    f"There is a dataset named {name} already.",
                    f"It was made from {before['source']}.",
                    "Choose another name, or delete the old dataset first.",
                )
        folder.mkdir(parents=True, exist_ok=True)
        index.Index(folder / INDEX).write(report.samples, report.problems)
        condition = before.get("condition")
        if report.condition_type and (condition is None or condition["provided"]):
            condition = asdict(_specify(report.condition_type, report.condition_parameters, provided=True))
        elif condition and condition["provided"]:
            condition = None  # the maps that came with the pictures are gone
        now = datetime.now(UTC).isoformat(timespec="seconds")
        description = {
            "name": name,
            "source": str(source),
            "layout": report.layout,
            "count": len(report.samples),
            "fingerprint": _fingerprint(report.samples),
            "condition": condition,
            "created": before.get("created", now),
            "updated": now,
        }
        dataset = cls(folder, description)
        dataset._save()
        return dataset

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Opens at once, whatever the size. Raises UserError where the folder is no dataset or is damaged."""
        folder = Path(folder)
        try:
            description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            if not isinstance(description, dict) or not {"name", "source", "fingerprint"} <= description.keys():
                raise ValueError("entries are missing")
            if not (folder / INDEX).exists():
                raise FileNotFoundError(INDEX)
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} is not a dataset.",
                f"{DESCRIPTION} or {INDEX} is missing.",
                "Scan the picture folder again on the Dataset tab.",
            ) from error
        except ValueError as error:
            raise UserError(
                f"The dataset in {folder} is damaged.",
                f"{DESCRIPTION} cannot be read ({error}).",
                "Scan the picture folder again on the Dataset tab.",
            ) from error
        return cls(folder, description)

    @property
    def name(self) -> str:
        return str(self._description["name"])

    @property
    def source(self) -> Path:
        return Path(self._description["source"])

    @property
    def layout(self) -> str:
        return str(self._description["layout"])

    @property
    def fingerprint(self) -> str:
        """Changes with keys, file contents, captions and maps that came along; not with copying or touching files."""
        scanned, edits = str(self._description["fingerprint"]), self.captions.digest()
        return hashlib.blake2b(f"{scanned}:{edits}".encode(), digest_size=16).hexdigest() if edits else scanned

    @property
    def condition(self) -> ConditionSpec | None:
        stored = self._description.get("condition")
        return ConditionSpec(**stored) if stored else None

    def set_condition(
        self,
        type: str,
        parameters: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
        resolution: int | None = None,
    ) -> ConditionSpec:
        """Chooses the maps to train on; types without an extractor use those that came with the pictures."""
        provided = registry.get(type).extract is None
        if provided and not any(sample.condition for sample in self.samples(0, 1)):
            raise UserError(
                "This dataset has no condition maps of its own.",
                "Only pictures were found in its folder.",
                "Choose a condition type that makes maps, such as canny.",
            )
        spec = _specify(type, parameters or {}, provided, resolution, fingerprint)
        self._description["condition"] = asdict(spec)
        self._save()
        return spec

    def condition_path(self, sample: Sample) -> Path:
        """Where the sample's map is, or will be once it is made. Raises UserError before a type is chosen."""
        spec = self.condition
        if spec is None:
            raise UserError(
                f"The dataset {self.name} has no condition maps yet.",
                "No condition type was chosen.",
                "Choose one on the Conditions tab and make all maps.",
            )
        if spec.provided and sample.condition is not None:
            return sample.condition
        ending = ".webp" if max(sample.width, sample.height) <= WEBP_LIMIT else ".png"
        return self.folder / "conditions" / f"{sample.key}{ending}"

    def count(self, ready: bool = False) -> int:
        """How many samples there are; with ``ready`` only those whose map is there."""
        return self.index.count(self._ready() if ready else index.EVERY)

    def samples(self, offset: int = 0, limit: int | None = None, ready: bool = False) -> list[Sample]:
        """Samples in the scan's order with their edited captions, read from disk for this call alone."""
        return self.captions.overlay(self.index.samples(offset, limit, self._ready() if ready else index.EVERY))

    def sample(self, key: str) -> Sample:
        """One sample by its key. Raises KeyError."""
        return self.captions.overlay([self.index.sample(key)])[0]

    def page(self, number: int, size: int = 24) -> Page:
        """A page for the window; a number out of range gives the nearest page."""
        total = self.count()
        pages = max(1, -(-total // size))
        number = min(max(number, 0), pages - 1)
        return Page(self.samples(number * size, size), number, pages, total)

    def problems(self, offset: int = 0, limit: int | None = None) -> list[Problem]:
        """What the scan could not use."""
        return self.index.problems(offset, limit)

    def held_out(self, count: int, seed: int = 0) -> Split:
        """Samples that have a map (all, before a type is chosen), split by a hash of seed and key.

        The choice depends neither on the order nor on the other pictures' presence. At most half is held out.
        """
        usable = self.samples(ready=self.condition is not None)
        ranked = sorted(usable, key=lambda s: hashlib.blake2b(f"{seed}:{s.key}".encode(), digest_size=8).digest())
        chosen = {sample.key for sample in ranked[: min(count, len(usable) // 2)]}
        train = [sample for sample in usable if sample.key not in chosen]
        return Split(train, [sample for sample in usable if sample.key in chosen])

    def _ready(self) -> tuple[str, tuple[str, ...]]:
        spec = self.condition
        if spec is None:
            return index.NONE
        return index.WITH_OWN_MAP if spec.provided else index.with_map_by(spec.fingerprint)

    def _save(self) -> None:
        text = json.dumps(self._description, indent=2, ensure_ascii=False)
        replace_bytes(self.folder / DESCRIPTION, text.encode("utf-8"))


def _specify(
    type: str,
    parameters: Mapping[str, Any],
    provided: bool,
    resolution: int | None = None,
    fingerprint: str | None = None,
) -> ConditionSpec:
    resolved = registry.resolve_parameters(type, parameters)
    made_of = json.dumps([type, resolved, provided, resolution], sort_keys=True)
    fingerprint = fingerprint or hashlib.blake2b(made_of.encode(), digest_size=16).hexdigest()
    return ConditionSpec(type, resolved, fingerprint, provided, resolution)


def _fingerprint(samples: Iterable[Sample]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for sample in samples:
        state.update(json.dumps([sample.key, sample.digest, sample.condition_digest, sample.caption]).encode())
    return state.hexdigest()
