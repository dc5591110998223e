"""A dataset on disk: dataset.json describes it, index.sqlite has a row for each image. The maps are in its folder."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from engine.conditions import registry
from engine.data import index, moved
from engine.data.caption_store import CaptionStore
from engine.data.decisions import DecisionStore
from engine.data.description import (
    DESCRIPTION,
    FIRST_GROUNDS,
    INDEX,
    ConditionSpec,
    read_description,
    specify,
    write_description,
)
from engine.data.file_usage import FileUsage
from engine.data.indexing import index_source
from engine.data.samples import Page, Problem, Sample, Split, split
from engine.data.scan import ScanReport
from engine.errors import UserError

LONGEST_NAME = 250  # bytes; most systems allow 255
WEBP_LIMIT = 16_383  # longest side of a WebP file, in pixels


class HasDatasets(Protocol):
    """The part of the workspace that this module needs."""

    def dataset_folder(self, name: str) -> Path: ...


class Dataset:
    """A dataset. Thread-safe. The description is read once: open it again to see what another job has changed."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder = folder
        self.index = index.Index(folder / INDEX)
        self.decisions = DecisionStore(folder)
        self.captions = CaptionStore(folder)
        self._description = description

    @classmethod
    def create(cls, workspace: HasDatasets, name: str, report: ScanReport, source: Path | str | None = None) -> Dataset:
        """Creates a dataset, or updates an existing one with the same source. Finished maps are kept."""
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
        read: Callable[[index.IndexWriter], Iterable[Sample | Problem]],
        made_by: Callable[[bool], tuple[str | None, dict[str, Any]]],
        origin: str = "",
        about: Callable[[], dict[str, Any]] = dict,
    ) -> Dataset:
        """Like ``create``, but streams samples into the index. Readers see the old index until the end.

        Args:
            read: yields samples and problems. Gets the index's cache of what was read before.
            made_by: type and parameters of the maps that came with the images. Gets whether there are any.
            origin: where the images in ``source`` were fetched from, as text. Empty: they are the user's own files.
            about: more entries of dataset.json, asked for when everything was read.

        Raises:
            UserError: the name is taken, nothing can be used, or the workspace is not writable.
        """
        source = source.absolute()
        folder = Path(workspace.dataset_folder(name))
        before = cls.check_name(folder, source, origin)
        try:
            description = index_source(folder, source, layout, read, made_by, before)
            dataset = cls(folder, {"name": name, **description, "origin": origin, **about()})
            dataset._save()
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"The dataset {name} could not be written.",
                f"The system says: {getattr(error, 'strerror', None) or error} ({folder}).",
                "Check that the workspace's disk has free space and is writable, or choose another with --workspace.",
            ) from error
        return dataset

    @classmethod
    def check_name(cls, folder: Path, source: Path, origin: str = "") -> dict[str, Any]:
        """The description of an existing dataset of this name. Empty if there is none.

        Raises UserError if it was made from another source.
        """
        if not (folder / DESCRIPTION).exists():
            return {}
        dataset = cls.open(folder)
        before = dataset._description
        if before.get("origin", "") == origin and moved.lies_at(dataset.source, dataset.index, source):
            return before
        if Path(before["source"]) != source or before.get("origin", "") != origin:
            raise UserError(
                f"There is already a dataset named {folder.name}.",
                f"It was made from {before.get('origin') or before['source']}.",
                "Choose another name, or delete the old dataset first.",
            )
        return before

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Opens a dataset, at once even if it is large. Raises UserError if the folder is no dataset or is damaged."""
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
        """Where the images were fetched from, as text. Empty: ``source`` is the user's own folder."""
        return str(self._description.get("origin", ""))

    @property
    def roles(self) -> dict[str, str]:
        """The roles that the user assigned to parts of the folder, by name. Empty: none."""
        return dict(self._description.get("roles", {}))

    @property
    def file_usage(self) -> FileUsage | None:
        """How every file of the folder was used. None for datasets of earlier versions."""
        kept = self._description.get("account")
        return FileUsage.from_dict(kept) if kept else None

    @property
    def old_ground(self) -> bool:
        """Whether transparent parts are read as earlier versions did, see ``Sample.old_ground``."""
        return bool(self._description.get("grounds", FIRST_GROUNDS) == FIRST_GROUNDS)

    @property
    def layout(self) -> str:
        return str(self._description["layout"])

    @property
    def fingerprint(self) -> str:
        """A hash of keys, file contents, captions and the maps that came along. Copying files does not change it.

        Exclusions, corrections and edited captions change it, too; undoing them restores it.
        """
        scanned = str(self._description["fingerprint"])
        made_here = [self.decisions.current.stamp, self.captions.digest()]
        if not any(made_here):
            return scanned
        return hashlib.blake2b(":".join([scanned, *made_here]).encode(), digest_size=16).hexdigest()

    @property
    def condition(self) -> ConditionSpec | None:
        stored = self._description.get("condition")
        if not stored:
            return None
        parameters = registry.stored_parameters(stored["type"], stored["parameters"])
        return ConditionSpec(**{**stored, "parameters": parameters})

    def like_its_maps(self, type: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the parameters for more maps of a type: those newer than the dataset's maps keep their values."""
        spec = self.condition
        if spec is None or spec.type != type:
            return dict(given)
        added = registry.stored_parameters(type, {})
        return {name: spec.parameters[name] for name in added} | dict(given)

    def usual_side(self) -> int:
        """The median of the images' shorter sides, in pixels. 0 for an empty dataset."""
        return self.index.usual_side()

    def set_condition(
        self,
        type: str,
        parameters: Mapping[str, Any] | None = None,
        fingerprint: str | None = None,
        resolution: int | None = None,
        varied: int | None = None,
    ) -> ConditionSpec:
        """Chooses the maps to train on. Types without an extractor use the maps that came with the images."""
        provided = registry.get(type).extract is None
        if provided and not any(sample.condition for sample in self.samples(0, 1)):
            raise UserError(
                "This dataset came without condition maps.",
                "Only images were found in its folder.",
                "Choose a condition type that makes maps, such as canny.",
            )
        spec = specify(type, parameters or {}, provided, resolution, fingerprint, varied)
        self._description["condition"] = asdict(spec)
        self._save()
        return spec

    def condition_path(self, sample: Sample) -> Path:
        """Path of the sample's map, which may not exist yet. Raises UserError if no type was chosen yet."""
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
        earlier = wanted.with_suffix(".webp")  # earlier versions wrote types with two levels as WebP
        return earlier if wanted.suffix == ".png" and earlier.exists() and not wanted.exists() else wanted

    def map_path(self, sample: Sample, type: str) -> Path:
        """Path for a map of this type. Maps with one bit per pixel are PNGs: faster than WebP, and as small."""
        large = max(sample.width, sample.height) > WEBP_LIMIT
        ending = ".png" if large or registry.get(type).two_level else ".webp"
        place, name = self.folder / "conditions" / sample.key, f"{Path(sample.key).name}{ending}"
        if len(name.encode("utf-8")) > LONGEST_NAME:
            name = f"{name[:40]}-{hashlib.blake2b(sample.key.encode(), digest_size=8).hexdigest()}{ending}"
        return place.with_name(name)

    def count(self, ready: bool = False) -> int:
        """Number of samples. ``ready``: only of those whose map exists."""
        return self.index.count(self.decisions.without_excluded(self._ready() if ready else index.EVERY))

    def count_smaller(self, side: int) -> int:
        """Number of samples whose shorter side has fewer pixels than this."""
        return self.index.count(self.decisions.without_excluded(index.smaller_than(side)))

    def samples(self, offset: int = 0, limit: int | None = None, ready: bool = False) -> list[Sample]:
        """Samples in the scan's order, read from disk by this call.

        They have their edited captions and corrections, and excluded ones are missing.
        """
        where = self.decisions.without_excluded(self._ready() if ready else index.EVERY)
        found = self._with_changes(self.index.samples(offset, limit, where))
        return [self.decisions.apply(sample) for sample in found]

    def sample(self, key: str) -> Sample:
        """One sample by its key, with its corrections, even if it is excluded. Raises KeyError."""
        return self.decisions.apply(self.untreated(key))

    def untreated(self, key: str) -> Sample:
        """One sample by its key, without the corrections of the dataset check. Raises KeyError."""
        return self._with_changes([self.index.sample(key)])[0]

    def _with_changes(self, samples: list[Sample]) -> list[Sample]:
        return [replace(s, old_ground=True) if self.old_ground else s for s in self.captions.overlay(samples)]

    def page(self, number: int, size: int = 24) -> Page:
        """One page of samples. A number out of range gives the nearest page."""
        total = self.count()
        pages = max(1, -(-total // size))
        number = min(max(number, 0), pages - 1)
        return Page(self.samples(number * size, size), number, pages, total)

    def problem_count(self) -> int:
        return self.index.count_problems()

    def problems(self, offset: int = 0, limit: int | None = None) -> list[Problem]:
        """The files that the scan could not use."""
        return self.index.problems(offset, limit)

    def held_out(self, count: int, seed: int = 0) -> Split:
        """Splits the samples that have a map (all, if no type was chosen yet) by a hash of seed and key.

        The choice depends neither on the order of samples nor on other images. At most half is held out.
        """
        return split(self.samples(ready=self.condition is not None), count, seed)

    def _ready(self) -> tuple[str, tuple[str, ...]]:
        spec = self.condition
        if spec is None:
            return index.NONE
        return index.WITH_OWN_MAP if spec.provided else index.with_map_by(spec.fingerprint)

    def _save(self) -> None:
        write_description(self.folder, self._description)
