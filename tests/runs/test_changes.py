"""Which settings of a run may be changed at a resume, and what its run.json records of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, changeable, field_of
from engine.errors import UserError
from engine.runs.changes import allowed_changes, record_changes
from engine.runs.run import Run


@pytest.fixture
def begun(make_config: Callable[..., RunConfig]) -> RunConfig:
    return make_config(**{"train.batch_size": 4, "train.steps": 100, "optim.warmup_steps": 10})


@pytest.fixture
def folder(tmp_path: Path, begun: RunConfig) -> Path:
    about = {"config": begun.model_dump(mode="json"), "note": "stays"}
    (tmp_path / "run.json").write_text(json.dumps(about), encoding="utf-8")
    return tmp_path


def test_what_may_change_is_the_course_and_what_saves_memory() -> None:
    kinds = changeable()
    assert {name for name, kind in kinds.items() if kind == "course"} == {
        "optim.learning_rate",
        "train.steps",
        "train.precision",
        "train.backend",
        "tuning.lcm_steps",
        "tuning.preserve_weight",
    }
    assert {name for name, kind in kinds.items() if kind == "memory"} == {
        "optim.master_weights",
        "optim.in_backward",
        "optim.half_gradients",
        "optim.one_pass_update",
        "optim.optimizer",
        "optim.ema_device",
        "optim.offload",
        "train.batch_size",
        "train.base_storage",
        "train.base_products",
        "train.modulation_storage",
        "train.gradient_checkpointing",
    }


@pytest.mark.parametrize(
    ("wanted", "changed"),
    [
        ({"optim.learning_rate": 5e-6}, {"optim.learning_rate": 5e-6}),
        ({"optim.learning_rate": 1e-3, "data.dataset": "pairs"}, {}),
        ({"train.steps": 150, "train.precision": "bf16"}, {"train.steps": 150, "train.precision": "bf16"}),
        ({"train.batch_size": 2}, {"train.batch_size": 2, "train.accumulation": 2}),
        ({"train.steps": 51}, {"train.steps": 51}),
    ],
)
def test_values_that_may_change_are_taken_and_those_as_now_ignored(
    begun: RunConfig, wanted: dict[str, Any], changed: dict[str, Any]
) -> None:
    assert allowed_changes("R", begun, begun, 50, wanted) == changed


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (
            {"data.dataset": "others"},
            "another Dataset.*held out.*Start a new run.*--from-run R --set data.dataset=others",
        ),
        ({"model.base": "x", "train.seed": 3}, "another Base model.*and Seed.*trained for this base.*order of the"),
        ({"model.control_lora_rank": 8}, "shape of the trained weights.*Start a new run"),
        ({"validation.pictures": 9}, "can be compared"),
        ({"train.accumulation": 4}, "follows from the batch size"),
        ({"train.steps": 50}, "50 steps are already done"),
        ({"train.steps": 10}, "The warm-up is as long as the whole run"),
        ({"train.batch_size": 3}, "not into parts of 3.*1, 2, 4"),
        ({"train.batch_size": 8}, "not into parts of 8"),
        ({"optim.learning_rate": -1}, "optim.learning_rate has to be more than 0; -1 was given."),
        ({"optim.rate": 1}, "optim.rate is not a setting.*optim.learning_rate"),
        ({"optim.offload": True, "optim.optimizer": "adamw8bit"}, "8-bit optimizers need their state on the card"),
    ],
)
def test_what_may_not_change_is_refused_with_the_reason(begun: RunConfig, wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        allowed_changes("R", begun, begun, 50, wanted)


def test_every_fixed_setting_says_why() -> None:
    for dotted in ("name", "train.seed", "validation.every"):
        assert field_of(dotted).json_schema_extra["why_fixed"].endswith(".")
    assert field_of("train.nothing") is None and field_of("nothing") is None


def test_the_record_keeps_the_settings_of_the_beginning_and_the_order_of_all_changes(folder: Path) -> None:
    def record(done: int, changed: dict[str, Any]) -> None:
        record_changes(folder, done, Run(folder).config, changed)

    def fall_back(step: int, settings: dict[str, Any], words: str) -> None:
        about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        entry = {"step": step, "where": "step", "settings": settings, "words": words}
        about.setdefault("memory_ladder", []).append(entry)
        (folder / "run.json").write_text(json.dumps(about), encoding="utf-8")

    fall_back(20, {"train.batch_size": 1, "train.accumulation": 4}, "1 at a time")
    fall_back(20, {}, "memory was freed")
    record(20, {"optim.learning_rate": 5e-4})
    record(20, {"train.batch_size": 2, "train.accumulation": 2, "optim.learning_rate": 2e-4})
    fall_back(30, {"train.gradient_checkpointing": "both"}, "gradient checkpointing (both)")
    record(40, {"train.steps": 120})
    run = Run(folder)
    assert run.about["note"] == "stays"
    assert run.begun_with.optim.learning_rate == 1e-3 and run.begun_with.train.batch_size == 4
    now = run.config
    assert (now.optim.learning_rate, now.train.batch_size, now.train.accumulation) == (2e-4, 2, 2)
    assert (now.train.gradient_checkpointing, now.train.steps) == ("both", 120)
    assert [(change.step, change.words) for change in run.changes] == [
        (20, "memory ran out: 1 at a time"),
        (20, "batch size 1 → 2"),
        (20, "gradient accumulation 4 → 2"),
        (20, "learning rate 0.001 → 0.0002"),
        (30, "memory ran out: gradient checkpointing (both)"),
        (40, "steps 100 → 120"),
    ]
    assert run.history().changes == tuple((change.step, change.words) for change in run.changes)
    record(40, {"train.steps": 100})
    assert Run(folder).config.train.steps == 100 and len(Run(folder).changes) == 5, "nothing was trained in between"


def test_a_damaged_record_is_named(folder: Path) -> None:
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for record in ({"changes": [{"step": 3}]}, {"changes": 7}, {"memory_ladder": [3]}):
        (folder / "run.json").write_text(json.dumps({**about, **record}), encoding="utf-8")
        with pytest.raises(UserError, match=r"record of their changes in run\.json is damaged"):
            Run(folder)
