"""What the form shows on each open page, so that only what a person has changed there is taken from it.

A page sends all values of its form with each event. It may still show the values of an earlier preset or base, because
a redraw is on its way, or lack what was entered on another page: such values are no choice of the user's.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PAGES = 200
"""Renderings that are remembered. A page whose rendering was dropped is older than that many redraws."""


@dataclass
class Shown:
    """One rendering of the form on one page."""

    number: int
    """Of the draft that was rendered."""
    values: dict[str, Any]
    """What the page has shown and sent, by name."""
    sent: float = 0.0
    """When the page sent them: its own clock, milliseconds."""

    def take(self, given: Mapping[str, Any], sent: float = 0.0) -> dict[str, Any]:
        """Return the values that were changed on the page since the last call.

        None if the page has sent later ones already, which have all that these have: requests of a busy browser
        overtake each other.

        Args:
            sent: when the page sent them; 0: not known, they are taken for the latest.
        """
        if sent and sent < self.sent:
            return {}
        self.sent = max(sent, self.sent)
        edited = {name: value for name, value in given.items() if name not in self.values or self.values[name] != value}
        self.values.update(edited)
        return edited


class ShownForms:
    """The renderings by their stamp, a number that each page holds in a hidden field and sends along."""

    def __init__(self) -> None:
        self._shown: OrderedDict[int, Shown] = OrderedDict()
        self._last = 0
        self._lock = threading.Lock()

    def add(self, number: int, values: Mapping[str, Any]) -> int:
        """Remember a rendering of the draft ``number`` and return its stamp."""
        with self._lock:
            self._last += 1
            self._shown[self._last] = Shown(number, dict(values))
            while len(self._shown) > PAGES:
                self._shown.popitem(last=False)
            return self._last

    def get(self, stamp: Any) -> Shown | None:
        """Return a rendering, or None if it is unknown."""
        with self._lock:
            return self._shown.get(int(stamp or 0))
