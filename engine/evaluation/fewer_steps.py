"""The verdict on a run that distils: how its few steps score beside the usual number of steps (docs/fewer-steps.md).

A pure function of the figures of its preview images.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.evaluation.verdict import Verdict
from engine.evaluation.verdict_rules import Figures
from engine.machine.units import counted

GAP = "gap"
"""Key, in the figures of preview images, of their adherence minus that of the untrained base ("reference"); "gap_low"
and "gap_high" are its 95 % interval."""
MARGIN = 0.05
"""Adherence below that of the usual number of steps by less than this is as good."""
UNMEASURED = "There is no score without a ControlNet and condition maps: compare the preview images with the originals."


def judge_fewer_steps(figures: Figures, steps: int, usual: int, checkpoints: Sequence[int] = ()) -> Verdict:
    """The verdict on a run so far.

    Args:
        figures: (step, figures) of the preview images.
        steps: in which the previews are drawn.
        usual: steps of the untrained base's images.
        checkpoints: steps of the checkpoints on disk.
    """
    rows = [(step, values) for step, values in figures if GAP in values]
    if not rows:
        return Verdict("too_early", UNMEASURED if figures else "Nothing has been measured yet.")
    last_step, last = rows[-1]
    gaps = {step: values[GAP] for step, values in rows if step in checkpoints}
    best = max(gaps, key=lambda step: (gaps[step], step), default=None)
    evidence = (
        f"Adherence in {counted(steps, 'step')}: {last['reference'] + last[GAP]:.2f}; of the untrained base in "
        f"{counted(usual, 'step')}: {last['reference']:.2f}. Difference {last[GAP]:+z.2f} (95 % interval "
        f"{last['gap_low']:+z.2f} to {last['gap_high']:+z.2f}), from the same control images and seeds.",
    )
    named = f" Best checkpoint so far: step {best:,}." if best is not None else ""
    if last["gap_low"] >= -MARGIN:
        text = f"{counted(steps, 'step')} follow the control image as well as {usual:,} do."
        return Verdict("as_good", text + named, evidence, since=last_step, best=best)
    if last[GAP] >= -MARGIN:
        text = (
            f"{counted(steps, 'step')} follow the control image about as well as {usual:,} do; more preview images "
            "would make that certain."
        )
        return Verdict("as_good", text + named, evidence, since=last_step, best=best)
    text = f"{counted(steps, 'step')} do not follow the control image as well as {usual:,} do yet."
    return Verdict("behind", text + named, evidence, best=best)
