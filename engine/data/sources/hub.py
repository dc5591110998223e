"""Hugging Face datasets: an id on the Hub, read as a stream, or a folder that ``save_to_disk`` wrote.

Nothing that comes with a dataset is ever run: sets that are a Python script are refused with a way out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from engine.data.import_config import ImportConfig
from engine.data.sources import columns
from engine.data.sources.model import Fetched, Source, need
from engine.data.sources.parquet import choose, keep
from engine.data.sources.store import Store, name_for
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MOST_BYTES = 2_000_000_000  # the largest that the settings allow (max_megabytes)
_UNPACKED = ("zip://", "tar://", "gzip://", "bz2://", "xz://", "zstd://")
_PREFIX = re.compile(r"(?:https?://huggingface\.co/datasets/|hf://datasets/|hf:)")


def hub_id(place: str) -> str:
    """``owner/name`` of an id or an address on the Hub; empty for anything else."""
    bare = _PREFIX.sub("", place.strip()).rstrip("/")
    return bare if _ID.fullmatch(bare) and not Path(bare).expanduser().exists() else ""


def is_saved(place: str) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    path = Path(place).expanduser()
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def fetch_saved(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> Fetched:
    """Writes out the images of a saved dataset.

    Raises:
        UserError: it cannot be read, or has no images. Cancelled: the token says so.
    """
    datasets = need("datasets", "to read a dataset of Hugging Face")
    path = Path(place).expanduser()
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"The saved dataset {path.name} cannot be read.",
            f"{type(error).__name__}: {str(error)[:300]}",
            "Save it again with save_to_disk, or choose its original.",
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = _split(loaded, config.split)
    return _write(loaded, len(loaded), folder, config, progress, token, local=True)


def fetch_hub(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> Fetched:
    """Streams a dataset of the Hub: nothing is downloaded beyond the images that are asked for.

    Raises:
        UserError: there is none of this name, it is a script, or has no images. Cancelled: the token says so.
    """
    datasets = need("datasets", "to read a dataset of Hugging Face")
    name = hub_id(place)
    try:
        # No code of the dataset's is run: there is no such option any more, and none is asked for.
        stream = datasets.load_dataset(name, config.subset or None, split=config.split, streaming=True)
        if stream.features is None:
            stream = stream._resolve_features()
    except Exception as error:  # the library and those below it raise many kinds
        raise explain(name, error) from error
    info = stream.info.splits or {}
    total = info[config.split].num_examples if config.split in info else 0
    return _write(stream, total or 0, folder, config, progress, token, local=False)


def explain(name: str, error: Exception) -> UserError:
    """Why a dataset of the Hub cannot be read, in words."""
    text, kind = str(error), type(error).__name__
    if "script" in text.lower():
        return UserError(
            f"{name} is a script, not a set of files.",
            "Its images are made or fetched by a Python program of its owner, which could do anything on this "
            "computer; neither this app nor the datasets library runs such programs.",
            "Look for a copy in parquet form (on its page: branch refs/convert/parquet), or download its files and "
            "choose their folder.",
        )
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError", "GatedRepoError"):
        return UserError(
            f"There is no dataset {name} that may be read.",
            "It does not exist, is private, or asks you to accept its terms first.",
            "Check the spelling; for a private one, log in with: hf auth login",
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
) -> Fetched:
    import datasets

    kinds: dict[str, Any] = dict(rows.features or {})
    files = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    image, caption, condition = choose(list(kinds), files, config)
    if image is None:
        raise UserError(
            "This dataset holds no images.",
            f"None of its columns is one of images: {', '.join(kinds) or 'they are not known'}.",
            "Choose a dataset with an image column; a list of addresses can be imported from its parquet files.",
        )
    for name in filter(None, (image, condition)):
        rows = rows.cast_column(name, datasets.Image(decode=False))  # the files as they are, not decoded
    fetched = Fetched(notes=[columns.told(image, caption, condition)])
    limit = min(config.max_pictures or total or 10**9, total or 10**9)
    with Store(folder) as store:
        for number, row in enumerate(_rows(rows, limit)):
            token.raise_if_cancelled()
            pair = _content(row[image], local), _content(row[condition], local) if condition else None
            text = columns.words(row.get(caption)) if caption else ""
            keep(store, name_for(f"row {number}"), pair, text, condition is not None, config, fetched, row)
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
        "The dataset could not be read to its end.",
        f"{type(error).__name__}: {str(error)[:300]}",
        "Import it again: it goes on where it stopped.",
    )


def _content(value: Any, local: bool) -> bytes | None:
    """The file in a cell; a stream may hold a path on the Hub, which the library opens."""
    if not isinstance(value, dict):
        return None
    if value.get("bytes"):
        return bytes(value["bytes"])
    path = value.get("path")
    if not path:
        return None
    if local:
        return Path(path).read_bytes() if Path(path).is_file() else None
    return _streamed(path) if _of_the_hub(path) else None


def _of_the_hub(path: str) -> bool:
    """Whether a path is a file of the Hub's, or lies in an archive there ("zip://a.png::hf://datasets/...").

    Whoever made the dataset wrote it, and the library opens anything: files of this computer (file://) and servers of
    the own network have no place in a dataset from elsewhere.
    """
    *inner, last = path.split("::")
    return last.startswith("hf://datasets/") and all(hop.startswith(_UNPACKED) for hop in inner)


def _streamed(path: str) -> bytes | None:
    """A file of the Hub's as it is: it is looked at before anything decodes it. None where it is not there."""
    from datasets import DownloadConfig
    from datasets.utils.file_utils import xopen

    try:
        with xopen(path, "rb", download_config=DownloadConfig()) as file:
            return bytes(file.read(_MOST_BYTES + 1))
    except (FileNotFoundError, KeyError, BadZipFile):  # fsspec says KeyError of a name that an archive does not hold
        return None
    except (OSError, ValueError, RuntimeError) as error:
        raise _cut_off(error) from error


SAVED = Source("hf_saved", "a dataset that was saved with the datasets library", is_saved, fetch_saved)
HUB = Source("hf_hub", "a dataset of the Hugging Face Hub", lambda place: bool(hub_id(place)), fetch_hub)
