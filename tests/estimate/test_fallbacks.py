"""Which settings a run changes when memory runs out: the cheapest that save enough, by prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from docs.make_fallback_table import PAGE, SIDES, preset_settings, with_table
from engine.config import RunConfig
from engine.config.presets import resolve, unflatten
from engine.errors import UserError
from engine.estimate import fallbacks
from engine.estimate.fallbacks import (
    ASSUMED_SHORTAGE,
    Machine,
    Shortage,
    next_fallback,
    options,
    shortage_of_step,
    shortage_to_build,
    step_time,
)
from engine.estimate.memory import GIB, predict_from
from engine.families.files import LAYOUTS, read_configs
from engine.runs.changes import with_settings

CARD = Machine(on_card=True, eight_bit=False)
WITH_8BIT = Machine(on_card=True, eight_bit=True)
SD1 = read_configs(LAYOUTS / "sd1")
PRESETS = preset_settings()


def config(**settings: Any) -> RunConfig:
    return resolve(("test", {"model": {"base": "owner/sd15"}}), ("more", unflatten(settings)))[0]


def taken(settings: RunConfig, short: float, machine: Machine = CARD, family: str = "sd1", **more: float) -> dict:
    found = next_fallback(settings, read_configs(LAYOUTS / family), machine, Shortage(short * GIB, **more))
    return found.settings if found is not None else {}


def test_the_page_says_what_the_code_does() -> None:
    """If this fails: python -m docs.make_fallback_table."""
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page


def test_a_12_gb_card_that_is_short_of_half_a_gigabyte_goes_on_with_a_base_in_fp8() -> None:
    """Not with smaller batches, which need more since gradients are added up in fp32, nor with a fresh optimizer."""
    twelve, sixteen = PRESETS["12gb", "sd1"], PRESETS["16gb", "sd1"]
    assert taken(twelve, 0.5) == {"train.base_storage": "fp8"}
    assert taken(sixteen, 0.5) == {"train.base_storage": "fp8"}
    assert taken(sixteen, 1) == {"train.gradient_checkpointing": "controlnet"}
    batches = {"train.batch_size", "train.accumulation"}
    smaller = [one for one in options(twelve, SD1, CARD) if set(one.settings) == batches]
    saves = {one.settings["train.batch_size"]: one.saves for one in smaller}
    assert saves[2] < saves[1] < 0


@pytest.mark.parametrize("family", SIDES)
@pytest.mark.parametrize("preset", ["6gb", "8gb", "12gb", "16gb", "24gb"])
def test_every_fallback_saves_enough_at_the_least_cost_and_they_come_to_an_end(preset: str, family: str) -> None:
    settings, base, seen = PRESETS[preset, family], read_configs(LAYOUTS / family), []
    images = settings.images_per_step
    while True:
        now = predict_from(settings, base)
        short = ASSUMED_SHORTAGE * now.step
        found = next_fallback(settings, base, CARD, Shortage(short))
        if found is None:
            break
        then = with_settings(settings, found.settings)
        assert then.images_per_step == images
        assert now.step - predict_from(then, base).step == pytest.approx(found.saves) and found.saves > 0
        cheaper = [one for one in options(settings, base, CARD) if one.cost < found.cost]
        assert all(one.saves < short for one in cheaper)
        settings = then
        seen.append(found.settings)
    assert 0 < len(seen) < 12
    assert predict_from(settings, base).step < 0.85 * predict_from(PRESETS[preset, family], base).step


def test_of_what_does_not_suffice_the_most_is_taken_and_nothing_if_all_is_in_use() -> None:
    six = PRESETS["6gb", "sd1"]
    all_of_it = {"train.batch_size": 1, "train.accumulation": 4, "train.gradient_checkpointing": "both"}
    assert taken(six, 4) == all_of_it
    assert taken(with_settings(six, taken(six, 4)), 4) == {}


def test_what_a_machine_cannot_do_is_not_proposed() -> None:
    def names(machine: Machine, **settings: Any) -> set[str]:
        found = options(config(**{"train.batch_size": 1, "optim.ema_decay": 0.9, **settings}), SD1, machine)
        return {f"{name}={value}" for one in found for name, value in one.settings.items()}

    learning = {"optim.optimizer=adafactor", "optim.ema_device=cpu", "optim.offload=True"}
    checkpointing = {"train.gradient_checkpointing=controlnet", "train.gradient_checkpointing=both"}
    assert names(CARD) == {*learning, *checkpointing, "train.base_storage=fp8"}
    bits = {"optim.optimizer=adamw8bit", "optim.optimizer=paged_adamw8bit"}
    assert names(WITH_8BIT) == names(CARD) | bits
    assert names(Machine(on_card=False, eight_bit=True)) == {*checkpointing, "optim.optimizer=adafactor"}
    sharded = Machine(on_card=True, eight_bit=True, sharded=True)
    assert names(sharded) == {*checkpointing, "train.base_storage=fp8"}
    assert "optim.offload=True" not in names(CARD, **{"train.precision": "fp32"})
    little_ram = Machine(on_card=True, eight_bit=False, free_ram=2 * GIB)
    assert names(little_ram) == names(CARD) - {"optim.offload=True"}
    frozen = names(CARD, **{"objective.sd_locked": False, "optim.ema_decay": 0.0})
    assert "train.base_storage=fp8" not in frozen


def test_what_does_not_go_with_the_other_settings_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(config: RunConfig, settings: dict[str, Any]) -> RunConfig:
        if "optim.offload" in settings:
            raise UserError("These settings cannot be used.", "They exclude each other.", "Correct them.")
        return with_settings(config, settings)

    monkeypatch.setattr(fallbacks, "with_settings", refusing)
    found = options(PRESETS["8gb", "sd1"], SD1, CARD)
    assert found and not any("optim.offload" in one.settings for one in found)


def test_an_8bit_state_is_cheaper_than_adafactor_and_goes_to_ram_by_pages() -> None:
    twelve = PRESETS["12gb", "sd1"]
    assert taken(twelve, 2, WITH_8BIT) == {"optim.optimizer": "adamw8bit"}
    saved = with_settings(twelve, {"optim.optimizer": "adamw8bit", "train.base_storage": "fp8"})
    assert taken(saved, 0.6, WITH_8BIT) == {"optim.optimizer": "paged_adamw8bit"}
    paged = with_settings(saved, {"optim.optimizer": "paged_adamw8bit"})
    offloaded = taken(paged, 3, WITH_8BIT)
    assert offloaded["optim.offload"] and offloaded["optim.optimizer"] == "adafactor"


def test_nets_that_do_not_fit_take_what_makes_them_smaller() -> None:
    """Batches and checkpointing do not help while the nets are loaded."""
    large = config(**{"train.batch_size": 4})
    assert taken(large, 0, resident=0.5 * GIB) == {"train.base_storage": "fp8"}
    both = taken(large, 2, resident=0.5 * GIB)
    assert both["train.base_storage"] == "fp8" and len(both) > 1, "and the step has to fit afterwards"
    small = PRESETS["6gb", "sd1"]
    assert taken(small, 0, resident=0.5 * GIB) == {}, "nothing left that would help"


def test_a_transformer_goes_to_four_bits_from_its_unquantized_weights_alone() -> None:
    flux, loading = read_configs(LAYOUTS / "flux"), replace(WITH_8BIT, loads_base=True)
    few = {"train.precision": "bf16", "train.gradient_checkpointing": "both", "train.batch_size": 1}

    def kinds(machine: Machine, **settings: Any) -> set[tuple[str, str]]:
        found = options(config(**few, **settings), flux, machine)
        names = ("train.base_storage", "train.modulation_storage")
        return {tuple(one.settings.get(name, "") for name in names) for one in found} - {("", "")}

    assert kinds(CARD) == {("int8", ""), ("int8", "int8")}
    assert kinds(WITH_8BIT) == {("int8", ""), ("nf4", ""), ("int8", "int8"), ("nf4", "int8")}
    assert kinds(WITH_8BIT, **{"train.base_storage": "int8"}) == {("", "int8")}
    stored = {"train.base_storage": "int8", "train.modulation_storage": "int8"}
    assert kinds(WITH_8BIT, **stored) == set() and kinds(loading, **stored) == {("nf4", "")}
    assert kinds(replace(loading, on_card=False)) == set()
    missing = Shortage(0, resident=14.5 * GIB)  # a card of 12 GB on which the base was to be in bf16
    found = next_fallback(config(**few, **{"model.control_lora_rank": 64}), flux, loading, missing)
    assert found is not None and "4 bits" in found.words and "modulation layers" in found.words
    assert found.settings["train.base_storage"] == "nf4" and found.saves_resident > 14.4 * GIB


def test_several_processes_that_share_the_micro_batches_save_by_smaller_ones() -> None:
    """Each has one of two, so no gradients of an earlier one lie there."""
    shared = config(**{"train.batch_size": 4, "train.accumulation": 2})
    alone, one_of_two = (predict_from(shared, SD1, processes=count) for count in (1, 2))
    assert one_of_two.step < alone.step - GIB


def test_what_a_step_takes_grows_with_each_saving() -> None:
    plain = step_time(config())
    for name, value in (
        ("train.gradient_checkpointing", "both"),
        ("train.base_storage", "fp8"),
        ("optim.optimizer", "adafactor"),
        ("optim.offload", True),
    ):
        assert step_time(config(**{name: value})) > plain
    one, two, four = (
        step_time(config(**{"train.batch_size": size, "train.accumulation": 4 // size})) for size in (1, 2, 4)
    )
    assert one > two > four


def test_what_is_missing_is_known_from_the_card_and_the_failed_allocation() -> None:
    now = predict_from(PRESETS["24gb", "sd1"], SD1)
    assert shortage_of_step(now, None, 0) == shortage_of_step(now, 24 * GIB, 0) == Shortage(0.05 * now.step)
    assert shortage_of_step(now, 24 * GIB, 2 * GIB).peak == 2 * GIB
    on_8_gb = shortage_of_step(now, 7 * GIB, 2 * GIB)
    assert on_8_gb.peak == pytest.approx(1.05 * now.step - 7 * GIB)
    found = next_fallback(PRESETS["24gb", "sd1"], SD1, CARD, on_8_gb)
    assert found is not None, "one change of several settings, not one after the other"
    assert predict_from(with_settings(PRESETS["24gb", "sd1"], found.settings), SD1).step * 1.05 <= 7 * GIB

    nets = shortage_to_build(now, 4 * GIB, 0)
    assert nets == Shortage(pytest.approx(1.05 * now.step - 4 * GIB), pytest.approx(1.05 * now.resident - 4 * GIB))
    assert shortage_to_build(now, None, GIB) == Shortage(0, GIB)


def test_master_weights_are_split_where_the_run_can_and_it_saves_what_they_need_less() -> None:
    settings = PRESETS["12gb", "sd1"]
    can = Machine(on_card=True, eight_bit=False, can_split=True)
    split = {"optim.master_weights": "split"}
    (one,) = (found for found in options(settings, SD1, can) if found.settings == split)
    assert one.saves_resident == pytest.approx(2 * 361_279_120) and one.cost > 0
    assert not any(split.items() <= found.settings.items() for found in options(settings, SD1, CARD))
    assert not any(
        split.items() <= found.settings.items() for found in options(with_settings(settings, split), SD1, can)
    )
