"""Several strengths: random parameters for each image, so that the net learns to follow weak and strong maps."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from engine.conditions.declaration import ConditionType, Value


def varied(condition: ConditionType, values: Mapping[str, Any], seed: int | None, key: str) -> dict[str, Value]:
    """The parameters for one image: those with a ``vary`` range are uniform random numbers, the others unchanged.

    The numbers depend on (seed, name, key) only, not on other images. ``seed`` None: all are unchanged.
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
    """Whether a type has parameters that can be random."""
    return any(parameter.vary for parameter in condition.parameters)
