"""Text embeddings of captions, each encoded once and found by its caption.

    cache/KEY/text-NAME.safetensors   a shard: the tensors of up to SHARD encoded captions, fp16, one row for each
    cache/KEY/text-NAME.json          written after it: the captions in the order of the rows, a hash of what encoded
                                      them, size and checksum of the shard

A shard is never changed. Captions that no shard has are encoded into new ones, so an edited caption costs one encoding
and a killed process loses less than one shard. A shard that is mostly of no use any more is replaced by one with the
rows that are. Older versions wrote the same two files with all captions in one shard; it is used like any other.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from engine.data.cache_files import Verified, base_files, describe, save_tensors, verify
from engine.data.captions import CAPTIONS_AT_ONCE
from engine.data.encode import EncoderBatches
from engine.disk.in_use import remove_file
from engine.disk.space import require_space
from engine.disk.tensor_file import Rows, tensor_names
from engine.families.base import Family
from engine.families.facts import TEXT_PARTS
from engine.jobs.control import CancelToken, OnProgress

SHARD = 256
"""Captions in a shard, a multiple of CAPTIONS_AT_ONCE. In memory 30 MB for SD 1.5, 80 MB for XL."""
LOCK = "text.lock"


@dataclass(frozen=True)
class Shard:
    """The files of one shard."""

    description: Path
    captions: tuple[str, ...]

    @property
    def tensors(self) -> Path:
        return self.description.with_suffix(".safetensors")

    def remove(self) -> None:
        """The description first: without it the tensors are nobody's."""
        remove_file(self.description)
        remove_file(self.tensors)


def made_with(base: str) -> str:
    """A hash of the base's text encoders."""
    return _hash([2, base_files(base, TEXT_PARTS)])


def _key_before_shards(base: str, captions: Sequence[str]) -> str:
    """The name that older versions gave to the shard with all captions."""
    return _hash([1, base_files(base, TEXT_PARTS), list(captions)])


def _hash(made_of: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(made_of).encode(), digest_size=12).hexdigest()


class TextCache:
    """Reads embeddings by caption."""

    def __init__(self, folder: Path, base: str) -> None:
        """All shards of this base must be whole: ``encode_missing`` first."""
        self._tables: list[dict[str, Rows]] = []
        self._places: dict[str, tuple[int, int]] = {}
        for shard in _shards(folder, base):
            self._tables.append({name: Rows(shard.tensors, name) for name in tensor_names(shard.tensors)})
            self._places.update({c: (len(self._tables) - 1, row) for row, c in enumerate(shard.captions)})

    def read(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Embeddings, fp32 (B, ...). Raises KeyError for a caption that was not encoded."""
        parts: dict[str, list[np.ndarray]] = {}
        for caption in captions:
            number, row = self._places[caption]
            for name, table in self._tables[number].items():
                parts.setdefault(name, []).append(table.read([row]))
        return {name: torch.from_numpy(np.concatenate(rows)).float() for name, rows in parts.items()}


def encode_missing(
    folder: Path,
    family: Family,
    base: str,
    captions: Sequence[str],
    device: torch.device,
    token: CancelToken,
    progress: OnProgress,
    on_message: Callable[[str], None] = lambda message: None,
) -> None:
    """Encode the captions that no whole shard has, and remove what none of them needs. Finished shards are kept.

    One process at a time does this in a folder; another one waits, and then finds the shards. At most one shard of
    embeddings is in memory.

    Args:
        captions: without repetitions.

    Raises:
        UserError: memory is not enough for one caption. DiskFull, OSError: the disk is full or gone.
        Cancelled: the token was cancelled.
    """
    with _locked(folder, token):
        wanted = frozenset(captions)
        kept, replaced = _sort_out(folder, base, wanted, token, progress)
        there = {caption for shard in kept for caption in shard.captions}
        missing = [caption for caption in captions if caption not in there]
        if missing:
            encoder = _Encoder(folder, family, base, device, token, on_message)
            known = {c: (shard, row) for shard in replaced for row, c in enumerate(shard.captions) if c in wanted}
            for first in range(0, len(missing), SHARD):
                part = missing[first : first + SHARD]
                old = {caption: known[caption] for caption in part if caption in known}
                begun = len(captions) - len(missing) + first

                def on_done(count: int, begun: int = begun) -> None:
                    progress(begun + count, len(captions), "Encoding captions")

                _write(folder, base, part, encoder.shard(part, old, len(missing) - first, on_done))
        for shard in replaced:
            shard.remove()


class _Encoder:
    """Makes the tensors of shards. The text encoder is loaded when the first caption has to be encoded."""

    def __init__(
        self,
        folder: Path,
        family: Family,
        base: str,
        device: torch.device,
        token: CancelToken,
        on_message: Callable[[str], None],
    ) -> None:
        self._folder, self._family, self._base, self._device, self._token = folder, family, base, device, token
        self._batches = EncoderBatches(CAPTIONS_AT_ONCE, "captions", on_message)
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def shard(
        self,
        captions: Sequence[str],
        known: Mapping[str, tuple[Shard, int]],
        left: int,
        on_done: Callable[[int], None],
    ) -> dict[str, torch.Tensor]:
        """The tensors of a shard with these captions, fp16.

        Args:
            known: rows that other shards have.
            left: captions that are still to be written, to look for the disk space.
        """
        tables: dict[str, torch.Tensor] = {}

        def put(rows: Sequence[int], made: Mapping[str, torch.Tensor]) -> None:
            for name, values in made.items():
                if name not in tables:
                    tables[name] = torch.empty((len(captions), *values.shape[1:]), dtype=torch.float16)
                tables[name][list(rows)] = values.half().cpu()

        for row, caption in enumerate(captions):
            if caption in known:
                shard, place = known[caption]
                names = tensor_names(shard.tensors)
                put([row], {name: torch.from_numpy(Rows(shard.tensors, name).read([place])) for name in names})
        new = [row for row, caption in enumerate(captions) if caption not in known]
        done = len(captions) - len(new)

        def encode(rows: Sequence[int]) -> int:
            put(rows, self._encode([captions[row] for row in rows]))
            return len(rows)

        for count in self._batches.over(new, encode):
            done += count
            on_done(done)
        needed = sum(table.nbytes for table in tables.values()) * left // len(captions)
        require_space(self._folder, needed, "The cache of captions")
        return tables

    def _encode(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        self._token.raise_if_cancelled()
        tokenizer, encoder = self._load()
        return self._family.encode_text(tokenizer, encoder, captions)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            family, base = self._family, self._base
            encoder: Any = self._batches.load(lambda: family.load_text_encoder(base, torch.float32).to(self._device))
            self._loaded = family.load_tokenizer(base), encoder
        return self._loaded


def _write(folder: Path, base: str, captions: Sequence[str], tensors: dict[str, torch.Tensor]) -> None:
    description = folder / f"text-{uuid.uuid4().hex[:24]}.json"
    path = description.with_suffix(".safetensors")
    save_tensors(path, tensors)
    about = {"captions": list(captions), "made_with": made_with(base), "made": time.strftime("%Y-%m-%d %H:%M:%S")}
    describe(description, about, [path])


def _sort_out(
    folder: Path, base: str, wanted: frozenset[str], token: CancelToken, progress: OnProgress
) -> tuple[list[Shard], list[Shard]]:
    """The whole shards to keep, and those to replace: more than half of their rows are of no use.

    Everything else is removed: broken shards, those of other encoders, and what a killed process left behind.
    """
    shards = _shards(folder, base)
    ours = {path for shard in shards for path in (shard.description, shard.tensors)}
    for path in folder.glob("text-*"):
        if path not in ours:
            remove_file(path)
    kept: list[Shard] = []
    replaced: list[Shard] = []
    found: set[str] = set()
    verified = Verified(folder)

    def at(number: int, *_: Any) -> None:
        progress(number, len(shards), "Checking the cache")

    try:
        for number, shard in enumerate(shards):
            if not verify(shard.description, token, partial(at, number), verified):
                shard.remove()
                continue
            used = wanted.intersection(shard.captions) - found
            if not used:
                shard.remove()
            elif 2 * len(used) < len(shard.captions):
                replaced.append(shard)
            else:
                kept.append(shard)
                found |= used
    finally:
        verified.save()
    return kept, replaced


def _shards(folder: Path, base: str) -> list[Shard]:
    """The shards that this base's encoders made, largest first. Their tensors may be damaged or missing."""
    made, found = made_with(base), []
    for description in folder.glob("text-*.json"):
        try:
            about = json.loads(description.read_text(encoding="utf-8"))
            captions = tuple(map(str, about["captions"]))
        except (OSError, ValueError, TypeError, KeyError):
            continue  # not readable: removed, and encoded again
        by = about.get("made_with")
        if by == made or (by is None and description.stem == f"text-{_key_before_shards(base, captions)}"):
            found.append(Shard(description, captions))
    return sorted(found, key=lambda shard: (-len(shard.captions), shard.description))


@contextmanager
def _locked(folder: Path, token: CancelToken) -> Iterator[None]:
    """Hold the folder's lock; the system releases it when the process dies. Raises Cancelled while waiting."""
    lock = FileLock(folder / LOCK)
    while True:
        token.raise_if_cancelled()
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()
