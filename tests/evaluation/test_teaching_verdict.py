"""The verdict on runs that teach the base, on recorded curves and on changed ones (marked "synthetic").

The curves are real runs: python -m benchmarks.teaching_curves tests/evaluation/teaching_curves
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.teaching_curves import RUNS
from engine.config import parse
from engine.evaluation.run_verdict import judge_run
from engine.evaluation.teaching_verdict import TeachingFacts, best_checkpoint, judge_teaching
from engine.evaluation.verdict import Verdict
from engine.jobs.events import BaseChecked
from engine.jobs.snapshot import JobSnapshot

CURVES = Path(__file__).with_name("teaching_curves")
FACTS = TeachingFacts(total_steps=1_500, learning_rate=1e-4, images=64)


class Curve:
    """A recorded run."""

    def __init__(self, name: str) -> None:
        recorded = json.loads((CURVES / f"{name}.json").read_text(encoding="utf-8"))
        self.checks = [BaseChecked(**entry) for entry in recorded["checks"]]
        self.figures: list[tuple[int, dict[str, float]]] = [(step, values) for step, values in recorded["figures"]]
        self.config = parse(recorded["settings"])
        self.images = int(recorded["images"])

    def upto(self, step: int) -> Verdict:
        """The verdict after the check of a step, with a checkpoint at every second check."""
        checks = tuple(check for check in self.checks if check.step <= step)
        figures = tuple((at, values) for at, values in self.figures if at <= step)
        saved = [check.step for check in checks[2::2]]
        return judge_run(self.config, JobSnapshot(base_checks=checks, figures=figures), saved, self.images)

    def check_at(self, step: int) -> BaseChecked:
        """The last check up to a step."""
        return [check for check in self.checks if check.step <= step][-1]

    @property
    def verdict(self) -> Verdict:
        return self.upto(self.checks[-1].step)


@pytest.fixture(scope="module")
def usual() -> Curve:
    return Curve("usual")


def preserved(checks: Sequence[BaseChecked]) -> list[BaseChecked]:
    """Synthetic: the same run with a tenth of its drift."""
    return [replace(check, drift=check.drift / 10) for check in checks]


def test_every_recorded_run_has_its_settings() -> None:
    assert {path.stem for path in CURVES.glob("*.json")} == {*RUNS}


@pytest.mark.parametrize(
    ("name", "kind", "by", "cause"),
    [
        ("hot", "broken", 20, "learning rate (0.03) is too high"),
        ("few", "memorizing", 160, "8 training images are few"),
        ("usual", "forgetting", 60, "Nothing in the run preserves what the base knows"),
    ],
)
def test_a_planted_fault_is_told_with_its_cause(name: str, kind: str, by: int, cause: str) -> None:
    curve = Curve(name)
    for verdict in (curve.upto(by), curve.verdict):
        assert verdict.kind == kind, verdict.sentence
        assert any(cause in found.text for found in verdict.causes)


def test_at_a_tenth_and_a_hundredth_of_the_rate_the_base_learns_later_and_forgets_less(usual: Curve) -> None:
    slow, meek = Curve("slow"), Curve("meek")
    assert (slow.verdict.kind, meek.verdict.kind) == ("improving", "improving")
    assert slow.checks[-1].drift < slow.checks[-1].gain < usual.checks[-1].drift
    assert meek.checks[-1].gain < 0.5 * usual.check_at(meek.checks[-1].step).gain


def test_preservation_keeps_the_drift_below_the_gain(usual: Curve) -> None:
    kept = Curve("kept")
    last = kept.checks[-1]
    assert kept.verdict.kind == "improving"
    assert last.drift < 0.5 * last.gain and last.drift < 0.4 * usual.check_at(last.step).drift
    assert judge_teaching(usual.checks, replace(FACTS, preserves=True)).causes[0].text.startswith("The learning rate")


def test_a_run_whose_drift_stays_small_improves_and_a_long_rest_is_flat(usual: Curve) -> None:
    checks = preserved(usual.checks)
    verdict = judge_teaching(checks, FACTS, [40, 160])
    assert verdict.kind == "improving" and verdict.follows_since is not None and verdict.causes == ()
    assert "Gain: " in verdict.evidence[0] and "Drift: " in verdict.evidence[1]
    last = checks[-1]
    rest = [replace(last, step=last.step + 10 * number) for number in range(1, 30)]
    assert judge_teaching([*checks, *rest], FACTS).kind == "flat"


def test_nothing_is_said_too_early(usual: Curve) -> None:
    assert judge_teaching([], FACTS).kind == "too_early"
    assert judge_teaching(usual.checks[:1], FACTS).evidence == ()
    still = [replace(check, gain=0.002, gain_error=0.01, training_gain=0.002, drift=0) for check in usual.checks]
    verdict = judge_teaching(still, FACTS)
    assert verdict.kind == "not_learning" and "may be too low" in verdict.causes[0].text


def test_the_best_checkpoint_has_the_most_gain_for_its_drift_among_the_highest_gains() -> None:
    def check(step: int, gain: float, drift: float) -> BaseChecked:
        return BaseChecked(step, step, 1 - gain, 1 - gain, gain, 0.0, gain, drift, 0.0, 0.1)

    gains = {0: (0, 0), 10: (0.1, 0.001), 20: (0.29, 0.1), 30: (0.3, 0.1), 40: (0.3, 0.2), 50: (0.31, 0.6)}
    checks = [check(step, gain, drift) for step, (gain, drift) in gains.items()]
    assert best_checkpoint(checks, [10, 20, 30, 40, 50]) == 30, "not 10, whose gain is a third"
    assert best_checkpoint(checks, [10, 50]) == 50
    assert best_checkpoint(checks, []) is None and best_checkpoint(checks[:1], [0]) is None


def test_previews_that_copy_training_images_are_told_unless_the_dataset_repeats_itself(usual: Curve) -> None:
    """Synthetic figures."""

    def kind(copies: float, originals: float) -> str:
        figures: list[tuple[int, dict[str, Any]]] = [
            (step, {"near_copies": copies, "near_originals": originals}) for step in (50, 100)
        ]
        return judge_teaching(preserved(usual.checks), FACTS, (), figures).kind

    assert (kind(0.5, 0.0), kind(0.125, 0.0), kind(0.5, 0.5)) == ("memorizing", "improving", "improving")


def test_both_losses_above_the_bases_are_worse(usual: Curve) -> None:
    """Synthetic."""
    first = usual.checks[0]
    higher = {"held_out_loss": 1.2 * first.held_out_loss, "training_loss": 1.2 * first.training_loss, "gain": -0.2}
    worse = [replace(check, **higher) for check in usual.checks[1:]]
    verdict = judge_teaching([first, *worse], FACTS, [0])
    assert verdict.kind == "worse" and "20% higher" in verdict.sentence
