"""What to try after a run has ended, from the verdicts on recorded runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from engine.cli.main import main
from engine.config import RunConfig, parse
from engine.config.presets import resolve
from engine.demo.sets import demo_preset, make_demo_set
from engine.estimate.advice import advise
from engine.estimate.sudden_convergence import Progress, RunPlan
from engine.evaluation.verdict import Kind, Verdict, convergence, judge
from engine.machine.hardware import Hardware
from engine.runs.changes import with_settings
from engine.runs.run import Run
from engine.training.caution import StartFacts
from engine.training.new_run import create_run
from engine.training.next_run import NextRun, after, next_run
from engine.workspace.paths import Workspace
from tests.evaluation.test_verdict import Curve

DEMO = StartFacts(images=736, own_shapes=True, on_demo_base=True, parameters=2_500_000, demo_rate=3e-3)
LARGE = StartFacts(images=5_000, parameters=860_000_000)
CARD = Hardware("cuda", "RTX 3060", 12.0, 16, 8)


def after_curve(name: str, facts: StartFacts = DEMO) -> NextRun | None:
    """What is suggested after a recorded run, as if it had ended at its last check."""
    curve = Curve(name)
    steps = curve.checks[-1].step
    config = with_settings(curve.config, {"train.steps": steps})
    verdict = judge(curve.checks, curve.facts, curve.scores, (), curve.figures)
    plan = RunPlan(steps, config.images_per_step, facts.images, published=False)
    gains = [(check.step, check.gain_share) for check in curve.checks]
    return next_run(verdict, config, advise(plan, Progress(steps, gains, convergence(curve.checks), 0.5)), facts)


@pytest.mark.parametrize(
    ("name", "settings", "resumes"),
    [
        ("circles", {"train.steps": 450}, True),  # improving
        ("few", {"train.steps": 300}, False),  # overfits since step 300
        ("four", {"train.steps": 40}, False),
        ("hot", {"optim.learning_rate": 0.007}, False),  # broken
        ("warm", {"optim.learning_rate": 0.003}, False),  # worse than at the start
        ("faded", {"optim.learning_rate": 0.002}, False),  # colours drift
        ("slow", {"optim.learning_rate": 3e-3}, False),  # ignored at a rate far below the usual one
        ("meek", {"optim.learning_rate": 3e-3}, False),
    ],
)
def test_each_recorded_run_tells_the_next_one(name: str, settings: dict[str, Any], resumes: bool) -> None:
    found = after_curve(name)
    assert found is not None and dict(found.settings) == settings and found.resumes is resumes
    assert found.why.endswith((".", "kept."))


@pytest.mark.parametrize("name", ["blank", "dim", "strangers", "inverted", "quarter", "gaps"])
def test_settings_are_not_blamed_for_wrong_control_images(name: str) -> None:
    """The verdict's causes say where to look."""
    assert after_curve(name) is None


def config(**train: Any) -> RunConfig:
    return resolve(("test", {"model": {"base": "owner/base"}, "train": {"steps": 4_000} | train}))[0]


def told(kind: Kind, facts: StartFacts = LARGE, since: int | None = None, **train: Any) -> NextRun | None:
    settings = config(**train)
    began = None if kind in ("not_following", "ignored") else 3_000
    plan = RunPlan(settings.train.steps, settings.images_per_step, facts.images)
    progress = Progress(settings.train.steps, follows_since=began)
    return next_run(Verdict(kind, "", since=since), settings, advise(plan, progress), facts)


def test_a_flat_run_is_repeated_with_more_images_a_step() -> None:
    found = told("flat", since=3_500)
    assert found is not None and dict(found.settings) == {"train.accumulation": 4} and not found.resumes
    assert found.title == "New run with 16 images per step" and "4 times the time" in found.why
    assert told("flat", batch_size=64, accumulation=2) is None, "128 are enough"
    assert told("flat", StartFacts(images=10)).settings == {"train.accumulation": 2}  # type: ignore[union-attr]
    assert told("flat", StartFacts(images=7)) is None
    in_backward = with_settings(config(), {"optim.in_backward": True})
    assert next_run(Verdict("flat", ""), in_backward, advise(RunPlan(4_000, 4)), LARGE) is None, "excludes accumulation"


def test_a_run_that_is_not_done_goes_on() -> None:
    found = told("improving")
    assert found is not None and found.resumes and found.settings == {"train.steps": 12_000}, "4 times 3,000"
    assert told("improving", steps=20_000).settings == {"train.steps": 30_000}  # type: ignore[union-attr]
    assert told("improving", StartFacts(images=10), steps=2_500) is None, "each image was shown 1,000 times"
    short = told("not_following", steps=2_000)
    assert short is not None and short.resumes and short.settings == {"train.steps": 18_000}
    assert told("ignored", batch_size=2).settings == {"train.accumulation": 2}  # type: ignore[union-attr]
    assert told("ignored", steps=20_000) is None
    assert told("too_early") is None


def test_few_images_that_are_learned_by_heart_get_fewer_weights() -> None:
    found = told("overfitting", StartFacts(images=300, parameters=860_000_000), since=3_500)
    assert found is not None and found.title == "New run with a Control-LoRA"
    assert set(found.settings) == {"model.control_lora_rank", "optim.learning_rate"}
    assert told("overfitting", since=3_500).settings == {"train.steps": 3_500}  # type: ignore[union-attr]


def ended(workspace: Workspace) -> Run:
    """A run of the demo with the checks of "circles"."""
    name = make_demo_set(workspace, "circles", 6).name
    run = create_run(workspace, resolve(("demo", demo_preset().values), ("test", {"data": {"dataset": name}}))[0], {})
    lines = [json.dumps(asdict(check)) for check in Curve("hot").checks]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


def test_it_is_read_from_the_files_of_a_run(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ended(workspace)
    monkeypatch.setattr(Run, "last_step", 500)
    found = after(workspace, run, run.history(), CARD)
    assert found is not None and found.settings == {"optim.learning_rate": 0.001}
    assert found.arguments("x") == ["train", "--from-run", "x", "--set", "optim.learning_rate=0.001"]
    assert NextRun("", "", {"train.steps": 9}, resumes=True).arguments("x") == ["resume", "x", "--set", "train.steps=9"]
    (workspace.dataset_folder(run.config.data.dataset) / "dataset.json").unlink()
    assert after(workspace, run, run.history(), CARD) is None


def test_the_command_line_says_it_at_the_end(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ended(workspace)
    monkeypatch.setattr(Run, "last_step", 500)
    monkeypatch.setattr("engine.training.new_run.require_all", lambda workspace, run: None)
    monkeypatch.setattr("engine.training.job.change_run", lambda run, changes, from_step: run)
    for outcome in ("paused", "stopped"):
        monkeypatch.setattr("engine.training.job.training_job", lambda *run, o=outcome: lambda token, emit: o)
        main(["--workspace", str(workspace.root), "resume", run.name])
        lines = capsys.readouterr().out.splitlines()
        assert any(line.startswith("Next: New run with learning rate 0.001.") for line in lines) is (
            outcome == "stopped"
        )
    assert lines[-1].endswith(f"engine.cli train --from-run {run.name} --set optim.learning_rate=0.001")


@pytest.mark.parametrize(
    ("kind", "rate", "title"),
    [
        ("broken", 3e-4, "New run with learning rate 0.0001"),
        ("forgetting", 3e-4, "New run that preserves what the base knows"),
        ("memorizing", 1e-4, "New run of 500 steps"),
        ("not_learning", 1e-6, "New run with learning rate 0.0001"),
        ("not_learning", 1e-4, "Resume up to step 2,200"),
        ("improving", 1e-4, "Resume up to step 2,200"),
        ("flat", 1e-4, ""),
    ],
)
def test_after_a_run_that_taught_the_base(kind: Any, rate: float, title: str) -> None:
    config = parse({"tuning": {"what": "lora"}, "optim": {"learning_rate": rate}, "train": {"steps": 1_500}})
    facts = StartFacts(listed=40, images=40, parameters=860_000_000)
    offer = next_run(Verdict(kind, "", best=500), config, None, facts)
    assert (offer.title if offer else "") == title
    if kind == "forgetting":
        assert offer is not None
        kept = next_run(Verdict(kind, ""), with_settings(config, offer.settings), None, facts)
        assert kept is not None and kept.title == "New run with learning rate 0.0001"
