"""A trainable made up for tests: the whole base is trained, and no images are drawn meanwhile.

It is no ControlNet and needs no condition maps, so it shows which parts of the engine would assume either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engine.families.sizes import Learned
from engine.tuning.build import BUILDERS
from engine.tuning.facts import CASES
from engine.tuning.trainable_facts import TrainableFacts

NOT_DRAWN = "Images are drawn with a ControlNet and a control image."

FACTS = TrainableFacts(
    "whole_denoiser",
    Learned(control=False, base="everything"),
    averages_base=True,
    needs_condition_maps=False,
    not_sharded=("the whole base",),
    trains="the whole base",
    not_drawn=NOT_DRAWN,
)


@contextmanager
def chosen() -> Iterator[None]:
    """Within the block every run's settings ask for it: one entry in each of the two lists."""
    CASES.insert(0, lambda config: FACTS)
    BUILDERS[FACTS.kind] = BUILDERS["whole_base"]
    try:
        yield
    finally:
        CASES.pop(0)
        del BUILDERS[FACTS.kind]
