"""Settings: bounds, unknown keys, words."""

from __future__ import annotations

import pytest

from engine.config import SECTIONS, RunConfig, fields, parse
from engine.errors import UserError


def test_every_setting_has_a_title_and_a_hint() -> None:
    for section in SECTIONS:
        for name, field in fields(section).items():
            assert field.title and field.description, f"{section}.{name}"
            assert "unit" in field.json_schema_extra, f"{section}.{name}"


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse({"train": {"steps": 0, "stepz": 5}, "optim": {"learning_rate": "fast"}, "nonsense": 1})
    for word in ("train.steps:", "train.stepz is not a setting", "optim.learning_rate:", "nonsense is not a setting"):
        assert word in caught.value.why


def test_a_config_survives_json() -> None:
    config = RunConfig(name="x")
    assert parse(config.model_dump(mode="json")) == config


def test_settings_of_another_version_are_refused_with_a_sentence() -> None:
    with pytest.raises(UserError, match="version 99"):
        parse({"version": 99})


def test_a_warm_up_longer_than_the_run_is_refused() -> None:
    with pytest.raises(UserError, match="warm-up"):
        parse({"train": {"steps": 10}, "optim": {"warmup_steps": 10}})


def test_the_effective_batch() -> None:
    assert parse({"train": {"batch_size": 3, "accumulation": 4}}).images_per_step == 12
