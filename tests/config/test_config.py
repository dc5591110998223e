"""Settings: bounds, unknown keys, words."""

from __future__ import annotations

from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt, MultipleOf

from engine.config import SECTIONS, RunConfig, fields, parse
from engine.errors import UserError

BOUNDED = {
    f"{section}.{name}": field
    for section in SECTIONS
    for name, field in fields(section).items()
    if any(isinstance(bound, Ge | Gt | Le | Lt) for bound in field.metadata)
}


@pytest.mark.answers("Batch size, gradient accumulation, effective batch size?")
def test_every_setting_has_a_title_and_a_hint() -> None:
    for section in SECTIONS:
        for name, field in fields(section).items():
            assert field.title and field.description, f"{section}.{name}"
            assert "unit" in field.json_schema_extra, f"{section}.{name}"


def edges(field: Any) -> tuple[list[float], list[float]]:
    """Values at the bounds that are allowed, and the nearest ones that are not."""
    whole = field.annotation is int
    step = next((bound.multiple_of for bound in field.metadata if isinstance(bound, MultipleOf)), 1 if whole else 1e-6)
    allowed: list[float] = []
    refused: list[float] = []
    for bound in field.metadata:
        if isinstance(bound, Ge):
            allowed, refused = [*allowed, bound.ge], [*refused, bound.ge - step]
        elif isinstance(bound, Le):
            allowed, refused = [*allowed, bound.le], [*refused, bound.le + step]
        elif isinstance(bound, Gt):
            allowed, refused = [*allowed, bound.gt + step], [*refused, bound.gt]
        elif isinstance(bound, Lt):
            allowed, refused = [*allowed, bound.lt - step], [*refused, bound.lt]
    return allowed, refused


@pytest.mark.parametrize("dotted", BOUNDED)
def test_each_number_is_taken_up_to_its_bounds_and_refused_by_its_name_beyond(dotted: str) -> None:
    section, name = dotted.split(".")
    allowed, refused = edges(BOUNDED[dotted])
    assert refused
    more = {"train": {"steps": 10_000_000}} if dotted == "optim.warmup_steps" else {}
    for value in [*allowed, BOUNDED[dotted].default]:
        assert getattr(getattr(parse({section: {name: value}, **more}), section), name) == value
    for value in refused:
        with pytest.raises(UserError) as caught:
            parse({section: {name: value}})
        assert f"{dotted} has to be " in caught.value.why and f"; {value:.12g} was given." in caught.value.why


def test_only_numbers_that_cannot_be_wrong_have_no_bounds() -> None:
    numbers = {
        f"{section}.{name}"
        for section in SECTIONS
        for name, field in fields(section).items()
        if field.annotation in (int, float)
    }
    assert numbers - BOUNDED.keys() == set()


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse({"train": {"steps": 0, "stepz": 5}, "optim": {"learning_rate": "fast"}, "nonsense": 1})
    for words in (
        "train.steps has to be at least 1; 0 was given.",
        "train.stepz is not a setting.",
        'optim.learning_rate has to be a number; "fast" was given.',
        "nonsense is not a setting.",
    ):
        assert words in caught.value.why


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optim": {"learning_rate": 1000}}, "optim.learning_rate has to be at most 0.1; 1000 was given."),
        ({"train": {"steps": 1.5}}, "train.steps has to be a whole number; 1.5 was given."),
        ({"train": {"steps": None}}, "train.steps has to be a whole number; nothing was given."),
        ({"train": {"precision": "bf17"}}, "train.precision has to be one of 'fp32', 'fp16' or 'bf16'"),
        ({"train": {"compile": {"a": 1}}}, "train.compile has to be one of 'none', 'blocks', 'kernels' or 'graphs'."),
        ({"train": 5}, "train has to be a section with settings in it; 5 was given."),
        ({"data": {"resolution": 100}}, "data.resolution has to be a multiple of 64; 100 was given."),
        ({"train": {"steps": 10}, "optim": {"warmup_steps": 10}}, "The warm-up is as long as the whole run"),
        ({"validation": {"pictures_are_maps": "maybe"}}, "validation.pictures_are_maps has to be true or false"),
    ],
)
def test_what_is_wrong_is_said_in_words_without_code(values: dict, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(values)
    why = caught.value.why
    assert words in why and why[-1] == "." and "{" not in why and "input" not in why.lower(), why


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
