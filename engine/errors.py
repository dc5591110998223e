"""Errors that are shown to people."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can act on: what happened, why, and what to try. Each is one clear sentence."""

    def __init__(self, what: str, why: str, try_this: str) -> None:
        super().__init__(f"{what} {why} {try_this}")
        self.what = what
        self.why = why
        self.try_this = try_this


class DataGone(UserError):
    """A file of the dataset is missing or broken. The weights are not touched by that: a run can be saved."""
