"""The settings of one image to draw, each declared once.

The command line (engine/cli/sample.py), the form of Try it (ui/try_it/try_panels.py), the text inside a PNG
(image_info.py), the check before drawing (request.py) and the grouping into batches (session.py) are all made from
these declarations. The field names are keys in PNG files: a renamed one needs a migration in image_info.py.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from engine.config import RunConfig
from engine.inference import samplers

SIZE_STEP = 64
"""Step of the image size in px: the UNet halves the latents, an eighth of the size, three times."""
MAX_SIDE = 2048
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
    """The form puts it beside the setting before it."""
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
            text = str(value or "").strip().strip('"')
            return Path(text).expanduser() if text else None
        if self.kind is float:
            return value
        return self.kind(value or self.kind())

    def stored(self, value: Any) -> str | int | float | bool:
        """Convert a value to what is stored in a PNG."""
        return str(value or "") if self.kind is Path else value


def setting(default: Any, title: str, help: str, **declared: Any) -> Any:
    """Declare a setting as a dataclass field. ``declared``: see ``Setting``."""
    return field(default=default, metadata={"setting": Setting(title, help, **declared)})


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """Settings in which the images of one batch may differ."""

    prompt: str = setting(MISSING, "Prompt", "What the image should show.", lines=2, max_lines=20, panel="main")
    negative: str = setting("", "Negative prompt", "What the image should not show.", max_lines=3)
    seed: int = setting(
        0,
        "Seed",
        "The same seed draws the same image.",
        ge=0,
        le=2**62 - 1,
        panel="main",
        a1111="Seed",
    )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the images of one batch are sampled."""

    sampler: str = setting(
        samplers.DEFAULT, "Sampler", "How the noise is removed.", choices=samplers.SAMPLERS, a1111="Sampler"
    )
    steps: int = setting(
        20,
        "Sampling steps",
        "20 to 30 is usual; more is slower.",
        ge=1,
        le=1000,
        slider=(1, 100, 1),
        same_row=True,
        from_run="validation.sampling_steps",
        a1111="Steps",
    )
    guidance: float = setting(
        7.5,
        "Guidance (CFG) scale",
        "How closely the image follows the prompt; 7 to 8 is usual.",
        ge=1,
        le=100,
        slider=(1, 20, 0.5),
        from_run="validation.guidance_scale",
        a1111="CFG scale",
    )
    strength: float = setting(
        1.0,
        "Control strength",
        "0: off, 1: as trained.",
        ge=0,
        le=10,
        slider=(0, 2, 0.05),
        panel="main",
        same_row=True,
        from_run="validation.strength",
        a1111_control="Weight",
    )
    balance: str = setting(
        "balanced",
        "Control mode",
        "Which one wins if the prompt and the control image contradict each other.",
        choices=samplers.BALANCES,
        panel="control",
        a1111_control="Control Mode",
    )
    start: float = setting(
        0.0,
        "Start percent",
        "As a fraction of the steps; 0: from the first.",
        ge=0,
        le=1,
        slider=(0, 0.95, 0.05),
        panel="control",
        a1111_control="Guidance Start",
    )
    end: float = setting(
        1.0,
        "End percent",
        "Below 1 the last steps follow the prompt alone.",
        ge=0,
        le=1,
        slider=(0.05, 1, 0.05),
        panel="control",
        same_row=True,
        a1111_control="Guidance End",
    )
    guess: bool = setting(
        False,
        "Guess mode",
        "The image is guessed from the control image alone: leave the prompt empty, guidance (CFG) scale 3 to 5.",
        panel="control",
    )


@dataclass(frozen=True, kw_only=True)
class DrawSettings(SamplingOptions, PromptSettings):
    """Everything that can be set for one image."""

    clip_skip: int = setting(
        1,
        "Clip skip",
        "As the run was trained: 1 reads the text encoder's last layer, 2 the last but one.",
        ge=1,
        le=12,
        slider=(1, 12, 1),
        from_run="model.clip_skip",
        a1111="Clip skip",
    )

    width: int = setting(
        512,
        "Width",
        "",
        unit="px",
        ge=SIZE_STEP,
        le=MAX_SIDE,
        slider=(SIZE_STEP, MAX_SIDE, SIZE_STEP),
        from_run="data.resolution",
    )
    height: int = setting(
        512,
        "Height",
        "",
        unit="px",
        ge=SIZE_STEP,
        le=MAX_SIDE,
        slider=(SIZE_STEP, MAX_SIDE, SIZE_STEP),
        same_row=True,
        from_run="data.resolution",
    )
    change: float = setting(
        0.75,
        "Denoising strength",
        "How much of the image changes: a low value keeps it, 1 ignores it; 0.75 is usual.",
        gt=0,
        le=1,
        slider=(0.05, 1, 0.05),
        panel="img2img",
        a1111="Denoising strength",
    )
    second: Path | None = setting(
        None,
        "Second ControlNet",
        "Another run, or the path of a file or folder.",
        panel="second",
        metavar="NET",
    )
    second_strength: float = setting(
        1.0,
        "Strength of the second ControlNet",
        "",
        ge=0,
        le=10,
        slider=(0, 2, 0.05),
        panel="second",
    )
    base: str = setting(
        MISSING,
        "Base model",
        "A name in the models folder, a path or a Hugging Face id; of the same family as the run's base.",
        panel="base",
        restored=False,  # the run brings its own, and a path is of no use on another computer
    )


@cache
def declared(cls: type | None = None) -> Mapping[str, Setting]:
    """Return the settings that a class declares (default: ``DrawSettings``), by name and in order."""
    cls = cls or DrawSettings
    hints = typing.get_type_hints(cls)
    found = {}
    for one in fields(cls):
        if "setting" in one.metadata:
            kind = Path if hints[one.name] == Path | None else hints[one.name]
            default = None if one.default is MISSING else one.default
            found[one.name] = replace(one.metadata["setting"], name=one.name, kind=kind, default=default)
    return MappingProxyType(found)


def run_defaults(config: RunConfig) -> dict[str, Any]:
    """Return the settings with which a run draws its own previews, as far as it has them."""
    plain = config.model_dump()
    found = {}
    for one in declared().values():
        if one.from_run:
            section, name = one.from_run.split(".")
            found[one.name] = plain[section][name]
    return found
