"""Settings of earlier versions, brought up to date one version at a time.

Worked example. A setting is renamed, ``train.steps`` to ``train.length``: raise ``CONFIG_VERSION`` in the package to 2
and add here ``1: length_was_steps`` to ``MIGRATIONS``, a function from the values of version 1 to those of version 2. A
new setting with a default needs nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from engine.errors import UserError

Values = dict[str, Any]
Migration = Callable[[Values], Values]

MIGRATIONS: Mapping[int, Migration] = {}
"""From the version that is named to the next."""
FIRST_VERSION = 1


def migrated(
    values: Values, source: str, current: int, migrations: Mapping[int, Migration] | None = None
) -> dict[str, Any]:
    """The values as version ``current`` has them; the ones given are not changed. Without a version they are current.

    Args:
        source: what these settings are, for people.

    Raises:
        UserError: they are of a newer version, of one that is no longer known, or what they hold cannot be migrated.
    """
    steps = MIGRATIONS if migrations is None else migrations
    version = values.get("version", current)
    if isinstance(version, bool) or not isinstance(version, int) or version < FIRST_VERSION:
        raise UserError(
            f"{source} cannot be read.",
            f"Their version is {version!r}, which is none.",
            "The file was damaged or made by another program: start a new run with the same dataset.",
        )
    if version > current:
        raise UserError(
            f"{source} cannot be read.",
            f"They are of version {version}; this app knows versions up to {current}.",
            "Update the app, or start a new run with the same dataset.",
        )
    updated = copy.deepcopy(values)
    for number in range(version, current):
        if number not in steps:
            raise UserError(
                f"{source} cannot be read.",
                f"They are of version {version}, and this app no longer reads version {number}.",
                "Open them with an app of that time, or start a new run with the same dataset.",
            )
        try:
            updated = steps[number](updated)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{source} cannot be read.",
                f"They are of version {version}; bringing them up to date failed ({type(error).__name__}: {error}).",
                "Start a new run with the same dataset; checkpoints of this one can still be exported.",
            ) from error
        updated["version"] = number + 1
    return updated
