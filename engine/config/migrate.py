"""Settings of earlier versions, brought up to date before they are checked.

Presets, run files and ``--set`` carry no version, so a migration looks at the values themselves: it replaces what is
out of date and leaves current values as they are. All of them are applied, in order, to whatever is read.

Worked example. ``train.steps`` is renamed to ``train.length``: add a function here that moves the value if the old name
is there, and list it in ``MIGRATIONS``. A new setting with a default needs nothing. Raise ``CONFIG_VERSION`` in the
package when an older app must not open the new settings: it refuses a higher number than its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from engine.errors import UserError

Values = dict[str, Any]
Migration = Callable[[Values], None]


def checkpointing_was_a_switch(values: Values) -> None:
    """``train.gradient_checkpointing`` was true or false before the base could be checkpointed, too."""
    train = values.get("train")
    if isinstance(train, dict) and isinstance(train.get("gradient_checkpointing"), bool):
        train["gradient_checkpointing"] = "controlnet" if train["gradient_checkpointing"] else "none"


MIGRATIONS: tuple[Migration, ...] = (checkpointing_was_a_switch,)
"""Each changes the values it is given, if they are out of date."""


def migrated(values: Values, source: str = "These settings", version: int | None = None) -> Values:
    """A copy of nested settings, brought up to date.

    Args:
        source: what these settings are, for messages.
        version: the version that this app writes; None: the settings carry none.

    Raises:
        UserError: they were written by a newer version of the app, or are damaged.
    """
    if version is not None:
        _check_version(values.get("version", version), source, version)
    updated = copy.deepcopy(values)
    for migrate in MIGRATIONS:
        try:
            migrate(updated)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{source} cannot be read.",
                f"They are from an older version and could not be converted ({type(error).__name__}: {error}).",
                "Start a new run with the same dataset; checkpoints of an old run can still be exported.",
            ) from error
    return updated


DEFAULTS_BEFORE = {
    "data.long_captions": "cut",
    "data.text_cache": "half",
    "train.allow_tf32": False,
    "optim.half_gradients": False,
    "objective.image_weights": False,
    "train.modulation_storage": "base",
    "model.low_rank_over": "base",
}
"""Settings whose default is not what the app did before it had them."""


def of_a_run(values: Values) -> Values:
    """The settings in a run's run.json, with those that it does not know as they were when it began.

    run.json holds all settings that its app had. So one that is missing was added later, and the run continues as it
    began.
    """
    updated = copy.deepcopy(values)
    for dotted, before in DEFAULTS_BEFORE.items():
        section, name = dotted.split(".")
        if isinstance(updated.setdefault(section, {}), dict):
            updated[section].setdefault(name, before)
    return updated


def _check_version(found: Any, source: str, known: int) -> None:
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise UserError(
            f"{source} cannot be read.",
            f"Their version is {found!r}, which is not a version number.",
            "The file was damaged or made by another program: start a new run with the same dataset.",
        )
    if found > known:
        raise UserError(
            f"{source} cannot be read.",
            f"They have version {found}; this app reads versions up to {known}.",
            "Update the app, or start a new run with the same dataset.",
        )
