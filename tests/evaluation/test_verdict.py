"""The rules of docs/verdict.md on recorded curves, and on synthetic continuations of them (marked "synthetic").

The curves are real runs: python -m benchmarks.verdict_curves tests/evaluation/curves
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.verdict_curves import RUNS
from engine.config import RunConfig, parse
from engine.evaluation.causes import Facts, verdict_facts
from engine.evaluation.verdict import Verdict, best_checkpoint, convergence, follows, judge
from engine.evaluation.verdict_rules import smooth
from engine.jobs.events import Checked

CURVES = Path(__file__).with_name("curves")
LONG = Facts(total_steps=20_000, learning_rate=1e-5, follows_by=40_000, training_pairs=5_000)


class Curve:
    """A recorded run."""

    def __init__(self, name: str) -> None:
        recorded = json.loads((CURVES / f"{name}.json").read_text(encoding="utf-8"))
        self.checks = [
            Checked(**(entry | {key: int(entry[key]) for key in ("step", "images_seen")}))
            for entry in recorded["checks"]
        ]
        self.scores: list[tuple[int, dict[str, float]]] = [(step, scores) for step, scores in recorded["scores"]]
        self.figures: list[tuple[int, dict[str, float]]] = [(s, values) for s, values in recorded.get("figures", [])]
        self.config: RunConfig = parse(recorded["settings"])
        self.facts = verdict_facts(self.config, recorded.get("pairs", 700))
        self.asked = replace(self.facts, found=recorded.get("doctor", {}))
        """The same run after a dataset check, with the findings that the check really had."""

    def upto(self, step: int, every: int = 1) -> list[Checked]:
        """Checks up to this step; with ``every`` only every n-th, as on a slower machine."""
        return [check for check in self.checks if check.step <= step][::every]

    def verdicts(self, checkpoints: Sequence[int] = ()) -> dict[int, Verdict]:
        """Step -> verdict after the check at that step."""
        found = {}
        for check in self.checks:
            at = check.step
            scores, figures = ([(s, values) for s, values in known if s <= at] for known in (self.scores, self.figures))
            saved = [s for s in checkpoints if s <= at]
            found[at] = judge(self.upto(at), self.facts, scores, saved, figures)
        return found


@pytest.fixture(scope="module")
def circles() -> Curve:
    return Curve("circles")


def continued(checks: list[Checked], count: int, **per_check: float) -> list[Checked]:
    """Synthetic: ``count`` more checks, each changing the named metrics by these factors with a jitter of 0.4 %."""
    longer = list(checks)
    gap = checks[-1].step - checks[-2].step
    for number in range(1, count + 1):
        last = checks[-1]
        jitter = 1 + 0.004 * (-1) ** number
        changes: dict[str, Any] = {name: getattr(last, name) * factor**number for name, factor in per_check.items()}
        changes["held_out_loss"] = changes.get("held_out_loss", last.held_out_loss) * jitter
        step = last.step + number * gap
        longer.append(replace(last, step=step, images_seen=8 * step, **changes))
    return longer


def at_rest(circles: Curve) -> list[Checked]:
    """The recorded run with its last check made the best one, as the start of a continuation."""
    lowest = min(check.held_out_loss for check in circles.checks)
    highest = max(check.gain_share for check in circles.checks)
    return [*circles.checks[:-1], replace(circles.checks[-1], held_out_loss=lowest, gain_share=highest)]


def test_every_recorded_run_has_its_settings() -> None:
    assert {path.stem for path in CURVES.glob("*.json")} == {*RUNS, "exact"}


def test_no_measurement_gives_no_verdict() -> None:
    assert judge([], LONG).kind == "too_early"


@pytest.mark.answers("How many images, how many steps, how long?")
def test_not_following_the_map_is_normal_at_first(circles: Curve) -> None:
    verdict = judge(circles.upto(0), circles.facts)
    assert verdict.kind == "not_following"
    assert "normal" in verdict.sentence


@pytest.mark.answers("It does nothing, and then suddenly works")
@pytest.mark.parametrize("every", [1, 2, 5], ids=["each 10 steps", "each 20", "each 50"])
def test_the_verdict_follows_when_the_images_do(circles: Curve, every: int) -> None:
    since = convergence(circles.upto(300, every))
    assert since is not None and 40 <= since <= 100
    before = [scores["iou"] for step, scores in circles.scores if step < since]
    after = [scores["iou"] for step, scores in circles.scores if step >= since + 100]
    assert min(after) > 2 * max(before)


@pytest.mark.parametrize("step", range(100, 301, 50))
def test_an_improving_run_is_never_called_flat_or_ignored(circles: Curve, step: int) -> None:
    verdict = judge(circles.upto(step), circles.facts)
    assert verdict.kind == "improving"
    assert "usable and still improving" in verdict.sentence


@pytest.mark.parametrize(
    ("sets", "kind"),
    [
        ([(50, 0.25, 0.11, 0.43)], "not_usable_yet"),
        ([(50, 0.12, 0.03, 0.14), (100, 0.25, 0.2, 0.29)], "not_usable_yet"),
        ([(50, 0.25, 0.11, 0.43), (100, 0.3, 0.2, 0.4)], "improving"),
        ([(50, 0.6, 0.5, 0.7), (100, 0.29, 0.2, 0.4)], "not_usable_yet"),
        ([(0, 0.05, 0.0, 0.1)], "improving"),
    ],
    ids=["straddles", "below", "above", "newest counts", "before it followed"],
)
def test_a_run_is_not_called_usable_while_its_images_are_not(
    circles: Curve, sets: list[tuple[int, float, float, float]], kind: str
) -> None:
    """Synthetic: the adherence of the recorded run's images."""
    scores = [(step, {"obeys": value, "adherence": 0.9}) for step, value, _, _ in sets]
    figures = [(step, {"obeys_low": low, "obeys_high": high}) for step, _, low, high in sets]
    verdict = judge(circles.upto(150), circles.facts, scores, (100, 150), figures)
    assert verdict.kind == kind
    assert ("usable and" in verdict.sentence) == (kind == "improving")
    assert (verdict.follows_since, verdict.best) == (convergence(circles.upto(150)), 150)
    if kind == "not_usable_yet":
        step, value, low, high = sets[-1]
        words = f"Not usable yet: the adherence of the images of step {step} is {value} ({low:.2f} to {high:.2f})"
        assert words in verdict.sentence and "still improving" in verdict.sentence


def test_scored_images_do_not_change_the_verdict_of_a_recorded_run() -> None:
    """While the scored images have an adherence of at most 0.1, no run is called usable."""
    for path in CURVES.glob("*.json"):
        if "checks" in (recorded := json.loads(path.read_text(encoding="utf-8"))) and recorded.get("scores"):
            verdicts = Curve(path.stem).verdicts()
            assert "not_usable_yet" not in {verdict.kind for verdict in verdicts.values()}


def test_blank_maps_are_noticed_at_the_first_check() -> None:
    blank = Curve("blank")
    for step in (0, 50, 120):
        verdict = judge(blank.upto(step), blank.facts)
        assert verdict.kind == "ignored"
        assert "blank" in verdict.causes[0].text and verdict.causes[0].look == "doctor"
    assert all(not follows(check) for check in blank.checks)


def test_a_net_that_never_follows_its_map_becomes_a_fault(circles: Curve) -> None:
    """Synthetic: the recorded run's first checks, repeated."""
    ignoring = continued(circles.upto(20), 600, training_loss=1.0)
    early = [check for check in ignoring if check.images_seen < LONG.follows_by]
    assert judge(early, LONG).kind == "not_following"
    verdict = judge(ignoring, LONG)
    assert verdict.kind == "ignored"
    assert len(verdict.causes) == 2


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (replace(LONG, learning_rate=1e-7), "very low"),
        (replace(LONG, training_pairs=60), "60 training pairs are not many"),
        (LONG, "inverted"),
    ],
)
def test_causes_start_with_those_visible_in_the_settings(circles: Curve, facts: Facts, words: str) -> None:
    ignoring = continued(circles.upto(20), 600)
    assert words in judge(ignoring, facts).causes[0].text


def test_the_dataset_check_is_suggested_or_quoted(circles: Curve) -> None:
    ignoring = continued(circles.upto(20), 600)
    asked = judge(ignoring, LONG).causes
    assert "check the dataset" in asked[0].text and asked[0].look == "doctor"
    known = judge(ignoring, replace(LONG, found={"map_inverted": 12, "map_blank": 1_400, "near_copy": 9})).causes
    assert [cause.text for cause in known[:2]] == [
        "The dataset check found 1,400 control images that are empty.",
        "The dataset check found 12 control images that are inverted.",
    ]
    clean = judge(ignoring, replace(LONG, found={})).causes
    assert [cause.look for cause in clean] == ["settings"], "nothing is wrong with the set"


def test_maps_with_a_wrong_value_range_are_a_cause(circles: Curve) -> None:
    """Synthetic: the recorded run's first checks, with maps of 0 to 1 instead of 0 to 255."""
    dim = [replace(check, map_difference=0.004) for check in continued(circles.upto(20), 600)]
    assert "0 to 1 instead of 0 to 255" in judge(dim, LONG).causes[0].text


def drawn(*ratios: tuple[float, float]) -> list[tuple[int, dict[str, float]]]:
    """Synthetic: previews every 100 steps, with these saturations and contrasts."""
    return [(100 * n, {"saturation": s, "contrast": c}) for n, (s, c) in enumerate(ratios)]


def test_colour_drift_is_reported_with_its_step(circles: Curve) -> None:
    figures = drawn((0.95, 1.0), (1.0, 1.02), (1.34, 1.1), (1.5, 1.2))
    verdict = judge(circles.upto(300), circles.facts, (), (), figures)
    assert (verdict.kind, verdict.since) == ("drifting", 200)
    assert "saturation is 150% of that of the originals (at the start 95%)" in verdict.sentence
    assert "contrast" not in verdict.sentence


@pytest.mark.parametrize(
    "ratios",
    [
        [(1.0, 1.0), (1.0, 1.0), (1.4, 1.0)],
        [(1.0, 1.0), (1.4, 1.0), (1.4, 1.0), (1.05, 1.0)],
        [(1.4, 0.6), (1.4, 0.6), (1.42, 0.6), (1.41, 0.62)],
        [(0.5, 1.5), (0.8, 1.2), (0.9, 1.1)],
        [(1.5, 1.0), (1.5, 1.0)],
        [],
    ],
    ids=["once", "passed", "the base is so", "coming closer", "too few", "not measured"],
)
def test_stable_colours_are_not_reported(circles: Curve, ratios: list[tuple[float, float]]) -> None:
    assert judge(circles.upto(300), circles.facts, (), (), drawn(*ratios)).kind == "improving"


def test_colour_drift_is_also_reported_before_the_net_follows_its_map(circles: Curve) -> None:
    figures = drawn((1.0, 1.0), (1.5, 1.0), (1.5, 1.0))
    verdict = judge(circles.upto(20), circles.facts, (), (), figures)
    assert (verdict.kind, verdict.follows_since) == ("drifting", None)
    assert verdict.sentence.endswith("The net does not follow its control images yet.")


def test_fading_colours_are_reported_after_two_previews_with_their_cause() -> None:
    """336 training pairs lost most of their colour and the 64 held-out ones did not, so the previews fade."""
    verdicts = Curve("faded").verdicts()
    assert {verdicts[step].kind for step in verdicts if step < 100} == {"not_following"}
    assert {(verdicts[step].kind, verdicts[step].since) for step in verdicts if step >= 100} == {("drifting", 50)}
    assert "saturation is 67% of that of the originals (at the start 103%)" in verdicts[190].sentence
    (cause,) = verdicts[190].causes
    assert "the held-out images may differ in colours or subject" in cause.text and cause.look == "dataset"


@pytest.mark.parametrize("name", ["circles", "warm", "hot"])
def test_no_other_recorded_run_is_reported_to_drift(name: str) -> None:
    curve = Curve(name)
    assert curve.scores and "drifting" not in {verdict.kind for verdict in curve.verdicts().values()}


def test_more_steps_are_advised_at_the_end_of_a_short_run(circles: Curve) -> None:
    facts = replace(LONG, total_steps=30)
    assert "too few" in judge(circles.upto(30), facts).sentence


def test_zero_is_shown_without_a_minus(circles: Curve) -> None:
    first = circles.checks[0]
    share = replace(first, step=10, held_out_loss=first.held_out_loss * 0.9999, gain_share=-1e-5, training_share=-1e-5)
    text = " ".join(judge([first, share], circles.facts).evidence)
    assert "changed by +0.0%, the loss on training pairs by +0.0%" in text and "-0.0%" not in text


def test_a_flat_curve_is_flat_since_its_last_improvement(circles: Curve) -> None:
    """Synthetic after step 300."""
    long = continued(at_rest(circles), 40)
    verdict = judge(long, circles.facts)
    assert verdict.kind == "flat"
    assert verdict.since is not None and 220 <= verdict.since <= 350
    assert judge(continued(at_rest(circles), 4), circles.facts).kind != "flat", "not at once"


def test_a_falling_curve_is_not_flat(circles: Curve) -> None:
    """Synthetic after step 300: half a percent at each check."""
    assert judge(continued(at_rest(circles), 40, held_out_loss=0.995), circles.facts).kind == "improving"


def test_a_growing_gap_is_overfitting(circles: Curve) -> None:
    """Synthetic after step 300: better on the training images, worse on the held-out ones."""
    verdict = judge(continued(at_rest(circles), 12, held_out_loss=1.01, training_loss=0.99), circles.facts)
    assert verdict.kind == "overfitting"
    assert verdict.since is not None and abs(verdict.since - 300) <= 30


def test_a_recorded_run_on_16_pairs_is_called_overfitting_only_once_it_is() -> None:
    verdicts = Curve("few").verdicts(checkpoints=(100, 200, 300, 400))
    first = next(step for step, verdict in verdicts.items() if verdict.kind == "overfitting")
    assert 330 <= first <= 380
    before = {verdicts[step].kind for step in verdicts if 60 <= step < first}
    assert before == {"improving"}, "its loss jumps by 5 %: no alarm"
    assert {verdicts[step].kind for step in verdicts if step >= first} == {"overfitting"}
    assert (verdicts[400].since, verdicts[400].best) == (300, 300)
    assert verdicts[400].sentence == (
        "Overfitting since step 300: the net gets better on training images and worse on held-out ones. "
        "Best checkpoint so far: step 300."
    )


def test_a_recorded_run_on_4_pairs_is_never_called_usable() -> None:
    """The gain rises as in a good run, but the held-out loss rises, too."""
    verdicts = Curve("four").verdicts(checkpoints=(20, 50, 100))
    assert {verdicts[step].kind for step in verdicts if step < 50} == {"not_following"}
    assert {verdicts[step].kind for step in verdicts if step >= 60} == {"overfitting"}
    assert verdicts[160].since == 40 and verdicts[160].follows_since == 40
    assert verdicts[160].causes[0].text == "4 training pairs are not many; several thousand are usual."
    assert verdicts[160].causes[0].look == "dataset"


def test_a_learning_rate_that_is_too_high_is_reported_with_a_checkpoint_to_return_to() -> None:
    verdicts = Curve("hot").verdicts(checkpoints=(10, 20, 60))
    assert [step for step, verdict in verdicts.items() if verdict.kind == "broken"] == [50, 60, 70, 80, 90, 100]
    assert (verdicts[40].kind, verdicts[40].since) == ("worse", 20)
    assert (verdicts[100].since, verdicts[100].best) == (40, 10), (
        "step 60 is broken, step 20 a quarter worse than the start"
    )
    assert "were broken by step 40" in verdicts[100].sentence and "checkpoint of step 10" in verdicts[100].sentence
    assert "0.02" in verdicts[100].causes[0].text and verdicts[100].causes[0].look == "settings"


@pytest.mark.parametrize(
    ("name", "first_cause", "look"),
    [
        ("slow", "The learning rate (1e-07) is very low", "settings"),
        ("strangers", "Many control images may be blank, inverted, or belong to other images", "doctor"),
    ],
)
def test_recorded_runs_that_cannot_learn_are_reported_in_time(name: str, first_cause: str, look: str) -> None:
    curve = Curve(name)
    assert curve.config.validation.listens_by == 800
    verdicts = curve.verdicts()
    assert {verdicts[step].kind for step in verdicts if 8 * step < 800} == {"not_following"}
    assert {verdicts[step].kind for step in verdicts if 8 * step >= 800} == {"ignored"}
    assert verdicts[120].causes[0].text.startswith(first_cause) and verdicts[120].causes[0].look == look


def test_a_run_worse_than_its_start_is_never_called_usable_again() -> None:
    """At 0.008 the net follows its map a little between jumps, with a loss of up to 2.4 times the initial one."""
    verdicts = Curve("warm").verdicts(checkpoints=(40, 100, 200))
    assert {verdicts[step].kind for step in verdicts if step >= 70} == {"worse", "broken"}
    assert (verdicts[240].kind, verdicts[240].since, verdicts[240].best) == ("worse", 50, 40)
    assert verdicts[240].sentence == (
        "Worse than at the start since step 50: the loss is 61% higher than it was then. "
        "Go back to the checkpoint of step 40."
    )
    assert "0.008" in verdicts[240].causes[0].text and verdicts[240].causes[0].look == "settings"


@pytest.mark.parametrize("name", ["circles", "few", "rest", "blank", "dim", "strangers", "slow", "meek", "inverted"])
def test_no_other_recorded_run_is_called_worse_than_its_start(name: str) -> None:
    assert not {"worse", "broken"} & {verdict.kind for verdict in Curve(name).verdicts().values()}


@pytest.mark.parametrize(
    ("name", "asked", "first_cause", "look"),
    [
        ("inverted", False, "The control images are nearly white (98%): they may be inverted", "doctor"),
        ("inverted", True, "The control images are nearly white (98%): they may be inverted", "doctor"),
        ("quarter", False, "Many control images may be blank, inverted", "doctor"),
        ("quarter", True, "The dataset check found 200 control images that are inverted.", "doctor"),
        ("gaps", False, "Many control images may be blank, inverted", "doctor"),
        ("gaps", True, "The dataset check found 400 control images that are empty.", "doctor"),
        (
            "meek",
            False,
            "The loss changes by only 0.26% from one check to the next: the learning rate (1e-05) may be",
            "settings",
        ),
    ],
)
def test_the_first_cause_is_the_true_one(name: str, asked: bool, first_cause: str, look: str) -> None:
    curve = Curve(name)
    verdict = judge(curve.checks, curve.asked if asked else curve.facts)
    assert verdict.kind == "ignored"
    assert verdict.causes[0].text.startswith(first_cause) and verdict.causes[0].look == look


def test_a_recorded_run_with_a_wrong_value_range_is_reported_at_once() -> None:
    for verdict in Curve("dim").verdicts().values():
        assert verdict.kind == "ignored"
        assert any("0 to 1 instead of 0 to 255" in cause.text and cause.look == "doctor" for cause in verdict.causes)


def test_a_resumed_run_without_improvement_is_flat() -> None:
    """900 steps, hardly improving from step 690 on. If resumed at 600 with automatic stopping, the run is judged from
    there; over the whole run, which improved for 500 steps, 200 steps are too few for a verdict."""
    rest = Curve("rest")
    assert {verdict.kind for step, verdict in rest.verdicts().items() if step >= 160} == {"improving"}
    resumed = [check for check in rest.checks if check.step >= 600]
    verdicts = {resumed[n].step: judge(resumed[: n + 1], rest.facts) for n in range(1, len(resumed))}
    assert {verdicts[step].kind for step in verdicts if step <= 740} == {"improving"}
    assert {(verdicts[step].kind, verdicts[step].since) for step in verdicts if step >= 780} <= {
        ("flat", 690),
        ("flat", 700),
    }
    assert verdicts[900].sentence.startswith("Flat since step ") and "Consider stopping" in verdicts[900].sentence


def test_one_bad_check_does_not_mean_a_broken_net(circles: Curve) -> None:
    """Synthetic: ten times the loss at one check in the middle or at the last; and a rise of the held-out loss only."""
    for number in (15, len(circles.checks) - 1):
        spoilt = list(circles.checks)
        spoilt[number] = replace(spoilt[number], held_out_loss=0.1, training_loss=0.1)
        assert judge(spoilt, circles.facts).kind != "broken"
    alone = [replace(check, held_out_loss=5 * check.held_out_loss) for check in circles.checks[1:]]
    assert judge([circles.checks[0], *alone], circles.facts).kind != "broken"


def test_worse_on_both_is_not_overfitting(circles: Curve) -> None:
    verdict = judge(continued(at_rest(circles), 12, held_out_loss=1.01, training_loss=1.01), circles.facts)
    assert verdict.kind != "overfitting"


def test_one_odd_check_changes_nothing(circles: Curve) -> None:
    """Synthetic: the metrics of one check in the middle are corrupted."""
    spoilt = list(circles.checks)
    spoilt[20] = replace(spoilt[20], held_out_loss=spoilt[20].held_out_loss / 3, gain_share=-1.0)
    assert judge(spoilt, circles.facts).kind == judge(circles.checks, circles.facts).kind
    assert convergence(spoilt) == convergence(circles.checks)


def test_the_best_checkpoint_has_the_lowest_held_out_loss(circles: Curve) -> None:
    long = continued(at_rest(circles), 20, held_out_loss=1.01, training_loss=0.99)
    saved = [100, 200, 300, 400, 500]
    verdict = judge(long, circles.facts, (), saved)
    assert verdict.best == 300
    assert "Best checkpoint so far: step 300" in verdict.sentence


def test_between_equal_losses_the_images_decide(circles: Curve) -> None:
    long = continued(at_rest(circles), 20)
    scores = [(400, {"adherence": 0.8}), (450, {"adherence": 0.5})]
    assert best_checkpoint(long, scores, [400, 450], 100) == 400
    assert best_checkpoint(long, [], [400, 450], 100) == 450


def test_before_the_net_follows_its_map_the_newest_checkpoint_is_the_best(circles: Curve) -> None:
    assert judge(circles.upto(20), circles.facts, (), [10, 20]).best == 20
    assert judge(circles.upto(20), circles.facts).best is None


def test_medians_ignore_single_outliers() -> None:
    assert smooth([1, 9, 1, 2]) == [5, 1, 2, 1.5]
