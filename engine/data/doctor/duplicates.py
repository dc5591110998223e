"""Finds duplicate images: equal files by their hash, similar ones by a perceptual hash (pHash)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from engine.data.doctor.finding import Finding, Hit
from engine.data.doctor.pairs import REPEATED

NEAR = 6  # of 64 bits; unrelated photographs differ in 32 on average
NEAR_MAP = 2  # line maps are mostly black and thus similar, so the limit is stricter
BANDS = NEAR + 1
TONE, COLOUR = 0.9, 14.0  # for 8 x 8 thumbnails of the same image: least correlation, largest distance in Lab
SAME_MAP = 0.99  # least correlation of two 16 x 16 maps; circles drawn 10 px (of 512) apart have less
CHUNK = 2048

COPY = Finding(
    "copy",
    "Identical files",
    "The image counts twice in every epoch, so the net is biased towards it.",
    "Leave out all but one of them.",
    "warning",
)
NEAR_COPY = Finding(
    "near_copy",
    "Nearly the same image",
    "Smaller, recompressed or slightly edited copies count several times, and the net memorizes them first.",
    "Look at the pairs, then leave these out. The largest, sharpest copy in colour stays.",
    "warning",
)
LEAK = Finding(
    "held_out_copy",
    "Training images that are also held out",
    "A copy of the image is held out for the score, which then rewards memorizing.",
    "Leave these out of the training. Their copies stay held out.",
    "serious",
)
FINDINGS = (COPY, NEAR_COPY, LEAK)


def near_pairs(hashes: np.ndarray, distance: int = NEAR) -> Iterator[tuple[int, int]]:
    """All pairs (i < j) of distinct uint64 hashes that differ in at most ``distance`` of their 64 bits.

    The bits are divided into distance + 1 bands. Two such hashes are equal in at least one band, so only hashes that
    share a band are compared. 100,000 hashes need about 1/100 of all comparisons.
    """
    bands = distance + 1
    edges = [round(band * 64 / bands) for band in range(bands + 1)]
    found: set[tuple[int, int]] = set()
    for low, high in zip(edges, edges[1:], strict=False):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(band[order])) + 1):
            for start in range(0, len(bucket) - 1, CHUNK):
                rows, columns = bucket[start : start + CHUNK], bucket[start:]
                near = np.bitwise_count(hashes[rows, None] ^ hashes[None, columns]) <= distance
                for row, column in zip(*np.nonzero(np.triu(near, 1)), strict=True):
                    one, other = int(rows[row]), int(columns[column])
                    found.add((min(one, other), max(one, other)))
    yield from sorted(found)


class Groups:
    """Groups of keys (union-find)."""

    def __init__(self) -> None:
        self._above: dict[str, str] = {}

    def find(self, key: str) -> str:
        """The key that represents the group of ``key``. Shortens the path to it."""
        while (above := self._above.setdefault(key, key)) != key:
            self._above[key] = key = self._above.setdefault(above, above)
        return key

    def join(self, one: str, other: str) -> None:
        """Merge the groups of two keys."""
        self._above[self.find(one)] = self.find(other)

    def members(self) -> Iterator[list[str]]:
        """The groups with two or more keys."""
        together: dict[str, list[str]] = defaultdict(list)
        for key in list(self._above):
            together[self.find(key)].append(key)
        yield from (keys for keys in together.values() if len(keys) > 1)


def near_groups(hashes: Iterable[tuple[str, str]], same: Callable[[str, str], bool], distance: int = NEAR) -> Groups:
    """Groups keys whose hashes are near and for which ``same(key, key)`` holds. ``hashes``: (key, 16 hex digits)."""
    by_hash: dict[int, list[str]] = defaultdict(list)
    for key, text in hashes:
        by_hash[int(text, 16)].append(key)
    distinct = list(by_hash)
    groups = Groups()
    for keys in by_hash.values():
        for other in keys[1:]:
            if same(keys[0], other):
                groups.join(other, keys[0])
    for place, place_other in near_pairs(np.array(distinct, np.uint64), distance):
        first, second = by_hash[distinct[place]][0], by_hash[distinct[place_other]][0]
        if same(first, second):
            groups.join(second, first)
    return groups


def alike(first: bytes, second: bytes, either_grey: bool) -> bool:
    """Whether two 8 x 8 thumbnails (RGB bytes) show the same image. ``either_grey``: ignores colours."""
    import cv2

    a, b = (
        cv2.cvtColor(np.frombuffer(thumb, np.uint8).reshape(8, 8, 3), cv2.COLOR_RGB2LAB).astype(float)
        for thumb in (first, second)
    )
    tones_a, tones_b = (thumb[..., 0] - thumb[..., 0].mean() for thumb in (a, b))  # a copy may be brighter
    lengths = float(np.linalg.norm(tones_a) * np.linalg.norm(tones_b))
    if float((tones_a * tones_b).sum()) < TONE * lengths:
        return False
    return either_grey or bool(np.hypot(*(a[..., 1:] - b[..., 1:]).transpose(2, 0, 1)).mean() <= COLOUR)


def same_map(first: bytes, second: bytes) -> bool:
    """Whether two grey 16 x 16 thumbnails show the same map, saved twice."""
    a, b = (np.frombuffer(thumb, np.uint8).astype(np.float64) for thumb in (first, second))
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) >= SAME_MAP * float(np.linalg.norm(a) * np.linalg.norm(b))


def hits(
    groups: Iterable[list[str]],
    digests: Mapping[str, str],
    held_out: frozenset[str],
    value: Callable[[str], tuple[float, ...]],
) -> Iterator[Hit]:
    """The images to exclude from each group of duplicates. The one with the highest ``value(key)`` is kept."""
    for keys in groups:
        held = sorted(key for key in keys if key in held_out)
        trained = sorted(key for key in keys if key not in held_out)
        if held:
            yield from (Hit(LEAK.name, key, f"{held[0]} is held out", held[0]) for key in trained)
        for part in (held, trained):
            best = max(part, key=value, default="")
            first = {digests[best]: best} if best else {}
            for key in part:
                twin = first.setdefault(digests[key], key)
                if twin != key:
                    yield Hit(COPY.name, key, f"the same file as {twin}", twin)
                elif key != best:
                    yield Hit(NEAR_COPY.name, key, f"nearly equal to {best}, which is larger or sharper", best)


def repeated_maps(groups: Iterable[list[str]], images: Groups) -> Iterator[Hit]:
    """Equal maps of different images. Copies of one image may share a map."""
    for keys in groups:
        by_image = {images.find(key): key for key in sorted(keys, reverse=True)}
        if len(by_image) > 1:
            for key in sorted(keys):
                other = next(one for image, one in by_image.items() if image != images.find(key))
                yield Hit(REPEATED.name, key, f"the same map as {other}", other)
