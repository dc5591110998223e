"""Maps that came with the images of a paired dataset."""

from __future__ import annotations

from engine.conditions.declaration import ConditionType

OWN = ConditionType(
    name="own",
    title="My own maps",
    teaches="Whatever your maps show: the net learns how each map relates to its image.",
)
