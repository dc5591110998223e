"""A dataset on disk: dataset.json (what it is) and index.sqlite (one row an image), beside the maps made for it."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from engine.conditions import registry
from engine.data import index, moved
from engine.data.caption_store import CaptionStore
from engine.data.description import (
    DESCRIPTION,
    INDEX,
    ConditionSpec,
    read_description,
    specify,
    write_description,
)
from engine.data.samples import Page, Problem, Sample, Split, add_to_fingerprint, split
from engine.data.scan import ScanReport, nothing_usable
from engine.data.treatment import Treatment
from engine.errors import UserError

LONGEST_NAME = 250  # bytes; most systems allow 255
WEBP_LIMIT = 16_383  # longest side of a WebP file, in pixels


class HasDatasets(Protocol):
    """The part of the workspace that is needed here."""

    def dataset_folder(self, name: str) -> Path: ...


class Dataset:
    """Any thread may use the object. The description is read once: open anew to see what another job changed."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder = folder
        self.index = index.Index(folder / INDEX)
        self.treatment = Treatment(folder)
        self.captions = CaptionStore(folder)
        self._description = description

    @classmethod
    def create(cls, workspace: HasDatasets, name: str, report: ScanReport, source: Path | str | None = None) -> Dataset:
        """Writes a new dataset, or brings one with the same source up to date; its finished maps are kept."""
        return cls.write(
            workspace,
            name,
            Path(source or report.source),
            report.layout,
            lambda _: chain(report.samples, report.problems),
            lambda _: (report.condition_type, report.condition_parameters),
        )

    @classmethod
    def write(
        cls,
        workspace: HasDatasets,
        name: str,
        source: Path,
        layout: str,
        read: Callable[[index.Filling], Iterable[Sample | Problem]],
        made_by: Callable[[bool], tuple[str | None, dict[str, Any]]],
        origin: str = "",
    ) -> Dataset:
        """As ``create``, with what is read going into the index one at a time; until the end the old index stays.

        Args:
            read: samples and problems, given the index's memory of what was read before.
            made_by: type and parameters of the maps that came along, told whether there are any.
            origin: where the images in ``source`` were fetched from, in words; empty: they are the user's own.

        Raises:
            UserError: the name is taken, nothing can be used, or the workspace cannot be written.
        """
        source = source.absolute()
        folder = Path(workspace.dataset_folder(name))
        before = cls.check_name(folder, source, origin)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fingerprint = hashlib.blake2b(digest_size=16)
            first, paired = None, False
            with index.Index(folder / INDEX).filling() as filling:
                try:
                    for what in read(filling):
                        filling.add(what)
                        if isinstance(what, Sample):
                            add_to_fingerprint(fingerprint, what)
                            paired = paired or what.condition is not None
                        else:
                            first = first or what
                finally:
                    filling.save()  # what was read is remembered, however this ends
                if not filling.samples and first is not None:
                    raise nothing_usable(source, filling.problems, first)
                type, parameters = made_by(paired)
                count = filling.samples
                filling.finish()
            condition = before.get("condition")
            if type and (condition is None or condition["provided"]):
                condition = asdict(specify(type, parameters, provided=True))
            elif condition and condition["provided"]:
                condition = None  # the maps that came with the images are gone
            now = datetime.now(UTC).isoformat(timespec="seconds")
            description = {
                "name": name,
                "source": str(source),
                "origin": origin,
                "layout": layout,
                "count": count,
                "fingerprint": fingerprint.hexdigest(),
                "condition": condition,
                "created": before.get("created", now),
                "updated": now,
            }
            dataset = cls(folder, description)
            dataset._save()
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"The dataset {name} could not be written.",
                f"The system says: {getattr(error, 'strerror', None) or error} ({folder}).",
                "Check that the workspace's disk has room and may be written, or choose another with --workspace.",
            ) from error
        return dataset

    @classmethod
    def check_name(cls, folder: Path, source: Path, origin: str = "") -> dict[str, Any]:
        """The description of the dataset that is there already, empty for none.

        Raises UserError where it was made of something else.
        """
        if not (folder / DESCRIPTION).exists():
            return {}
        dataset = cls.open(folder)
        before = dataset._description
        if before.get("origin", "") == origin and moved.lies_at(dataset.source, dataset.index, source):
            return before
        if Path(before["source"]) != source or before.get("origin", "") != origin:
            raise UserError(
                f"There is a dataset named {folder.name} already.",
                f"It was made from {before.get('origin') or before['source']}.",
                "Choose another name, or delete the old dataset first.",
            )
        return before

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Opens at once, whatever the size. Raises UserError where the folder is no dataset or is damaged."""
        folder = Path(folder)
        description = read_description(folder)
        dataset = cls(folder, description)
        if moved.follow(folder.absolute(), description, dataset.index):
            dataset._save()
        return dataset

    @property
    def name(self) -> str:
        return str(self._description["name"])

    @property
    def source(self) -> Path:
        return Path(self._description["source"])

    @property
    def origin(self) -> str:
        """Where the images were fetched from, in words; empty: ``source`` is a folder of the user's."""
        return str(self._description.get("origin", ""))

    @property
    def layout(self) -> str:
        return str(self._description["layout"])

    @property
    def fingerprint(self) -> str:
        """Changes with keys, file contents, captions and maps that came along; not with copying or touching files.

        What was left out, corrected or edited counts as well, and changes it back when undone.
        """
        scanned = str(self._description["fingerprint"])
        made_here = [self.treatment.decisions.stamp, self.captions.digest()]
        if not any(made_here):
            return scanned
        return hashlib.blake2b(":".join([scanned, *made_here]).encode(), digest_size=16).hexdigest()

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
        varied: int | None = None,
    ) -> ConditionSpec:
        """Chooses the maps to train on; types without an extractor use those that came with the images."""
        provided = registry.get(type).extract is None
        if provided and not any(sample.condition for sample in self.samples(0, 1)):
            raise UserError(
                "This dataset has no condition maps of its own.",
                "Only images were found in its folder.",
                "Choose a condition type that makes maps, such as canny.",
            )
        spec = specify(type, parameters or {}, provided, resolution, fingerprint, varied)
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
        wanted = self.map_path(sample, spec.type)
        earlier = wanted.with_suffix(".webp")  # what an earlier version made of types with two levels
        return earlier if wanted.suffix == ".png" and earlier.exists() and not wanted.exists() else wanted

    def map_path(self, sample: Sample, type: str) -> Path:
        """Where a map of the type is written. One bit a pixel is faster as PNG than as WebP, and as small."""
        large = max(sample.width, sample.height) > WEBP_LIMIT
        ending = ".png" if large or registry.get(type).two_level else ".webp"
        place, name = self.folder / "conditions" / sample.key, f"{Path(sample.key).name}{ending}"
        if len(name.encode("utf-8")) > LONGEST_NAME:
            name = f"{name[:40]}-{hashlib.blake2b(sample.key.encode(), digest_size=8).hexdigest()}{ending}"
        return place.with_name(name)

    def count(self, ready: bool = False) -> int:
        """How many samples there are; with ``ready`` only those whose map is there."""
        return self.index.count(self.treatment.narrow(self._ready() if ready else index.EVERY))

    def samples(self, offset: int = 0, limit: int | None = None, ready: bool = False) -> list[Sample]:
        """Samples in the scan's order, read from disk for this call alone.

        With their edited captions, corrected, and without those left out.
        """
        where = self.treatment.narrow(self._ready() if ready else index.EVERY)
        found = self.captions.overlay(self.index.samples(offset, limit, where))
        return [self.treatment.applied(sample) for sample in found]

    def sample(self, key: str) -> Sample:
        """One sample by its key, corrected, also one that was left out. Raises KeyError."""
        return self.treatment.applied(self.untreated(key))

    def untreated(self, key: str) -> Sample:
        """One sample as it is without the doctor's corrections. Raises KeyError."""
        return self.captions.overlay([self.index.sample(key)])[0]

    def page(self, number: int, size: int = 24) -> Page:
        """A page for the window; a number out of range gives the nearest page."""
        total = self.count()
        pages = max(1, -(-total // size))
        number = min(max(number, 0), pages - 1)
        return Page(self.samples(number * size, size), number, pages, total)

    def problem_count(self) -> int:
        return self.index.count_problems()

    def problems(self, offset: int = 0, limit: int | None = None) -> list[Problem]:
        """What the scan could not use."""
        return self.index.problems(offset, limit)

    def held_out(self, count: int, seed: int = 0) -> Split:
        """Samples that have a map (all, before a type is chosen), split by a hash of seed and key.

        The choice depends neither on the order nor on the other images' presence. At most half is held out.
        """
        return split(self.samples(ready=self.condition is not None), count, seed)

    def _ready(self) -> tuple[str, tuple[str, ...]]:
        spec = self.condition
        if spec is None:
            return index.NONE
        return index.WITH_OWN_MAP if spec.provided else index.with_map_by(spec.fingerprint)

    def _save(self) -> None:
        write_description(self.folder, self._description)
