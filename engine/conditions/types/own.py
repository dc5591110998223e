"""Maps that the user brings along, or that a paired set came with."""

from __future__ import annotations

from engine.conditions.declaration import ConditionType

OWN = ConditionType(
    name="own",
    title="My own maps",
    teaches="Whatever your maps show: the net learns the link between each map and its image.",
)
