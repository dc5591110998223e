"""How a run reads its captions, and stores them encoded. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

MAX_CHUNKS = 3
"""Chunks up to which a long caption is read in training: 225 tokens with CLIP, about 170 words."""


LARGEST_IN_HALF = 8 * 2**30
"""Bytes: text embeddings that would take more in fp16 are stored in int8, unless a run says otherwise."""
INT8_BLOCK = 64
"""Channels of a text embedding that share a scale in int8: engine/data/text_quantization.py."""
INT8_BYTES = 1 + 5 / INT8_BLOCK
"""Bytes that a value of a text embedding takes in int8, with its share of the block's scale and largest value."""


@dataclass(frozen=True)
class TextOptions:
    """The settings that decide what a caption is encoded to."""

    clip_skip: int = 1
    """The text encoder's layer whose output is used, counted from the last one as AUTOMATIC1111 does: 1 is the last."""
    whole: bool = False
    """Captions that the text encoder cannot read at once are read in chunks; otherwise the rest of them is cut off."""
    stored: Literal["auto", "half", "int8"] = "half"
    """In the cache: in fp16 or int8; "auto": in int8 if fp16 would take more than ``LARGEST_IN_HALF``."""

    def uses_int8(self, captions: int, numbers: Callable[[], int]) -> bool:
        """Whether the cache of a run keeps text embeddings in int8.

        Args:
            captions: of the run.
            numbers: says how many values the embedding of one has.
        """
        return self.stored == "int8" or (self.stored == "auto" and 2 * captions * numbers() > LARGEST_IN_HALF)


USUAL_TEXT = TextOptions()


def chunks_to_read(needed: Mapping[str, int], captions: Sequence[str]) -> dict[str, int]:
    """The number of chunks in which each caption of a run is encoded: 1, or that of the longest one.

    All captions of a batch must have one length, and what a caption is encoded to must depend neither on its neighbours
    nor on the batch size. A caption of one chunk is repeated to that length: attention to the same tokens twice is
    attention to them once, so it means what it means alone. One of two chunks among others of three gets an empty one.

    Args:
        needed: chunks that each caption fills.
    """
    counts = {caption: min(needed[caption], MAX_CHUNKS) for caption in captions}
    longest = max(counts.values(), default=1)
    return {caption: 1 if count == 1 else longest for caption, count in counts.items()}
