"""What a dataset config of another trainer says, before any other file is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.data.layouts.columns import NoWeight, weight_in
from engine.data.layouts.trainer_configs.files import Places, as_tables, text_of, texts_of, wrong_type
from engine.data.layouts.trainer_configs.lists import Entry
from engine.data.samples import MOST_WEIGHT


@dataclass(frozen=True)
class Subset:
    """One folder of images as a config describes it."""

    title: str
    images: Path | None = None
    maps: Path | None = None
    others: tuple[Path, ...] = ()
    """Folders of masks and of further maps, which are not used and hold no images of the subset."""
    deep: bool = False
    """Whether the images in the folder's own folders belong to it."""
    map_ending: str = ""
    """The map of a.png lies beside it and is named a + this ending."""
    mask_ending: str = ""
    extension: str = ""
    """The ending of the files with captions, with its dot. Empty: any."""
    caption: str = ""
    """The caption of every image."""
    captions: tuple[str, ...] = ()
    """Captions for images in turn."""
    otherwise: str = ""
    """The caption of an image that has none in a file."""
    weight: float = 1.0
    """Loss weight of its images."""
    from_names: Callable[[str], str] | None = None
    """Makes the caption from the name of the image's file."""
    entries: tuple[Entry, ...] | None = None
    """What a list says of the images."""
    only_listed: bool = False
    """Whether images that ``entries`` does not name do not belong to it."""
    lists: tuple[Path, ...] = ()
    """Files other than the config that were read."""
    why_not: str = ""
    """Why it is left out, as words after "in dogs, which": "is disabled". Empty: it is read."""
    missing: tuple[str, ...] = ()
    """Paths that are not here, as written."""

    @property
    def folders(self) -> list[Path]:
        """The folders of images and maps."""
        return [folder for folder in (self.images, self.maps) if folder is not None]


@dataclass
class Config:
    """A config while it is read: what it says, and what the user should know of it."""

    path: Path
    places: Places
    tool: str = ""
    subsets: list[Subset] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unused: set[str] = field(default_factory=set)
    """Names of settings that have a value and are not used here."""

    def text(self, entry: Mapping[str, Any], key: str) -> str:
        return text_of(entry, key, self.path)

    def weight(self, entry: Mapping[str, Any], key: str) -> float:
        """The loss weight of an entry, 1 if there is none. Raises UserError for anything else than a weight."""
        try:
            return weight_in(entry.get(key))
        except NoWeight as error:
            raise wrong_type(self.path, key, entry.get(key), f"a number from 0 to {MOST_WEIGHT:g}") from error

    def tables(self, entry: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
        return as_tables(entry.get(key), key, self.path)

    def folders(self, *written: str) -> tuple[list[Path | None], tuple[str, ...]]:
        """The folders of these paths (None for an empty one), and the paths that are not here."""
        found = [self.places.find(path) if path else None for path in written]
        return found, tuple(path for path, place in zip(written, found, strict=True) if path and place is None)

    def several(self, entry: Mapping[str, Any], keys: str, title: str) -> list[str]:
        """The values of keys that have one or several texts each, with a note if there are more than one."""
        found = [text for key in keys.split() for text in texts_of(entry, key, self.path)]
        if len(found) > 1:
            self.notes.append(f"{title} has several kinds of maps; only the first, {found[0]}, is used.")
        return found

    def present(self, *written: str) -> tuple[Path, ...]:
        """Those of the folders that are here, of which others do not matter."""
        return tuple(place for place in self.folders(*written)[0] if place is not None and place.is_dir())

    def not_used(self, entry: Mapping[str, Any], used: str) -> None:
        """Note the settings that have a value, without those in ``used`` (names with blanks between them)."""
        known = {*used.split(), *_OF_NO_INTEREST}
        self.unused |= {
            str(key)
            for key, value in entry.items()
            if key not in known
            and not str(key).endswith("_embeds")
            and (value is True or value not in _NOTHING)  # True equals 1
        }


_NOTHING: tuple[Any, ...] = (None, False, "", 0, 1, [], {}, "none", "NONE")
_OF_NO_INTEREST = frozenset(
    {
        "id", "name", "type", "dataset_type", "seed", "default", "version", "__version", "subsets", "image", "text",
        "config", "cache_dir", "cache_dir_vae", "cache_directory", "cache_info", "cache_latents",
        "cache_latents_to_disk", "metadata_backend", "enable_bucket", "batch_size",
        "cache_file_suffix", "video", "concept_stats",
    }
)  # fmt: skip
