"""A caution before a run starts, for people, and the facts that the rules need. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.config import RunConfig
from engine.data.balance import ImageClass
from engine.estimate.sudden_convergence import Recorded

Level = Literal["red", "yellow", "note"]
LEVELS: tuple[Level, ...] = ("red", "yellow", "note")
"""red: the run would be pointless, so Start asks for confirmation. yellow: the result would be worse than necessary.
note: what to expect."""
Place = Literal["", "base", "dataset", "captions", "doctor", "conditions"]

SMALL_NET = 100_000_000
"""A base with fewer parameters is a toy, to which usual learning rates, batches and numbers of steps do not apply."""


@dataclass(frozen=True)
class StartFacts:
    """Facts, other than the settings, that the rules use."""

    listed: int = 0
    """Images in the dataset."""
    images: int = 0
    """Those that the run can use: with a control image, if it needs one."""
    too_small: int = 0
    """Images whose shorter side is below the resolution."""
    without_caption: int = 0
    without_word: int = 0
    """Captions without the word that the run gives a meaning to; 0 if it does not."""
    begun_tokens: tuple[str, ...] = ()
    """Words, digits and punctuation marks that a new word begins as; the base reads each as a token, if it knows it."""
    begun_unknown: frozenset[str] = frozenset()
    """Those that it reads in pieces."""
    found: Mapping[str, int] = field(default_factory=dict)
    """How often the dataset check made each finding, if it was run since the dataset last changed."""
    checked: bool = True
    """It was run since then."""
    own_shapes: bool = False
    """The images are the demo's coloured shapes."""
    on_demo_base: bool = False
    parameters: int = 0
    """Of the base's denoiser."""
    base_side: int = 0
    """Pixels for which the base was made; 0: unknown."""
    classes: tuple[ImageClass, ...] = ()
    """With class balance: the classes of all images, held-out ones among them."""
    lacks_optional_text: bool = False
    """The base comes without T5, and may be used so."""
    base_error: float | None = None
    """The base's own error on these images (engine/training/base_check.py), if a run or a trial measured it."""
    demo_rate: float = 0.0
    """The demo preset's learning rate, on the demo base; else 0."""
    disk_needed: float = 0.0
    """Bytes that the run takes at most."""
    disk_free: float = math.inf
    seconds_per_image: float = 0.0
    """Of training; 0: unknown."""
    measured: bool = False
    """``seconds_per_image`` was measured on this machine."""
    on_card: bool = True
    recorded: tuple[Recorded, ...] = ()
    """Runs like this one that began to follow their control images."""

    @property
    def toy(self) -> bool:
        """The base is tiny, like the demo's."""
        return 0 < self.parameters < SMALL_NET


@dataclass(frozen=True)
class Remedy:
    """Other settings that would help: a button that fills the form."""

    title: str
    settings: Mapping[str, Any]
    """Values by dotted name."""


@dataclass(frozen=True)
class Caution:
    """One line for people: what, why, and what to do."""

    level: Level
    what: str
    why: str
    try_this: str
    offer: Remedy | None = None
    look: Place = ""
    """Where the user can do something about it."""
    anyway: str = ""
    """Text of the button that starts the run anyway. Only red ones have it."""
    rule: str = ""
    """Name of the rule, which ``cautions`` fills in."""

    @property
    def words(self) -> str:
        """All of it in a line, for the command line."""
        return f"{self.what} {self.why} {self.try_this}"


Rule = Callable[[RunConfig, StartFacts], Caution | None]
