"""Several strengths: parameters drawn anew for every image, so that the net learns to read all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from engine.conditions.declaration import ConditionType, Value


def drawn(condition: ConditionType, values: Mapping[str, Any], seed: int | None, key: str) -> dict[str, Value]:
    """An image's own parameters: those with a ``vary`` range are even draws from (seed, key, name); the rest as given.

    The same seed and key give the same values, whatever other images there are. ``seed`` None: all as given.
    """
    found = dict(values)
    for parameter in condition.parameters:
        if seed is None or parameter.vary is None:
            continue
        low, high = parameter.vary
        bits = hashlib.blake2b(f"{seed}:{parameter.name}:{key}".encode(), digest_size=8).digest()
        value = low + (high - low) * int.from_bytes(bits) / 2**64
        found[parameter.name] = round(value) if parameter.kind == "int" else round(value, 2)
    return found


def varies(condition: ConditionType) -> bool:
    """Whether anything can be drawn."""
    return any(parameter.vary for parameter in condition.parameters)
