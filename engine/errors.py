"""Errors that are shown to people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Offer:
    """A way to resume a run that has failed: a button in the window, a command on the command line."""

    title: str
    """The text of the button."""
    run: str
    """The run's folder name."""
    settings: Mapping[str, Any]
    """New values by dotted name."""
    from_step: int | None = None
    """Go back to the checkpoint of this step; 0: from scratch; None: the newest."""
    words: str = ""
    """What changes, as a clause."""

    @property
    def arguments(self) -> list[str]:
        """Arguments of ``python -m engine.cli`` that do the same."""
        back = [] if self.from_step is None else ["--from-step", str(self.from_step)]
        changes = [word for name, value in self.settings.items() for word in ("--set", f"{name}={_toml(value)}")]
        return ["resume", self.run, *back, *changes]


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class UserError(Exception):
    """Something the user can act on: what happened, why, and what to try. Each is one clear sentence."""

    def __init__(self, what: str, why: str, try_this: str, offers: tuple[Offer, ...] = ()) -> None:
        super().__init__(f"{what} {why} {try_this}")
        self.what = what
        self.why = why
        self.try_this = try_this
        self.offers = offers
        """Ways to resume the run that has failed, the most promising first."""


def choose_from(known: Iterable[str], typed: str = "", limit: int = 20) -> str:
    """Advice for a name that is not known: the nearest one there is, if any is near, and the names to choose from.

    Args:
        known: the names, the likeliest first. At most ``limit`` are listed.
    """
    names = list(known)
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    listed = f"Choose one of these: {', '.join(names[:limit])}{more}." if names else ""
    return f"{did_you_mean(typed, names)} {listed}".strip()


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """A question with the name that is nearest to what was typed, by letters or by its last part. Empty: none."""
    names = list(known)
    last = typed.rpartition(".")[2]
    found = [name for name in names if "." in name and name.rpartition(".")[2] == last]
    lower = {name.lower(): name for name in reversed(names)}
    found += [lower[name] for name in difflib.get_close_matches(typed.lower(), lower, n=1)]
    return f"Did you mean {found[0]}?" if typed and found else ""


class DataGone(UserError):
    """A file of the dataset is missing or broken. The weights are not touched by that: a run can be saved."""


class TrainingBroke(UserError):
    """Losses, gradients or weights of a run are NaN or infinite. ``step``: the step that could not be taken."""

    def __init__(self, step: int, what: str, why: str, try_this: str) -> None:
        super().__init__(what, why, try_this)
        self.step = step
