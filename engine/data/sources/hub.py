"""Hugging Face datasets: an id on the Hub, which is streamed, or a folder written by ``save_to_disk``.

Code that comes with a dataset is never run: datasets that are a Python script are refused, with advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from engine.data.import_config import ImportConfig
from engine.data.sources import columns
from engine.data.sources.image_store import ImageStore, name_for
from engine.data.sources.model import FetchResult, ImageSource, require_package
from engine.data.sources.parquet import choose, store_row
from engine.errors import UserError
from engine.hub.address import named_by
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import MIB

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MOST_BYTES = 2_000 * MIB  # the upper bound of the setting max_megabytes
_UNPACKED = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "zstd://")
_PREFIX = re.compile(r"(?:https?://huggingface\.co/datasets/|hf://datasets/|hf:)")


def hub_id(place: str) -> str:
    """``owner/name`` of an id or address on the Hub. Empty for anything else."""
    address = named_by(place)
    bare = _PREFIX.sub("", place.strip()).rstrip("/")
    if address is not None and address.kind == "dataset":
        bare = address.id
    return bare if _ID.fullmatch(bare) and not Path(bare).expanduser().exists() else ""


def on_hub(id: str) -> str:
    """The origin that a dataset's description records for images from the Hub."""
    return f"{id} on Hugging Face"


def is_saved(place: str) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    path = Path(place).expanduser()
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def fetch_saved(
    place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken
) -> FetchResult:
    """Writes the images of a saved dataset into a folder.

    Raises:
        UserError: it cannot be read, or has no images. Cancelled: the token was cancelled.
    """
    datasets = require_package("datasets", "to read a dataset from Hugging Face")
    path = Path(place).expanduser()
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"The saved dataset {path.name} cannot be read.",
            f"{type(error).__name__}: {str(error)[:300]}",
            "Save it again with save_to_disk, or choose the original dataset.",
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = _split(loaded, config.split)
    return _write(loaded, len(loaded), folder, config, progress, token, local=True)


def fetch_hub(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> FetchResult:
    """Streams a dataset from the Hub. Downloads only the images that are needed.

    Raises:
        UserError: it does not exist, is a script, or has no images. Cancelled: the token was cancelled.
    """
    datasets = require_package("datasets", "to read a dataset from Hugging Face")
    name = hub_id(place)
    try:
        # The datasets library no longer has an option to run a dataset's code.
        stream = datasets.load_dataset(name, config.subset or None, split=config.split, streaming=True)
        if stream.features is None:
            stream = stream._resolve_features()
    except Exception as error:  # the library and its dependencies raise many types
        raise explain(name, error) from error
    info = stream.info.splits or {}
    total = info[config.split].num_examples if config.split in info else 0
    return _write(stream, total or 0, folder, config, progress, token, local=False)


def explain(name: str, error: Exception) -> UserError:
    """The error for a dataset on the Hub that cannot be read."""
    text, kind = str(error), type(error).__name__
    if "script" in text.lower():
        return UserError(
            f"{name} is a script, not a set of files.",
            "Its images are made or downloaded by a Python program that its owner wrote. Such a program could do "
            "anything on this computer, so neither this app nor the datasets library runs it.",
            "Look for a copy in parquet format (on its page: branch refs/convert/parquet), or download its files and "
            "choose their folder.",
        )
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError"):
        return UserError(
            f"The dataset {name} is not accessible.",
            "It does not exist, is private, or asks you to accept its terms first.",
            "Check the spelling. If it is private, log in with: hf auth login",
        )
    if "Unknown split" in text or "Bad split" in text:
        return UserError(f"{name} has no such split.", text.split("\n")[0][:300], "Choose one of these as the split.")
    if "Config name is missing" in text or "BuilderConfig" in text:
        return UserError(f"{name} has several subsets.", text.split("\n")[0][:300], "Choose one as the subset.")
    return UserError(
        f"{name} cannot be read.",
        f"{kind}: {text[:300]}",
        "Check the connection to huggingface.co and the name, then try again.",
    )


def _split(loaded: Any, split: str) -> Any:
    if split not in loaded:
        raise UserError(
            f"The dataset has no split {split}.", f"It has: {', '.join(loaded)}.", "Choose one of these as the split."
        )
    return loaded[split]


def _write(
    rows: Any, total: int, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken, local: bool
) -> FetchResult:
    import datasets

    kinds: dict[str, Any] = dict(rows.features or {})
    files = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    image, caption, condition = choose(list(kinds), files, config)
    if image is None:
        raise UserError(
            "This dataset has no images.",
            f"None of its columns has images: {', '.join(kinds) or 'they are unknown'}.",
            "Choose a dataset with an image column. A list of web addresses can be imported from its parquet files.",
        )
    for name in filter(None, (image, condition)):
        rows = rows.cast_column(name, datasets.Image(decode=False))  # the original files, not decoded
    fetched = FetchResult(notes=[columns.describe_choice(image, caption, condition)])
    limit = min(config.max_pictures or total or 10**9, total or 10**9)
    with ImageStore(folder) as store:
        for number, row in enumerate(_rows(rows, limit)):
            token.raise_if_cancelled()
            pair = _content(row[image], local), _content(row[condition], local) if condition else None
            text = columns.text(row.get(caption)) if caption else ""
            store_row(store, name_for(f"row {number}"), pair, text, condition is not None, config, fetched, row)
            progress(number + 1, limit if limit < 10**9 else number + 2, "Images fetched")
    return fetched


def _rows(rows: Any, limit: int) -> Iterator[dict[str, Any]]:
    iterator = iter(rows)
    for _ in range(limit):
        try:
            row = next(iterator)
        except StopIteration:
            return
        except (OSError, ValueError, RuntimeError) as error:
            raise _cut_off(error) from error
        yield row


def _cut_off(error: Exception) -> UserError:
    return UserError(
        "The dataset could not be read completely.",
        f"{type(error).__name__}: {str(error)[:300]}",
        "Import it again: it continues where it stopped.",
    )


def _content(value: Any, local: bool) -> bytes | None:
    """The image file in a cell. In a stream it may be a path on the Hub, which the library opens."""
    if not isinstance(value, dict):
        return None
    if value.get("bytes"):
        return bytes(value["bytes"])
    path = value.get("path")
    if not path:
        return None
    if local:
        return Path(path).read_bytes() if Path(path).is_file() else None
    return _streamed(path) if _is_hub_path(path) else None


def _is_hub_path(path: str) -> bool:
    """Whether a path is a file on the Hub, or lies in an archive there ("zip://a.png::hf://datasets/...").

    The dataset's author wrote the path, and the library would open anything, including local files (file://) and
    servers in the user's network.
    """
    *inner, last = path.split("::")
    return last.startswith("hf://datasets/") and all(hop.startswith(_UNPACKED) for hop in inner)


def _streamed(path: str) -> bytes | None:
    """Downloads a file from the Hub without decoding it. None if it does not exist."""
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    try:
        with xopen(path, "rb", download_config=DownloadConfig()) as file:
            return bytes(file.read(_MOST_BYTES + 1))
    except (FileNotFoundError, KeyError, BadZipFile):  # KeyError: from fsspec, for a name that is not in an archive
        return None
    except (OSError, ValueError, RuntimeError) as error:
        raise _cut_off(error) from error


SAVED = ImageSource("hf_saved", "a dataset saved with the datasets library", is_saved, fetch_saved)
HUB = ImageSource("hf_hub", "a dataset on the Hugging Face Hub", lambda place: bool(hub_id(place)), fetch_hub)
