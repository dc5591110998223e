"""The demo from end to end on a tiny random base, and the figures that it has to reach."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from engine.cli.demo import DemoResult, run_demo
from engine.config.presets import resolve
from engine.demo.sets import DEMO_SETS, MAKERS, demo_preset, make_demo_set
from engine.errors import UserError
from engine.jobs.control import Control
from engine.workspace.paths import Workspace


@pytest.mark.answers("I wait for the first checkpoint to see whether the setup works")
def test_it_draws_trains_scores_exports_and_prints_a_table(workspace: Workspace, tiny_base: Path) -> None:
    lines: list[str] = []
    overrides = {
        "model": {"base": str(tiny_base)},
        "data": {"held_out": 2},
        "optim": {"warmup_steps": 0},
        "train": {"steps": 2, "batch_size": 2, "checkpoint_every": 1},
        "validation": {"every": 1, "pictures": 2, "sampling_steps": 2},
    }
    result = run_demo(workspace, Control().token, lambda event: None, lambda *_: None, lines.append, 8, overrides)
    text = "\n".join(lines)
    for step, images in ((0, 0), (1, 2), (2, 4)):
        assert re.search(rf"^ +{step} +{images} .*\(2 pairs\)$", text, re.MULTILINE), text
    assert "with control" in text and "without control" in text
    assert all(path.exists() for path in result.exported)
    assert str(result.exported[0]) in text
    assert 0 <= result.iou <= 1
    assert result.shortfalls, "a random base cannot reach the figures"
    assert len(list((result.run_folder / "evaluation").glob("*/*-row.webp"))) == 2


@pytest.mark.parametrize("overrides", [{"train": {"steps": 3}}, {"optim": {"learning_rate": 1000}}])
def test_wrong_settings_are_refused_before_anything_is_drawn(workspace: Workspace, overrides: dict) -> None:
    lines: list[str] = []
    with pytest.raises(UserError, match="cannot be used"):
        run_demo(workspace, Control().token, lambda event: None, lambda *_: None, lines.append, 8, overrides)
    assert not lines and not workspace.dataset_names()


GOOD = DemoResult(0.9, 0.9, 0.2, Path("run"), ())


def test_scores_that_are_reached() -> None:
    assert GOOD.shortfalls == []


@pytest.mark.answers("Missing keys, wrong yaml, .pth conversion in AUTOMATIC1111")
@pytest.mark.parametrize(
    ("change", "words"),
    [({"iou": 0.84}, "0.84"), ({"colours": 0.8}, "80%"), ({"iou_without": 0.4}, "Without control the overlap is 0.40")],
)
def test_each_score_that_falls_short_is_named(change: dict[str, float], words: str) -> None:
    assert words in replace(GOOD, **change).shortfalls[0]


def test_the_demo_settings_are_valid() -> None:
    config, _ = resolve(("demo", demo_preset().values))
    assert config.model.base == "demo"
    assert config.data.held_out == 64


@pytest.mark.parametrize("kind", [demo_set.name for demo_set in DEMO_SETS])
def test_every_demo_set_is_ready_to_train_on(workspace: Workspace, kind: str) -> None:
    dataset = make_demo_set(workspace, kind, 6)
    assert dataset.count(ready=True) == 6
    assert dataset.condition is not None
    again = make_demo_set(workspace, kind, 6)
    assert again.fingerprint == dataset.fingerprint
    assert set(MAKERS) == {demo_set.name for demo_set in DEMO_SETS}


def test_a_senseless_count_is_refused(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="between 4 and"):
        make_demo_set(workspace, "circles", 1)
