"""All condition types, in the order of the page.

CONTRIBUTING.md shows how to add one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.conditions.declaration import ConditionType, Parameter, Value
from engine.conditions.types.anime_lineart import ANIME_LINEART
from engine.conditions.types.canny import CANNY
from engine.conditions.types.colour_grid import COLOUR_GRID
from engine.conditions.types.depth import DEPTH
from engine.conditions.types.external import EXTERNAL
from engine.conditions.types.face import FACE
from engine.conditions.types.grey import GREY
from engine.conditions.types.inpaint import INPAINT
from engine.conditions.types.light_dark import LIGHT_DARK
from engine.conditions.types.lineart import LINEART
from engine.conditions.types.lineart_net import LINEART_NET
from engine.conditions.types.lines import LINES
from engine.conditions.types.luminance import LUMINANCE
from engine.conditions.types.normal import NORMAL
from engine.conditions.types.own import OWN
from engine.conditions.types.pose import POSE
from engine.conditions.types.qr_like import QR_LIKE
from engine.conditions.types.scribble import SCRIBBLE
from engine.conditions.types.segmentation import SEGMENTATION
from engine.conditions.types.shuffle import SHUFFLE
from engine.conditions.types.soft_edge import SOFT_EDGE
from engine.conditions.types.tile import TILE
from engine.errors import UserError, choose_from, did_you_mean

__all__ = [
    "REGISTRY", "ConditionType", "Parameter", "Registry", "Value", "all", "get", "resolve_parameters",
    "stored_parameters",
]  # fmt: skip


class Registry:
    """Condition types by name."""

    def __init__(self) -> None:
        self._types: dict[str, ConditionType] = {}

    def add(self, *types: ConditionType) -> None:
        """Checks and adds types. If an error is raised, the registry is left unchanged."""
        together = dict(self._types)
        for condition in types:
            if condition.name in together:
                raise ValueError(f"the condition type {condition.name} is already registered")
            condition.check()
            together[condition.name] = condition
        self._types = together

    def get(self, name: str) -> ConditionType:
        """Raises UserError for an unknown name."""
        if name not in self._types:
            raise UserError(
                f"There is no condition type named {name}.",
                "This version of the app does not have it. A newer version may.",
                choose_from(self._types, name, limit=len(self._types)),
            )
        return self._types[name]

    def title(self, name: str) -> str:
        """Title of a type; its name, if a newer version of the app has made it."""
        return self._types[name].title if name in self._types else name

    def all(self) -> list[ConditionType]:
        """Every type, in the order of the page."""
        return list(self._types.values())

    def stored_parameters(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Stored parameters of a type with those that were added since. Unchanged for a type that is not known."""
        return self._types[name].as_stored(values) if name in self._types else dict(values)

    def resolve_parameters(self, name: str, values: Mapping[str, Any] | None = None) -> dict[str, Value]:
        """All parameters of a type, with defaults for missing ones. Raises UserError that lists all problems."""
        condition = self.get(name)
        try:
            return condition.resolve(values or {})
        except ValueError as error:
            names = [parameter.name for parameter in condition.parameters]
            nearest = next(
                filter(None, (did_you_mean(given, names) for given in values or {} if given not in names)), ""
            )
            raise UserError(
                f"The parameters of {condition.title} are invalid.",
                f"{error}.",
                f"{nearest} Its parameters are: {', '.join(names) or 'none'}.".strip(),
            ) from error


REGISTRY = Registry()
REGISTRY.add(
    CANNY,
    SOFT_EDGE,
    SCRIBBLE,
    LINEART,
    LINEART_NET,
    ANIME_LINEART,
    LINES,
    DEPTH,
    NORMAL,
    SEGMENTATION,
    POSE,
    FACE,
    LIGHT_DARK,
    QR_LIKE,
    GREY,
    LUMINANCE,
    TILE,
    COLOUR_GRID,
    SHUFFLE,
    INPAINT,
    OWN,
    EXTERNAL,
)


def get(name: str) -> ConditionType:
    """A type by name. Raises UserError for an unknown one."""
    return REGISTRY.get(name)


def title(name: str) -> str:
    """Title of a type; its name, if a newer version of the app has made it."""
    return REGISTRY.title(name)


def all() -> list[ConditionType]:
    """Every type, in the order of the page."""
    return REGISTRY.all()


def stored_parameters(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored parameters of a type with those that were added since. Unchanged for a type that is not known."""
    return REGISTRY.stored_parameters(name, values)


def resolve_parameters(name: str, values: Mapping[str, Any] | None = None) -> dict[str, Value]:
    """All parameters of a type, with defaults for missing ones. Raises UserError that lists all problems."""
    return REGISTRY.resolve_parameters(name, values)
