"""How one setting of an image is declared: its title, bounds and choices, and where it appears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from engine.disk.typed_path import typed_path

Panel = Literal["main", "sampling", "control", "img2img", "second", "base"]
"""The part of the form to which a setting belongs."""


class Choice(Protocol):
    """One value of a setting with a fixed list. ``name`` is stored, ``title`` is shown and written as A1111 text.

    ``hint``: shown while it is selected; empty: the setting's own help.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def hint(self) -> str: ...


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting."""

    title: str
    help: str
    unit: str = ""
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    choices: Sequence[Choice] = ()
    slider: tuple[float, float, float] | None = None
    """Lowest and highest value and step of the slider, which may offer less than the bounds allow."""
    lines: int = 1
    max_lines: int = 1
    """Height of a text box."""
    panel: Panel = "sampling"
    same_row: bool = False
    """The form puts it next to the previous setting."""
    from_run: str = ""
    """Dotted name of the run's own setting from which form and command line take the default."""
    restored: bool = True
    """The form takes it over from a PNG."""
    a1111: str = ""
    """Key in the settings line of A1111's text."""
    a1111_control: str = ""
    """Key in the "ControlNet 0" entry of that line, as A1111's ControlNet extension writes it."""
    metavar: str | None = None
    """Name of the value in the command line's help."""
    name: str = ""
    kind: type = str
    """str, int, float, bool, or Path (then the value may be None)."""
    default: Any = None

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def bounds(self) -> str:
        """The bounds in words, as in "between 1 and 1,000 px"; empty if any value is allowed."""
        if self.ge is not None and self.le is not None:
            words = f"between {self.ge:,} and {self.le:,}"
        else:
            limits = (("above", self.gt), ("at least", self.ge), ("at most", self.le))
            words = " and ".join(f"{name} {limit:,}" for name, limit in limits if limit is not None)
        return f"{words} {self.unit}".strip() if words else ""

    def problem(self, value: Any) -> str:
        """Return a sentence that says what is wrong with a value, or an empty string."""
        if self.choices and value not in [name for one in self.choices for name in (one.name, one.title)]:
            known = ", ".join(one.name for one in self.choices)
            return f"There is no {self.title.lower()} called {value}; choose one of: {known}."
        low = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        if not (low and (self.le is None or value <= self.le)):
            return f"{self.title} must be {self.bounds}."
        return ""

    def read(self, value: Any) -> Any:
        """Convert a widget's value to the setting's type."""
        if self.kind is Path:
            text = typed_path(str(value or ""))
            return Path(text) if text else None
        if self.kind is float:
            return value
        return self.kind(value or self.kind())

    def stored(self, value: Any) -> str | int | float | bool:
        """Convert a value to what is stored in a PNG."""
        return str(value or "") if self.kind is Path else value


def setting(default: Any, title: str, help: str, **declared: Any) -> Any:
    """Declare a setting as a dataclass field. ``declared``: see ``Setting``."""
    return field(default=default, metadata={"setting": Setting(title, help, **declared)})
