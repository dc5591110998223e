"""A preset of the user's holds what differs from the app's and follows it in the rest; a broken file stops nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.config.presets import Preset, all_presets, flatten, resolve
from engine.config.user_presets import UserPresets
from engine.demo.sets import demo_preset
from engine.errors import UserError

MINE = {"name": "owls", "data": {"dataset": "birds"}, "train": {"steps": 77}, "optim": {"learning_rate": 3e-5}}


@pytest.fixture
def presets(tmp_path: Path) -> UserPresets:
    return UserPresets(tmp_path / "presets", [demo_preset(), *all_presets()])


def with_changes(preset: Preset, family: str = "", **changes: dict) -> RunConfig:
    return resolve(*preset.layers(family), ("you", changes))[0]


def test_only_what_differs_is_written(presets: UserPresets) -> None:
    config = with_changes(presets.all["8gb"], **MINE)
    assert presets.save("  Night   owls: 2nd try ", "8gb", "sd1", config) == "Night-owls-2nd-try"
    written = (presets.folder / "Night-owls-2nd-try.toml").read_text(encoding="utf-8")
    lines = [line for line in written.splitlines() if line and not line.startswith("#")]
    assert lines[:3] == ["[preset]", 'title = "Night owls: 2nd try"', 'based_on = "8gb"']
    assert [line.split("  #")[0] for line in lines[3:]] == ["[optim]", "learning_rate = 3e-05", "[train]", "steps = 77"]
    kept = presets.all["Night-owls-2nd-try"]
    again = with_changes(kept, "sd1", name="owls", data={"dataset": "birds"})
    assert again == config
    origins = resolve(*kept.layers("sd1"))[1]
    assert origins["train.steps"] == "preset Night-owls-2nd-try" and origins["train.batch_size"] == "preset 8gb"


def test_a_value_that_was_not_touched_follows_the_apps_preset(presets: UserPresets) -> None:
    presets.save("mine", "8gb", "sd1", with_changes(presets.all["8gb"], **MINE))
    newer = Preset("8gb", "8 GB card", "", 8, {"train": {"batch_size": 3, "steps": 5}})
    config, _ = resolve(*UserPresets(presets.folder, [newer]).all["mine"].layers())
    assert (config.train.batch_size, config.train.steps) == (3, 77)


def test_of_a_family_that_a_preset_treats_apart_the_difference_is_to_that(presets: UserPresets) -> None:
    card = presets.all["12gb"]
    config = with_changes(card, "sdxl", model={"base": "xl"}, train={"steps": 9})
    presets.save("xl", "12gb", "sdxl", config)
    kept = presets.all["xl"]
    assert flatten(kept.values) == {"model.base": "xl", "train.steps": 9}
    assert kept.base() == "xl" and card.base() != "xl"
    assert with_changes(kept, "sdxl") == config


def test_one_over_another_stands_on_the_apps(presets: UserPresets) -> None:
    presets.save("one", "8gb", "", with_changes(presets.all["8gb"], train={"steps": 77}))
    presets.save("two", "one", "", with_changes(presets.all["one"], train={"seed": 5}))
    presets.delete("one")
    fresh = UserPresets(presets.folder, [demo_preset(), *all_presets()])
    assert "one" not in fresh.all and not fresh.problems
    assert flatten(fresh.all["two"].values) == {"train.steps": 77, "train.seed": 5}


def test_the_same_title_replaces_and_another_of_that_file_name_does_not(presets: UserPresets) -> None:
    presets.save("my owls", "8gb", "", with_changes(presets.all["8gb"], train={"steps": 77}))
    presets.save("My owls", "8gb", "", with_changes(presets.all["8gb"], train={"steps": 78}))
    (kept,) = [preset for name, preset in presets.all.items() if presets.is_own(name)]
    assert kept.values == {"train": {"steps": 78}}
    with pytest.raises(UserError, match="It would replace the file of the preset My owls"):
        presets.save("my: owls", "8gb", "", with_changes(presets.all["8gb"], train={"steps": 79}))


@pytest.mark.parametrize(
    ("title", "word"), [("  ", "no name"), ("8GB", "comes with a preset"), ("Demo", "comes with a preset")]
)
def test_a_name_that_cannot_be_is_refused(presets: UserPresets, title: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        presets.save(title, "8gb", "", with_changes(presets.all["8gb"], train={"steps": 77}))
    assert not presets.folder.exists()


def test_a_preset_without_changes_is_refused(presets: UserPresets) -> None:
    with pytest.raises(UserError, match="the same as in the preset 8 GB card"):
        presets.save("mine", "8gb", "", with_changes(presets.all["8gb"], name="owls", data={"dataset": "birds"}))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[preset]\nbased_on = "32gb"', "based on the preset 32gb"),
        ('[preset]\nbased_on = "8gb"\n[train]\nstpes = 5', "train.stpes is not a setting"),
        (
            '[preset]\nbased_on = "8gb"\n[optim]\noptimizer = "adamw8bit"\noffload = true',
            "need their state on the card",
        ),
        ("preset = 5", "are sections"),
        ('[preset]\nmin_vram_gib = "much"', "min_vram_gib is 'much'"),
        ("[preset\n", "not valid TOML"),
        ("# \udcff", "not UTF-8"),
    ],
)
def test_a_file_that_is_broken_is_left_out_with_words(presets: UserPresets, text: str, word: str) -> None:
    presets.folder.mkdir()
    (presets.folder / "bad.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    (presets.folder / "good.toml").write_text("[train]\nsteps = 5\n", encoding="utf-8")
    presets.read()
    (problem,) = presets.problems
    assert word in f"{problem.what} {problem.why}" and "bad" in problem.what
    assert presets.is_own("good") and "bad" not in presets.all
    with pytest.raises(UserError, match="There is no preset called bad"):
        presets.get("bad")


def test_a_preset_that_contradicts_the_apps_for_other_runs_alone_is_used(presets: UserPresets) -> None:
    """The 12 GB preset updates in the backward pass where it trains a whole base, which excludes accumulation."""
    text = '[preset]\nbased_on = "12gb"\n[train]\naccumulation = 2\n'
    presets.folder.mkdir(exist_ok=True)
    (presets.folder / "twice.toml").write_text(text, encoding="utf-8")
    presets.read()
    assert not presets.problems and resolve(*presets.get("twice").layers("sd1"))[0].train.accumulation == 2
    with pytest.raises(UserError, match="train.accumulation to 1"):
        resolve(*presets.get("twice").layers("sdxl", "base"), ("test", {"tuning": {"what": "base"}}))


def test_the_apps_are_never_deleted(presets: UserPresets) -> None:
    presets.delete("8gb")
    assert "8gb" in presets.all and not presets.is_own("8gb")
