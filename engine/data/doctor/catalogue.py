"""All findings, in the order of the page.

To add one: a declaration and its test in the module of its group, a line in that module's FINDINGS, and a planted
example in tests/data/doctor/planted.py.
"""

from __future__ import annotations

from engine.data.doctor import captions, classes, duplicates, files, images, lost_lines, names, pairs
from engine.data.doctor.finding import Finding
from engine.errors import UserError

ALL: tuple[Finding, ...] = (
    *pairs.FINDINGS,
    *lost_lines.FINDINGS,
    *duplicates.FINDINGS,
    *images.FINDINGS,
    *captions.FINDINGS,
    *classes.FINDINGS,
    *names.FINDINGS,
    *files.FINDINGS,
)
BY_NAME = {finding.name: finding for finding in ALL}
SEVERITIES = ("serious", "warning", "note")
assert len(BY_NAME) == len(ALL), "two findings have the same name"


def named(name: str) -> Finding:
    """The finding of this name.

    Raises:
        UserError: there is none.
    """
    if name not in BY_NAME:
        raise UserError(f"There is no finding named {name}.", f"Available: {', '.join(BY_NAME)}.", "Choose one.")
    return BY_NAME[name]
