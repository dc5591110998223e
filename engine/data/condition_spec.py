"""Which condition maps a dataset has: the type, its parameters, and a fingerprint of both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.conditions import registry


@dataclass(frozen=True)
class ConditionSpec:
    """Which maps a dataset has. ``fingerprint`` changes with the type, its parameters and the resolution."""

    type: str
    parameters: dict[str, Any]
    fingerprint: str
    provided: bool = False
    """The maps came with the images; otherwise they are in the dataset's own folder."""
    resolution: int | None = None
    """Shorter side, in pixels, that images were shrunk to before extraction; None: their own size."""
    varied: int | None = None
    """Seed of parameters that were drawn for each image (see engine.conditions.strengths); None: they are as set."""


def specify(
    type: str,
    parameters: Mapping[str, Any],
    provided: bool,
    resolution: int | None = None,
    fingerprint: str | None = None,
    varied: int | None = None,
) -> ConditionSpec:
    """A spec with all of the type's parameters. Raises UserError for unknown ones."""
    resolved = registry.resolve_parameters(type, parameters)
    made_of = json.dumps([type, resolved, provided, resolution, *([] if varied is None else [varied])], sort_keys=True)
    fingerprint = fingerprint or hashlib.blake2b(made_of.encode(), digest_size=16).hexdigest()
    return ConditionSpec(type, resolved, fingerprint, provided, resolution, varied)
