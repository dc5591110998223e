"""The shards of a text cache that a run can use, and in how many chunks it reads each caption. See text_cache.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.disk.durable import atomic_write_text
from engine.disk.in_use import remove_file
from engine.families.base import Family
from engine.families.facts import TEXT_PARTS
from engine.families.files import configs_at, part_files
from engine.families.text import MAX_CHUNKS, USUAL_TEXT, TextOptions, chunks_to_read
from engine.jobs.control import CancelToken, OnProgress
from engine.machine.units import counted

COUNTED_AT_ONCE = 1024
SIDE = 512  # px, on which the length of a caption does not depend


@dataclass(frozen=True)
class Shard:
    """The files of one shard."""

    description: Path
    captions: tuple[str, ...]
    chunks: int
    """Chunks in which they were encoded."""
    needed: tuple[int, ...]
    """Chunks that each of them fills, 0 where that was not counted; empty: none was counted."""

    @property
    def tensors(self) -> Path:
        return self.description.with_suffix(".safetensors")

    def remove(self) -> None:
        """The description first: tensors without one are removed by the next process that encodes."""
        remove_file(self.description)
        remove_file(self.tensors)

    def rows(self, chunks: Mapping[str, int]) -> dict[str, int]:
        """The rows that a run can use. ``chunks``: in how many chunks it reads its captions."""
        return {c: row for row, c in enumerate(self.captions) if chunks.get(c) == self.chunks}


class RunCaptions:
    """The captions of a run: how each is read, and the shards in a folder that were encoded like that."""

    def __init__(
        self,
        folder: Path,
        family: Family,
        base: str,
        captions: Sequence[str],
        options: TextOptions = USUAL_TEXT,
        token: CancelToken | None = None,
        progress: OnProgress = lambda *_: None,
    ) -> None:
        """Count the tokens of captions that may be long, unless a shard says how many chunks they fill.

        Args:
            folder: of the cache.
            captions: without repetitions, the empty one among them.
        """
        self.folder, self.family, self.base, self.captions, self.options = folder, family, base, captions, options
        made_of = [2, part_files(base, TEXT_PARTS), family.skipped_layers(options.clip_skip)]
        self.in_int8 = options.uses_int8(len(captions), lambda: numbers_of_caption(family, base))
        """New shards are quantized to int8 (text_quantization.py)."""
        self.made_with = _hash([*made_of, "int8"] if self.in_int8 else made_of)
        self._usable = {self.made_with, _hash(made_of)}  # one in fp16 is more exact, and is there already
        self.find_shards()
        self.needed: dict[str, int] = {}
        self.chunks = dict.fromkeys(captions, 1)
        """In how many chunks each caption is encoded."""
        if options.whole:
            self._count(token, progress)
            self.chunks = chunks_to_read(self.needed, captions)

    def find_shards(self) -> None:
        """Set ``shards`` to those in the folder, largest first. Their tensors may be damaged or missing."""
        found = []
        for path in self.folder.glob("text-*.json"):
            try:
                about = json.loads(path.read_text(encoding="utf-8"))
                captions = tuple(map(str, about["captions"]))
                by, chunks, needed = about.get("made_with"), about.get("chunks", 1), about.get("needed", ())
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                continue  # not readable: removed, and encoded again
            if by in self._usable or (by is None and self._is_of_older_version(path, captions)):
                found.append(Shard(path, captions, int(chunks), tuple(needed)))
        self.shards = sorted(found, key=lambda shard: (-len(shard.captions), shard.description))

    def save_counts(self) -> None:
        """Note in the descriptions of shards that were written without counting how many chunks their captions fill.

        So tokens are not counted again at each start.
        """
        for shard in self.shards:
            counts = [self.needed.get(caption, 0) for caption in shard.captions]
            if any(counts) and not shard.needed:
                about = json.loads(shard.description.read_text(encoding="utf-8"))
                atomic_write_text(shard.description, json.dumps(about | {"needed": counts}, ensure_ascii=False))

    @property
    def note(self) -> str:
        """A sentence about long captions for the run's log; empty: there are none, or they were not counted."""
        counts = [self.needed[caption] for caption in self.captions] if self.needed else []
        long, beyond = sum(count > 1 for count in counts), sum(count > MAX_CHUNKS for count in counts)
        if not long:
            return ""
        longest = max(self.chunks.values())
        words = (
            f"Captions longer than the base reads at once: {long:,}. They are read in up to "
            f"{counted(longest, 'chunk')}."
        )
        return f"{words} In {beyond:,} of them the rest is left out." if beyond else words

    def _is_of_older_version(self, path: Path, captions: Sequence[str]) -> bool:
        """Whether these encoders made a shard with all captions, the name of which is a hash of them."""
        name = _hash([1, part_files(self.base, TEXT_PARTS), list(captions)])
        return path.stem == f"text-{name}" and not self.family.skipped_layers(self.options.clip_skip)

    def _count(self, token: CancelToken | None, progress: OnProgress) -> None:
        for shard in self.shards:
            self.needed |= {caption: n for caption, n in zip(shard.captions, shard.needed, strict=False) if n}
        unknown = [caption for caption in self.captions if caption not in self.needed]
        tokenizer = self.family.load_tokenizer(self.base) if unknown else None
        for first in range(0, len(unknown), COUNTED_AT_ONCE):
            if token is not None:
                token.raise_if_cancelled()
            progress(first, len(unknown), "Counting tokens")
            some = unknown[first : first + COUNTED_AT_ONCE]
            self.needed.update(zip(some, self.family.chunk_counts(tokenizer, some), strict=True))


def numbers_of_caption(family: Family, base: str) -> int:
    """Numbers in one encoded caption of a base, read at once."""
    found = configs_at(base)
    tokens = family.facts.count_encoders(found.vae, found.text_encoders, SIDE, SIDE).tokens
    return int(family.facts.count(found.denoiser, SIDE, tokens).text)


def _hash(made_of: list[Any]) -> str:
    return hashlib.blake2b(json.dumps(made_of).encode(), digest_size=12).hexdigest()
