"""Text embeddings of captions, each encoded once and found by its caption.

    cache/KEY/text-NAME.safetensors   a shard: the tensors of up to SHARD encoded captions, one row for each, in fp16
                                      or in 8 bits (text_quantization.py)
    cache/KEY/text-NAME.json          written after it: the captions in the order of the rows, a hash of what encoded
                                      them, in how many chunks, size and checksum of the shard

A shard is never changed. Captions that no shard has are encoded into new ones, so an edited caption costs one encoding
and a killed process loses less than one shard. A shard whose rows are mostly unused is replaced by one with the rows
that are in use. Older versions wrote the same two files with all captions in one shard; it is used like any other.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from engine.data.cache_files import Verified, describe, save_tensors, verify
from engine.data.captions import CAPTIONS_AT_ONCE
from engine.data.encode import EncoderBatches
from engine.data.text_quantization import dequantize, quantize
from engine.data.text_shards import RunCaptions, Shard
from engine.disk.in_use import remove_file
from engine.disk.space import require_space
from engine.disk.tensor_file import Rows, tensor_names
from engine.families.text_encoding import longer, together
from engine.jobs.control import CancelToken, OnProgress

SHARD = 256
"""Captions in a shard, a multiple of CAPTIONS_AT_ONCE. In memory 30 MB for SD 1.5, 80 MB for XL; long ones more."""
LOCK = "text.lock"


class TextCache:
    """Reads embeddings by caption."""

    def __init__(self, run: RunCaptions) -> None:
        """All captions must have been encoded, see ``encode_missing``."""
        self._family, self._longest = run.family, max(run.chunks.values())
        self.note = run.note
        """About long captions, for the run's log."""
        self._tables: list[dict[str, Rows]] = []
        self._places: dict[str, tuple[int, int]] = {}
        for shard in run.shards:
            rows = shard.rows(run.chunks)
            if rows:
                self._places.update({caption: (len(self._tables), row) for caption, row in rows.items()})
                self._tables.append({name: Rows(shard.tensors, name) for name in tensor_names(shard.tensors)})
        self._length = self._longest * run.family.text_length(self.read_one("")) if self._longest > 1 else 0

    def read(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Embeddings, fp32 (B, ...), all as long as the longest caption of the run (see ``chunks_to_read``).

        Raises:
            KeyError: one of the captions was not encoded.
        """
        rows = [self.read_one(caption) for caption in captions]
        if self._longest > 1:
            rows = [self._family.repeated_text(row, self._length) for row in rows]
        return together(rows)

    def read_one(self, caption: str) -> dict[str, torch.Tensor]:
        """The embedding of a caption, fp32 (1, ...), as long as it was encoded: one chunk if it is short.

        Raises:
            KeyError: it was not encoded.
        """
        number, row = self._places[caption]
        return dequantize({name: torch.from_numpy(table.read([row])) for name, table in self._tables[number].items()})


def encode_missing(
    run: RunCaptions,
    device: torch.device,
    token: CancelToken,
    progress: OnProgress,
    on_message: Callable[[str], None] = lambda message: None,
) -> None:
    """Encode the captions of a run that no whole shard has, and remove what it does not need. Finished shards are kept.

    One process at a time does this in a folder; another one waits, and then finds the shards. At most one shard of
    embeddings is in memory.

    Raises:
        UserError: memory is not enough for one caption. DiskFull, OSError: the disk is full or gone.
        Cancelled: the token was cancelled.
    """
    with _locked(run.folder, token):
        run.find_shards()
        kept, replaced = _sort_out(run, token, progress)
        there = {caption for shard in kept for caption in shard.rows(run.chunks)}
        copied = {c: (shard, row) for shard in replaced for c, row in shard.rows(run.chunks).items()}
        # Captions of about one length go into one shard: there they are filled up to its longest.
        missing = sorted((c for c in run.captions if c not in there), key=lambda c: (run.chunks[c], len(c)))
        encoder = _Encoder(run, device, token, on_message)
        done = len(there)
        while missing:
            alike = [caption for caption in missing[:SHARD] if run.chunks[caption] == run.chunks[missing[0]]]

            def on_done(count: int, before: int = done) -> None:
                progress(before + count, len(run.captions), "Encoding captions")

            known = {caption: copied[caption] for caption in alike if caption in copied}
            encoder.write(alike, known, len(missing), on_done)
            done, missing = done + len(alike), missing[len(alike) :]
        for shard in replaced:
            shard.remove()
        run.find_shards()
        run.save_counts()


class _Encoder:
    """Writes shards. The text encoder is loaded when the first caption has to be encoded."""

    def __init__(
        self, run: RunCaptions, device: torch.device, token: CancelToken, on_message: Callable[[str], None]
    ) -> None:
        self._run, self._device, self._token = run, device, token
        self._batches = EncoderBatches(CAPTIONS_AT_ONCE, "captions", on_message)
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def write(
        self,
        captions: Sequence[str],
        copied: Mapping[str, tuple[Shard, int]],
        left: int,
        on_done: Callable[[int], None],
    ) -> None:
        """Write a shard with these captions, which are read in the same number of chunks.

        Args:
            copied: rows that are taken from other shards.
            left: captions still to be written, these among them: the disk must have room for as many of their size.
        """
        tables: dict[str, torch.Tensor] = {}

        def put(rows: Sequence[int], made: Mapping[str, torch.Tensor]) -> None:
            for name, values in made.items():
                if name not in tables:
                    tables[name] = torch.empty((len(captions), *values.shape[1:]), dtype=torch.float16)
                if values.ndim > 1:  # a family whose captions have lengths of their own
                    tables[name] = longer(tables[name], values.shape[1])
                    values = longer(values, tables[name].shape[1])
                tables[name][list(rows)] = values.half().cpu()

        def encode(rows: Sequence[int]) -> int:
            self._token.raise_if_cancelled()
            put(rows, self._encode([captions[row] for row in rows]))
            return len(rows)

        for row, caption in enumerate(captions):
            if caption in copied:
                shard, place = copied[caption]
                names = tensor_names(shard.tensors)
                put(
                    [row],
                    dequantize({n: torch.from_numpy(Rows(shard.tensors, n).read([place])) for n in names}),
                )
        new = [row for row, caption in enumerate(captions) if caption not in copied]
        done = len(captions) - len(new)
        for count in self._batches.over(new, encode):
            done += count
            on_done(done)
        if self._run.in_int8:
            tables = quantize(tables)
        needed = sum(table.nbytes for table in tables.values()) * left // len(captions)
        require_space(self._run.folder, needed, "The cache of captions")
        self._save(captions, tables)

    def _encode(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        family, base = self._run.family, self._run.base
        if self._loaded is None:
            encoder: Any = self._batches.load(lambda: family.load_text_encoder(base, torch.float32).to(self._device))
            self._loaded = family.load_tokenizer(base), encoder
        chunks, clip_skip = self._run.chunks[captions[0]], self._run.options.clip_skip
        return family.encode_long(*self._loaded, captions, chunks, clip_skip)

    def _save(self, captions: Sequence[str], tables: dict[str, torch.Tensor]) -> None:
        run = self._run
        description = run.folder / f"text-{uuid.uuid4().hex[:24]}.json"
        path = description.with_suffix(".safetensors")
        save_tensors(path, tables)
        about: dict[str, Any] = {
            "captions": list(captions),
            "chunks": run.chunks[captions[0]],
            "made_with": run.made_with,
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        if run.needed:
            about["needed"] = [run.needed[caption] for caption in captions]
        describe(description, about, [path])


def _sort_out(run: RunCaptions, token: CancelToken, progress: OnProgress) -> tuple[list[Shard], list[Shard]]:
    """The whole shards to keep, and those to replace: more than half of their rows are no longer needed.

    Everything else is removed: broken shards, those of other encoders, and what a killed process left behind.
    """
    ours = {path for shard in run.shards for path in (shard.description, shard.tensors)}
    for path in run.folder.glob("text-*"):
        if path not in ours:
            remove_file(path)
    kept: list[Shard] = []
    replaced: list[Shard] = []
    found: set[str] = set()
    verified = Verified(run.folder)

    def at(number: int, *_: Any) -> None:
        progress(number, len(run.shards), "Checking the cache")

    try:
        for number, shard in enumerate(run.shards):
            whole = verify(shard.description, token, partial(at, number), verified)
            used = shard.rows(run.chunks).keys() - found
            if not whole or not used:
                shard.remove()
            elif 2 * len(used) < len(shard.captions):
                replaced.append(shard)
            else:
                kept.append(shard)
                found |= used
    finally:
        verified.save()
    return kept, replaced


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
