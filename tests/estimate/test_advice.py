"""The advice: when a net should follow its control images, how long to train, and how many images a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest

from engine.estimate.advice import Advice, advise, rounded
from engine.estimate.sudden_convergence import BEGINS, Progress, Recorded, RunPlan
from engine.evaluation.verdict import MIN_GAIN, convergence
from tests.evaluation.test_verdict import Curve

PLAN = RunPlan(steps=4_000, images_per_step=4, images=5_000, seconds_per_step=2.0, measured=True)
DEMO = RunPlan(steps=300, images_per_step=8, images=736, published=False)


def span(advice: Advice) -> tuple[int, int, int]:
    assert advice.follows is not None
    found = advice.follows
    assert found.low <= found.likely <= found.high
    return round(found.low), round(found.likely), round(found.high)


def words(advice: Advice) -> str:
    return "\n".join(line.words for line in advice.lines)


def recorded(name: str, same_images: bool = False) -> Recorded:
    """A recorded run as the workspace would tell of it."""
    curve = Curve(name)
    since = convergence(curve.checks)
    assert since is not None
    return Recorded(name, since, since - 10, curve.config.images_per_step, same_images)


def test_without_recorded_runs_the_authors_figures_are_the_range() -> None:
    advice = advise(PLAN)
    assert span(advice) == (3_000, 4_583, 7_000)
    assert advice.steps == 18_000 and advice.seconds == 36_000 and advice.images_per_step == 4
    assert "after 3,000 to 7,000 steps, most likely about 4,600; that is 1 h 40 min to 3 h 53 min" in words(advice)
    assert "authors saw it after 3,000 to 7,000 steps of 4 images." in words(advice)
    assert "about 18,000 steps, 10 h in total (now set to 4,000)" in words(advice)


@pytest.mark.parametrize(
    ("batch", "low", "high", "wanted"),
    [(1, 12_000, 28_000, 4), (2, 6_000, 14_000, 4), (8, 1_500, 7_000, 8), (64, 188, 7_000, 64), (256, 47, 7_000, 128)],
)
def test_other_numbers_of_images_per_step(batch: int, low: int, high: int, wanted: int) -> None:
    advice = advise(replace(PLAN, images_per_step=batch))
    assert span(advice)[::2] == (low, high)
    assert advice.images_per_step == wanted
    assert (f"(now set to {batch})" in words(advice)) is (batch != wanted)


def test_never_more_images_a_step_than_there_are() -> None:
    assert advise(replace(PLAN, images=3, images_per_step=1)).images_per_step == 1
    assert advise(replace(PLAN, images=3, images_per_step=8)).images_per_step == 3


def test_few_images_limit_the_length() -> None:
    advice = advise(replace(PLAN, images=60))
    assert advice.steps == 15_000 and "each of 60 images is then shown 1,000 times" in words(advice)
    assert advise(replace(PLAN, images=0)).steps == 18_000, "their number is not known"


def test_nothing_is_said_of_a_tiny_base_until_a_run_was_recorded() -> None:
    advice = advise(DEMO)
    assert advice.follows is None and advice.steps == 0
    assert "control images: not known yet. No figures are published for runs like this one" in words(advice)
    rising = advise(DEMO, Progress(40, [(20, 0.001), (30, 0.01), (40, 0.03)]))
    assert span(rising)[0] == 40 and 40 < span(rising)[1] < 60, "from its own checks"
    assert "No figures" not in words(advise(DEMO, Progress(60, follows_since=50)))
    assert "authors" not in words(advise(replace(DEMO, recorded=(recorded("circles"),))))


@pytest.mark.parametrize("name", ["circles", "few", "four", "rest"])
def test_each_recorded_run_begins_within_the_range_that_the_others_give(name: str) -> None:
    """Four real runs of the demo's settings, each on other images."""
    others = tuple(recorded(other) for other in ("circles", "few", "four", "rest") if other != name)
    advice = advise(replace(DEMO, recorded=others))
    low, likely, high = span(advice)
    assert low <= recorded(name).steps <= high and 40 <= likely <= 140
    assert "3 runs in this workspace on other images" in words(advice)
    assert (" began to follow after 40 to 140 steps." in words(advice)) is (name in ("circles", "few"))


def test_a_run_on_the_same_images_counts_for_more() -> None:
    both = replace(DEMO, recorded=(recorded("circles", same_images=True), recorded("rest")))
    assert span(advise(both)) == (27, 50, 75)
    assert (
        "1 run in this workspace on these images, with the same base and control type, began to follow after 50"
        in words(advise(both))
    )
    assert advise(both).steps == 200


def test_recorded_runs_with_other_images_per_step_widen_the_range() -> None:
    """16 images a step: as many steps, or as many images."""
    plan = replace(DEMO, images_per_step=16, recorded=(recorded("circles", same_images=True),))
    assert span(advise(plan)) == (13, 35, 75) and "after 50 steps of 8 images" in words(advise(plan))


def test_runs_on_other_images_narrow_the_authors_range() -> None:
    found = Recorded("cats", 2_000, 1_900, 4, same_images=False)
    assert span(advise(replace(PLAN, recorded=(found,)))) == (3_000, 3_000, 6_000)
    far = replace(found, steps=300, before=250)
    assert span(advise(replace(PLAN, recorded=(far,)))) == (83, 300, 900), "this workspace is believed"


def at(name: str, steps: Sequence[int]) -> dict[int, Advice]:
    """The advice on a recorded run at its checks, as it was told while it went."""
    curve = Curve(name)
    plan = replace(DEMO, recorded=(recorded("rest"),))
    found = {}
    for step in steps:
        checks = curve.upto(step)
        progress = Progress(step, [(c.step, c.gain_share) for c in checks], convergence(checks), 0.5)
        found[step] = advise(plan, progress)
    return found


def test_the_range_follows_the_checks_of_a_recorded_run() -> None:
    """ "circles" follows since step 50, which the check of step 60 confirms."""
    told = at("circles", (0, 20, 40, 50, 60, 300))
    assert span(told[0]) == (43, 140, 420)
    assert span(told[20]) == (43, 140, 420), "nothing has happened yet"
    assert span(told[40]) == (40, 53, 80), "the gain rises"
    assert "The control gain has risen to 3.0%" in words(told[40])
    assert 50 < span(told[50])[1] <= 70
    assert told[60].follows is None and "since step 50" in words(told[60])
    assert told[60].steps == 200 == told[300].steps and "2 min in total" in words(told[60])
    assert "A step takes 0.5 s, measured in this run." in words(told[60])


def test_without_a_sign_the_range_shrinks_and_then_it_is_late() -> None:
    lows = [advise(PLAN, Progress(step)) for step in (0, 2_900, 4_000, 6_900)]
    assert [span(one)[0] for one in lows] == [3_000, 3_000, 4_000, 6_900]
    assert all(a <= b for a, b in pairwise(span(one)[1] for one in lows)) and not any(one.late for one in lows)
    assert "by step 7,000, most likely about step 4,600 (in about 19 min)" in words(lows[2])
    late = advise(PLAN, Progress(7_000, [(0, 0.0), (3_500, 0.001), (7_000, 0.0)]))
    assert late.late and late.follows is None and "not yet, later than expected" in words(late)


def test_noise_of_the_gain_is_no_sign() -> None:
    slow = at("slow", (60, 120))
    assert not any("has risen" in words(one) for one in slow.values())
    assert "has risen" not in words(advise(PLAN, Progress(300, [(100, 0.0), (200, 0.001), (300, 0.002)])))


def test_the_measured_pace_replaces_the_estimate() -> None:
    before, during = advise(PLAN), advise(PLAN, Progress(100, seconds_per_step=0.25))
    assert "A step takes 2 s, measured." in words(before) and before.seconds_per_step == 2.0
    assert during.seconds_per_step == 0.25 and during.seconds == before.steps * 0.25
    assert "a rough estimate" in words(advise(replace(PLAN, measured=False)))


def test_a_net_follows_where_the_verdict_says_so() -> None:
    assert BEGINS == MIN_GAIN


@pytest.mark.parametrize(("steps", "told"), [(0.2, 1), (47, 47), (188, 190), (4_583, 4_600), (18_330, 18_000)])
def test_figures_have_two_digits(steps: float, told: int) -> None:
    assert rounded(steps) == told
