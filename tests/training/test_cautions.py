"""Cautions before Start: each rule at its boundary, and the facts that they are read from."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.cli.main import main
from engine.config import RunConfig
from engine.config.presets import CONTROLNET, OTHER_KINDS, all_presets, resolve, unflatten
from engine.data.balance import ImageClass
from engine.data.dataset import Dataset
from engine.data.doctor.check import check
from engine.data.doctor.check_store import CheckStore
from engine.data.doctor.finding import Hit
from engine.data.scan import scan_folder
from engine.demo.sets import demo_preset, make_demo_set
from engine.estimate.trials import Measured, write
from engine.families.facts import FACTS
from engine.families.registry import detect
from engine.machine.hardware import Hardware
from engine.runs.known_bases import RECORD
from engine.runs.run import write_run
from engine.training.advisor import advice_for
from engine.training.caution import LEVELS, Caution, StartFacts
from engine.training.cautions import ABOUT_CONTROL, RULES, WITH_REMEDY, cautions
from engine.training.start_facts import start_facts
from engine.tuning.requirements import tokens_of, unknown_tokens
from engine.workspace.paths import Workspace
from tests import whole_denoiser

GIB = 2**30
CARD = Hardware("cuda", "RTX 3060", 12.0, 16, 8)
GOOD = {"listed": 30_000, "images": 30_000, "parameters": 860_000_000, "base_side": 512, "seconds_per_image": 0.2}
"""Facts of a run that needs no caution."""
DEMO = {"on_demo_base": True, "parameters": 2_500_000, "base_side": 128, "demo_rate": 3e-3}

WORD = {"tuning__what": "word", "tuning__word": "my-mug", "tuning__begun_as": "coffee mug"}
UNPRESERVED = {"tuning__preserve": "none", "data__held_out": 4}


def config(**settings: Any) -> RunConfig:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return resolve(("test", unflatten({"model.base": "owner/base", **dotted})))[0]


def found(facts: dict[str, Any], **settings: Any) -> dict[str, Caution]:
    """The cautions by their rule."""
    return {one.rule: one for one in cautions(config(**settings), StartFacts(**GOOD | facts))}


def balanced(*sizes: int) -> tuple[ImageClass, ...]:
    """Classes of so many images, drawn equally often."""
    return tuple(ImageClass(f"folder {size}", tuple(range(size)), max(sizes)) for size in sizes)


CASES: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("demo_base", DEMO, {}, "red"),
    ("demo_base", DEMO | {"own_shapes": True}, {}, ""),
    ("demo_base", DEMO | {"base_error": 0.34}, {}, ""),
    ("demo_base", DEMO | {"base_error": 0.35}, {}, "red"),
    ("demo_base", {}, {}, ""),
    ("demo_base", DEMO, {"tuning__what": "lora"}, "note"),
    ("without_optional_text", {"lacks_optional_text": True}, {}, "note"),
    ("without_optional_text", {}, {}, ""),
    ("unknown_images", {"base_error": None}, {}, ""),
    ("unknown_images", {"base_error": 0.349}, {}, ""),
    ("unknown_images", {"base_error": 0.35}, {}, "yellow"),
    ("unknown_images", {"base_error": 0.749}, {}, "yellow"),
    ("unknown_images", {"base_error": 0.75}, {}, "red"),
    ("unknown_images", {"base_error": float("inf")}, {}, "red"),
    ("number_of_images", {"images": 999}, {}, "yellow"),
    ("number_of_images", {"images": 1_000}, {}, "note"),
    ("number_of_images", {"images": 199}, {"model__controlnet": "/a/net"}, "yellow"),
    ("number_of_images", {"images": 200}, {"model__controlnet": "/a/net"}, "note"),
    ("number_of_images", DEMO | {"own_shapes": True, "images": 40}, {}, ""),
    ("number_of_images", {"images": 20}, {"tuning__what": "lora"}, ""),
    ("images_to_teach", {"images": 20}, {}, ""),
    ("images_to_teach", {"images": 20}, {"tuning__what": "lora", "data__held_out": 15}, "note"),
    ("images_to_teach", {"images": 8}, {"tuning__what": "base", "data__held_out": 16}, "yellow"),
    ("nothing_preserved", {"images": 30}, {"tuning__what": "subject"}, ""),
    ("nothing_preserved", {"images": 34}, {**UNPRESERVED, "tuning__what": "subject"}, "yellow"),
    ("nothing_preserved", {"images": 40, "listed": 40, "without_caption": 40}, {"tuning__what": "subject"}, "yellow"),
    ("nothing_preserved", {"images": 40, "listed": 40, "without_caption": 39}, {"tuning__what": "subject"}, ""),
    ("nothing_preserved", {"images": 35}, {**UNPRESERVED, "tuning__what": "subject"}, ""),
    ("nothing_preserved", {"images": 20}, {**UNPRESERVED, "tuning__what": "lora"}, ""),
    ("nothing_preserved", {"images": 20}, {**UNPRESERVED, "tuning__what": "base"}, "yellow"),
    ("nothing_preserved", {"images": 20}, {"tuning__what": "base", "tuning__class_prompt": "a mug"}, "yellow"),
    ("small_images", {"too_small": 2_999}, {}, ""),
    ("small_images", {"too_small": 3_000}, {}, "yellow"),
    ("missing_maps", {"images": 28_501}, {}, ""),
    ("missing_maps", {"images": 28_500}, {}, "yellow"),
    ("faulty_maps", {"found": {"too_small": 9, "map_lossy": 3}}, {}, ""),
    ("faulty_maps", {"found": {"map_blank": 1}}, {}, "yellow"),
    ("lost_lines", {"found": {"map_shifted_all": 12}}, {}, ""),
    ("lost_lines", {"found": {"map_lines_lost": 1}}, {}, "yellow"),
    ("dataset_check", {}, {}, "note"),
    ("dataset_check", {"checked": False}, {}, "note"),
    ("dataset_check", {"checked": False, "own_shapes": True}, {}, ""),
    ("dataset_check", {"found": {"map_blank": 1, "caption_missing": 9}}, {}, ""),
    ("dataset_check", {"found": {"blurred": 1}}, {}, "note"),
    ("dataset_check", {"found": {"blurred": 9, "constant": 1}}, {}, "yellow"),
    ("class_balance", {}, {}, ""),
    ("class_balance", {"classes": balanced(100, 5)}, {"data__balance": "folder"}, "note"),
    ("class_balance", {"classes": balanced(105, 5)}, {"data__balance": "folder"}, "yellow"),
    ("class_balance", {"classes": balanced(5, 5)}, {"data__balance": "folder"}, "yellow"),
    ("missing_captions", {"without_caption": 15_000}, {}, ""),
    ("missing_captions", {"without_caption": 15_001}, {}, "yellow"),
    ("missing_captions", {"without_caption": 30_000}, {}, "yellow"),
    ("missing_word", {"without_word": 1}, {"tuning__what": "word", "tuning__word": "my-mug"}, "note"),
    ("missing_word", {"without_word": 0}, {"tuning__what": "word", "tuning__word": "my-mug"}, ""),
    ("begins_as", {"begun_tokens": ("coffee", "mug")}, {**WORD, "tuning__vectors": 2}, ""),
    ("begins_as", {"begun_tokens": ("coffee", "mug")}, WORD, "yellow"),
    ("begins_as", {"begun_tokens": ("mugg",), "begun_unknown": frozenset({"mugg"})}, WORD, "yellow"),
    ("begins_as", {}, {}, ""),
    ("resolution", {}, {"data__resolution": 512}, ""),
    ("resolution", {}, {"data__resolution": 576}, "yellow"),
    ("resolution", {"base_side": 0}, {"data__resolution": 576}, ""),
    ("learning_rate", {}, {"optim__learning_rate": 1e-5}, ""),
    ("learning_rate", {}, {"optim__learning_rate": 2e-6}, ""),
    ("learning_rate", {}, {"optim__learning_rate": 1.9e-6}, "yellow"),
    ("learning_rate", {}, {"optim__learning_rate": 9e-5}, ""),
    ("learning_rate", {}, {"optim__learning_rate": 1e-4}, "yellow"),
    ("learning_rate", {}, {"optim__learning_rate": 9e-4}, "yellow"),
    ("learning_rate", {}, {"optim__learning_rate": 1e-3}, "red"),
    ("learning_rate", {}, {"optim__learning_rate": 1e-4, "model__control_lora_rank": 64}, ""),
    ("learning_rate", {}, {"optim__learning_rate": 1e-5, "model__control_lora_rank": 64}, "yellow"),
    ("learning_rate", {}, {"optim__learning_rate": 2e-5, "objective__sd_locked": False}, "yellow"),
    ("learning_rate", {}, {"optim__learning_rate": 1e-4, "tuning__what": "lora"}, ""),
    ("learning_rate", {}, {"optim__learning_rate": 1e-3, "tuning__what": "lora"}, "yellow"),
    ("learning_rate", {}, {"optim__learning_rate": 1e-2, "tuning__what": "lora"}, "red"),
    ("learning_rate", {"parameters": 3_000_000}, {"optim__learning_rate": 1e-2}, ""),
    ("learning_rate", DEMO, {"optim__learning_rate": 3e-3}, ""),
    ("learning_rate", DEMO, {"optim__learning_rate": 1e-5}, "yellow"),
    ("batch", {}, {"train__batch_size": 1}, "yellow"),
    ("batch", {}, {"train__batch_size": 1, "train__accumulation": 2}, ""),
    ("batch", {"parameters": 3_000_000}, {"train__batch_size": 1}, ""),
    ("batch", {}, {"train__batch_size": 1, "tuning__what": "lora"}, ""),
    ("batch", {}, {"train__batch_size": 128}, ""),
    ("batch", {}, {"train__batch_size": 129}, "yellow"),
    ("batch", {"images": 16}, {"train__batch_size": 16}, ""),
    ("batch", {"images": 15}, {"train__batch_size": 16}, "yellow"),
    ("noisy_timesteps", {}, {"tuning__what": "lcm"}, ""),
    ("noisy_timesteps", {}, {"tuning__what": "lcm", "objective__timestep_sampling": "cubic"}, "yellow"),
    ("too_short", {}, {"train__steps": 3_000}, ""),
    ("too_short", {}, {"train__steps": 2_999}, "yellow"),
    ("too_short", {}, {"train__steps": 100, "model__controlnet": "/a/net"}, ""),
    ("too_short", DEMO, {"train__steps": 100}, ""),
    ("too_often", {"images": 16}, {"train__steps": 4_000}, ""),
    ("too_often", {"images": 16}, {"train__steps": 4_001}, "yellow"),
    ("disk", {"disk_needed": 80 * GIB, "disk_free": 100 * GIB}, {}, ""),
    ("disk", {"disk_needed": 81 * GIB, "disk_free": 100 * GIB}, {}, "yellow"),
    ("first_sign", {"seconds_per_image": 0}, {}, ""),
    ("first_sign", {"seconds_per_image": 3.59}, {}, ""),
    ("first_sign", {"seconds_per_image": 3.6}, {}, "yellow"),
    ("first_sign", DEMO, {}, ""),
    ("first_sign", {}, {"model__controlnet": "/a/net"}, ""),
]


@pytest.mark.parametrize(("rule", "facts", "settings", "level"), CASES)
def test_each_rule_at_its_boundary(rule: str, facts: dict[str, Any], settings: dict[str, Any], level: str) -> None:
    one = found(facts, **settings).get(rule)
    assert (one.level if one else "") == level
    if one is not None:
        assert all(text.strip().endswith(".") for text in (one.what, one.why, one.try_this)), one.words
        assert bool(one.anyway) == (level == "red"), "Start asks once more about red ones only"


def test_every_rule_has_a_boundary_and_a_row_in_the_docs() -> None:
    said = {rule: {level for name, _, _, level in CASES if name == rule} for rule, *_ in CASES}
    assert set(said) == {rule.__name__ for rule in RULES}
    assert all(len(levels) > 1 for levels in said.values())
    rows = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8").split("## Before Start")[1]
    table = [line for line in re.split("\n##+ ", rows)[0].splitlines() if line.startswith("| ")]
    assert len(table) - 1 == len(RULES)


def test_red_ones_come_first_and_a_usual_run_has_notes_only() -> None:
    levels = [one.level for one in found(DEMO | {"images": 63, "listed": 63}, data__resolution=256).values()]
    assert levels[0] == "red" and "yellow" in levels and levels == sorted(levels, key=LEVELS.index)
    assert {one.level for one in found({}).values()} == {"note"}


@pytest.mark.parametrize("what", [CONTROLNET, *OTHER_KINDS])
@pytest.mark.parametrize("family", FACTS, ids=lambda facts: facts.name)
def test_no_preset_is_cautioned_against(family: Any, what: str) -> None:
    """Settings that we ship must not be called unusual; nor 20 images for a LoRA, a subject or a word."""
    for preset in all_presets():
        asked = {"model": {"base": "owner/base"}, "tuning": {"what": what}}
        settings = resolve(*preset.layers(family.name, what), ("test", asked))[0]
        own = {"base_side": settings.data.resolution, "parameters": family.parameters}
        few = {} if what in (CONTROLNET, "base") else {"images": 20, "listed": 20}
        facts = StartFacts(**GOOD | own | few)
        assert {one.level for one in cautions(settings, facts)} == {"note"}, preset.name


def test_what_a_button_sets_ends_its_caution() -> None:
    tried = [(r, f, s) for r, f, s, level in CASES if level in ("red", "yellow")]
    offered = set()
    for rule, facts, settings in tried:
        one = found(facts, **settings)[rule]
        if one.offer is None:
            continue
        offered.add(rule)
        after = found(facts, **settings | {n.replace(".", "__"): v for n, v in one.offer.settings.items()})
        if rule == "number_of_images":
            assert "Control-LoRA" in one.try_this and "Control-LoRA" not in after[rule].try_this
            assert "learning_rate" not in after
        elif rule == "disk":
            assert one.offer.settings["train.keep_checkpoints"] < settings.get("train__keep_checkpoints", 3)
        else:
            assert rule not in after, one.words
    assert offered == set(WITH_REMEDY)


def test_a_run_that_teaches_its_base_is_told_why_nothing_is_forecast() -> None:
    advice = advice_for(config(tuning__what="lora"), StartFacts(**GOOD))
    assert advice is not None and advice.follows is None and not advice.steps and not advice.other_steps
    (line,) = advice.lines
    assert line.text == "not forecast; the gain on held-out images shows it while it trains"
    assert "Usual: 500 to 3,000 steps." in line.source
    unchecked = advice_for(config(tuning__what="lora", validation__check_every=0), StartFacts(**GOOD))
    assert unchecked is not None and "with a Loss check" in unchecked.lines[0].text
    assert advice_for(config(tuning__what="lcm"), StartFacts(**GOOD)) is None, "no gain is measured"


def test_cautions_of_a_lora_do_not_speak_of_a_controlnet() -> None:
    assert "ControlNet" in found(DEMO)["demo_base"].why
    lora = found(DEMO, tuning__what="lora")
    assert lora["demo_base"].level == "note" and not any("ControlNet" in one.words for one in lora.values())


def test_the_demo_needs_no_caution(workspace: Workspace) -> None:
    """With the sizes of the browser's test, and its number of steps."""
    dataset = make_demo_set(workspace, "circles", 16)
    changes = {"data": {"dataset": dataset.name}, "train": {"steps": 140}}
    demo = resolve(("demo", demo_preset().values), ("test", changes))[0]
    facts = start_facts(workspace, demo, CARD)
    assert facts.on_demo_base and facts.own_shapes and facts.toy and facts.base_side == 128
    assert cautions(demo, facts) == ()
    Dataset.create(workspace, "again", scan_folder(dataset.source), dataset.source)
    again = demo.model_copy(update={"data": demo.data.model_copy(update={"dataset": "again"})})
    assert start_facts(workspace, again, CARD).own_shapes, "the same images under another name"


@pytest.fixture
def photographs(workspace: Workspace, tmp_path: Path) -> Dataset:
    """Four images with empty maps: one small, two without a caption."""
    folder = tmp_path / "mine"
    for name in ("images", "conditions"):
        (folder / name).mkdir(parents=True)
    for number in range(4):
        side = 48 if number == 3 else 80
        Image.effect_noise((side, 90), 90).convert("RGB").save(folder / "images" / f"{number}.png")
        if number < 2:
            (folder / "images" / f"{number}.txt").write_text(f"number {number}", encoding="utf-8")
        Image.new("RGB", (side, 90)).save(folder / "conditions" / f"{number}.png")
    return Dataset.create(workspace, "mine", scan_folder(folder), folder)


def test_the_facts_of_own_images(workspace: Workspace, photographs: Dataset, tiny_base: Path) -> None:
    settings = config(data__dataset="mine", data__resolution=64, model__base=str(tiny_base))
    facts = start_facts(workspace, settings, CARD)
    assert (facts.listed, facts.images, facts.too_small, facts.without_caption) == (4, 4, 1, 2)
    assert (facts.base_side, facts.toy, facts.on_demo_base, facts.own_shapes) == (64, True, False, False)
    assert facts.disk_needed > 0 and facts.disk_free > 0 and facts.seconds_per_image > 0 and not facts.measured
    word = config(data__dataset="mine", model__base=str(tiny_base), tuning__what="subject", tuning__word="number")
    assert start_facts(workspace, word, CARD).without_word == 2 and facts.without_word == 0
    assert facts.found == {}, "the dataset was not checked"
    check(photographs, 64, workers=1)
    assert start_facts(workspace, settings, CARD).found["map_blank"] == 4
    store = CheckStore(photographs.folder)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE about SET value = 'another' WHERE name = 'fingerprint'")
    assert start_facts(workspace, settings, CARD).found == {}, "of the dataset as it was before"
    store.path.write_bytes(b"no database at all" * 100)
    assert start_facts(workspace, settings, CARD).found == {}
    spec = photographs.set_condition("canny")
    photographs.index.mark_maps((s.key, spec.fingerprint, s.digest) for s in photographs.samples(1))
    assert start_facts(workspace, settings, CARD).images == 3, "one is not made yet"


def test_runs_and_trials_tell_the_error_of_their_base(
    workspace: Workspace, photographs: Dataset, tiny_base: Path
) -> None:
    settings = config(data__dataset="mine", data__resolution=64, model__base=str(tiny_base))

    def error(**changes: Any) -> float | None:
        other = config(**{"data__dataset": "mine", "data__resolution": 64, "model__base": str(tiny_base)} | changes)
        return start_facts(workspace, other, CARD).base_error

    assert error() is None
    write(workspace, settings, CARD.name, Measured(1.0, 1.0, 1.0, True, base_error=0.5, dataset="mine"))
    assert error() == 0.5
    assert error(train__batch_size=2) is None, "another trial"
    folder = workspace.new_run("earlier")
    about = {"config": settings.model_dump(mode="json")}
    write_run(folder, about | {RECORD: {"schedule": {}, "errors": {"epsilon": 0.9, "v": 0.4}, "notes": []}})
    assert error(train__batch_size=2) == 0.4, "under the reading that fits"
    assert error(data__resolution=128) is None
    assert error(model__base="demo") is None
    write_run(folder, about | {RECORD: {"errors": {"epsilon": None}}})
    assert error() == float("inf")
    write_run(folder, about | {RECORD: {}})
    assert error() == 0.5


def test_the_command_line_prints_them_before_it_trains(
    workspace: Workspace, photographs: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.training.job.training_job", lambda *run: lambda token, emit: "completed")
    start = ["--workspace", str(workspace.root), "train", "--preset", "demo"]
    assert main([*start, "--dataset", "mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Serious:  The demo base knows only its own coloured shapes.")
    assert any(line.startswith("Caution: 4 of 4 images are smaller than 128 px.") for line in lines)
    make_demo_set(workspace, "circles", 16)
    assert main([*start, "--dataset", "demo-circles-16"]) == 0
    assert capsys.readouterr().out.startswith("Run "), "the demo needs none"


def test_a_dry_run_says_what_to_expect_and_creates_nothing(
    workspace: Workspace, photographs: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """The settings, what the run takes, cautions and advice. Something missing is an error."""
    start = ["--workspace", str(workspace.root), "train", "--preset", "demo", "--dry-run"]
    assert main([*start, "--dataset", "mine", "--set", "train.steps=40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("40 steps of 8 images, roughly ") and lines[1].startswith("Serious:  ")
    assert any(line.startswith("Follows its control images: ") for line in lines)
    assert main([*start, "--dataset", "gone"]) != 0 and "cannot start" in capsys.readouterr().err
    assert not workspace.run_folders()


def test_a_run_that_trains_no_control_net_is_not_judged_as_one() -> None:
    few = {"images": 10, "listed": 30, "base_error": 0.9, "seconds_per_image": 900.0}
    few |= {"found": {"map_blank": 3, "map_lines_lost": 9}}
    asked = {"train.steps": 5, "optim.learning_rate": 0.1}
    judged = found(few, **asked)
    assert {rule.__name__ for rule in ABOUT_CONTROL} <= judged.keys()
    with whole_denoiser.chosen():
        not_control = judged.keys() - {rule.__name__ for rule in ABOUT_CONTROL}
        assert found(few, **asked).keys() == not_control | {"images_to_teach", "nothing_preserved"}


def test_lines_that_the_vae_loses_are_a_caution_where_the_nets_read_latents(
    ready_workspace: Workspace, tiny_sd3: Path, tiny_base: Path
) -> None:
    dataset = Dataset.open(ready_workspace.dataset_folder("pairs"))
    check(dataset, 64)
    CheckStore(dataset.folder).replace_one("map_lines_lost", [Hit("map_lines_lost", "images/00.png")], {})
    for base, wanted in ((tiny_sd3, True), (tiny_base, False)):
        settings = config(model__base=str(base), data__dataset="pairs", data__resolution=64)
        told = {one.rule: one for one in cautions(settings, start_facts(ready_workspace, settings, CARD))}
        assert ("lost_lines" in told) is wanted, base
    assert (
        "in 1 control image of those"
        in found({**GOOD, "checked": True, "found": {"map_lines_lost": 1}})["lost_lines"].what
    )


def test_what_a_word_begins_as_is_counted_as_the_tokenizer_does(tiny_base: Path) -> None:
    tokenizer = detect(str(tiny_base)).load_tokenizer(str(tiny_base))
    words = "Red circle, x2 qqzq!"
    tokens = tokens_of(words)
    unknown = unknown_tokens(tokens, str(tiny_base))
    assert tokens == ("red", "circle", ",", "x", "2", "qqzq", "!") and "qqzq" in unknown and "circle" not in unknown
    for token in tokens:
        assert (len(tokenizer(token, add_special_tokens=False).input_ids) > 1) == (token in unknown)
