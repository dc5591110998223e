"""Time and disk of a run, before it starts."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from annotated_types import Le
from safetensors.torch import load_file

from engine.config import SECTIONS, RunConfig, fields, speed_settings
from engine.config.presets import resolve, unflatten
from engine.data import caption_edits
from engine.data.dataset import Dataset
from engine.estimate import trials
from engine.estimate.estimate import checkpoint_bytes, estimate, long_captions, preview_seconds, run_seconds
from engine.estimate.memory import LongCaptions, predict
from engine.estimate.trials import Measured, read, write
from engine.families.files import denoiser_parameters
from engine.jobs.events import StepDone
from engine.machine.hardware import Hardware
from engine.runs.recorder import Recorder
from engine.runs.run import Run, write_run
from engine.workspace.paths import Workspace

CPU = Hardware("cpu", "x", None, 16, 8)
CARD = Hardware("cuda", "RTX 3060", 12.0, 16, 8)
STEPS = 1000
MARKED = speed_settings(RunConfig())


def config(base: str = "owner/sd15", more: dict[str, Any] | None = None, **train: object) -> RunConfig:
    values = {"model": {"base": base}, "train": {"steps": STEPS, "batch_size": 4, **train}}
    return resolve(("test", values), ("more", unflatten(more or {})))[0]


def another(dotted: str) -> dict[str, Any]:
    """Another value of a setting, with what it takes for the settings to be allowed."""
    section, name = dotted.split(".")
    field = fields(section)[name]
    now = getattr(getattr(config(), section), name)
    if get_origin(field.annotation) is Literal:
        value: Any = next(choice for choice in get_args(field.annotation) if choice != now)
    elif field.annotation is bool:
        value = not now
    elif field.annotation is str:
        value = "owner/another"
    else:
        most = next((bound.le for bound in field.metadata if isinstance(bound, Le)), now + 64)
        value = 0.999 if dotted == "optim.ema_decay" else min(now + 64, most)
    return {dotted: value}


def trained(workspace: Workspace, run: RunConfig, seconds: float = 2.0, processes: int = 1, machine: str = "") -> None:
    """A run's folder with the figures of ten steps."""
    folder = workspace.new_run("earlier")
    write_run(folder, {"config": run.model_dump(mode="json")})
    if machine:
        Run(folder).note_machine(name=machine)
    recorder = Recorder(folder, lambda event: None)
    recorder.record_status("started", 0, processes=processes)
    for step in range(1, 11):
        recorder(StepDone(step, step * 4, 0.1, 1e-5, seconds))


def test_a_processor_takes_far_longer_than_a_card(workspace: Workspace) -> None:
    assert run_seconds(config(), workspace, CPU)[0] > 20 * run_seconds(config(), workspace, CARD)[0]


def test_twice_the_steps_take_twice_the_time(workspace: Workspace) -> None:
    once, twice = (run_seconds(config(steps=steps), workspace, CARD)[0] for steps in (1000, 2000))
    assert twice == pytest.approx(2 * once)


def test_the_disk_holds_weights_and_optimizer_of_every_kept_checkpoint(workspace: Workspace) -> None:
    run = config(keep_checkpoints=3)
    assert checkpoint_bytes(run, predict(workspace, run)) == 361_279_120 * 4 * 3 * 4
    assert "GB of disk" in estimate(config(), workspace, CARD)


def test_earlier_runs_of_this_machine_are_believed(workspace: Workspace) -> None:
    assert "roughly " in estimate(config(), workspace, CARD)
    trained(workspace, config())
    assert run_seconds(config(), workspace, CARD) == (pytest.approx(2.0 * STEPS), True)
    assert "about 33 min" in estimate(config(), workspace, CARD)


def test_settings_that_change_nothing_of_a_step_leave_it_measured(workspace: Workspace) -> None:
    trained(workspace, config())
    more = {"optim.learning_rate": 1e-4, "train.seed": 7, "train.checkpoint_every": 50, "data.dataset": "other"}
    assert "about " in estimate(config(more=more), workspace, CARD)
    averaged, otherwise = ({"optim.ema_decay": decay} for decay in (0.9, 0.999))
    trained(workspace, config(more=averaged), seconds=3.0)
    assert run_seconds(config(more=otherwise), workspace, CARD) == (pytest.approx(3.0 * STEPS), True)


@pytest.mark.parametrize("dotted", MARKED)
def test_no_other_run_s_seconds_are_called_measured(workspace: Workspace, dotted: str) -> None:
    trained(workspace, config())
    write(workspace, config(), CARD.name, Measured(2.0, 1.0, 2.0**30, True))
    assert "about " in estimate(config(), workspace, CARD)
    other = config(more=another(dotted))
    summary = estimate(other, workspace, CARD)
    assert "about " not in summary and "roughly " in summary and "predicted" in summary
    assert read(workspace, other, CARD.name) is None


@pytest.mark.parametrize(
    ("tried", "wanted", "same"),
    [
        ({"validation.every": 0}, {}, False),  # it drew nothing, so it does not know what an image takes
        ({"validation.pictures": 1, "validation.probes": 0}, {"validation.pictures": 1}, False),  # 3 at once
        ({"validation.pictures": 4}, {"validation.probes": 0}, True),  # 4 at once, as many as are drawn together
        ({"validation.pictures": 8}, {"validation.sampling_steps": 50}, True),
        ({"validation.guidance_scale": 1.0}, {}, False),
        ({}, {"validation.every": 100}, True),
    ],
)
def test_a_trial_counts_where_as_many_images_are_drawn_together(
    workspace: Workspace, tried: dict[str, Any], wanted: dict[str, Any], same: bool
) -> None:
    write(workspace, config(more=tried), CARD.name, Measured(2.0, 1.0, 2.0**30, True))
    assert (read(workspace, config(more=wanted), CARD.name) is not None) == same
    assert read(workspace, config(more=tried), CPU.name) is None, "another machine"


def test_a_trial_of_the_first_versions_counts_for_usual_values_of_what_its_key_left_out(workspace: Workspace) -> None:
    as_then = {"optim.half_gradients": False}
    facts = [CARD.name, *(speed_settings(config())[name] for name in trials.FORMER_SETTINGS)]
    entry = asdict(Measured(2.0, 1.0, 2.0**30, True))
    entry[trials.FORMER_NAME] = ["smaller batches"]
    del entry["fallbacks"]
    (workspace.cache / trials.FILE).write_text(json.dumps({trials.digest(facts): entry}), encoding="utf-8")
    found = read(workspace, config(more=as_then), CARD.name)
    assert found is not None and found.fallbacks == ("smaller batches",)
    for left_out in ({}, {"data.buckets": True}, {"objective.only_mid_control": True}, {"validation.every": 0}):
        assert read(workspace, config(more={**as_then, **left_out} if left_out else {}), CARD.name) is None


def test_what_is_known_to_cost_time_or_memory_is_marked() -> None:
    costly = {
        "train.gradient_checkpointing",
        "optim.offload",
        "optim.ema_decay",
        "train.compile",
        "train.batch_size",
        "objective.sd_locked",
        "data.buckets",
        "model.control_lora_rank",
    }
    assert costly <= set(MARKED)
    assert all(dotted.split(".")[0] in SECTIONS for dotted in MARKED)


def test_a_run_that_several_cards_shared_is_no_measure_for_one(workspace: Workspace) -> None:
    trained(workspace, config(), processes=2)
    assert "roughly " in estimate(config(), workspace, CARD)


def test_a_run_of_another_card_is_no_measure_for_this_one(workspace: Workspace) -> None:
    trained(workspace, config(), machine="RTX 5090")
    assert "roughly " in estimate(config(), workspace, CARD)
    trained(workspace, config(), machine=CARD.name)
    assert "about 33 min" in estimate(config(), workspace, CARD)


def test_a_damaged_run_does_not_hide_the_estimate(workspace: Workspace) -> None:
    folder = workspace.new_run("broken")
    (folder / "run.json").write_text("{", encoding="utf-8")
    assert "roughly " in estimate(config(), workspace, CARD)


def test_sizes_come_from_the_file_of_a_local_base(workspace: Workspace, tiny_base: Path) -> None:
    weights = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    assert denoiser_parameters(workspace, str(tiny_base)) == sum(weight.numel() for weight in weights.values())


def test_long_captions_are_found_by_their_characters(ready_workspace: Workspace) -> None:
    settings = config(more={"data.dataset": "pairs"})
    assert long_captions(settings, ready_workspace) == LongCaptions()
    dataset = Dataset.open(ready_workspace.dataset_folder("pairs"))
    keys = [sample.key for sample in dataset.samples()]
    caption_edits.set_captions(dataset, {keys[0]: "red circle " * 30, keys[1]: "red circle " * 500})
    assert long_captions(settings, ready_workspace) == LongCaptions(2, 3), "not more than training reads"
    cut = config(more={"data.dataset": "pairs", "data.long_captions": "cut"})
    assert long_captions(cut, ready_workspace) == LongCaptions()


def test_previews_take_no_more_of_the_time_than_they_may() -> None:
    """Eight images each at steps 0, 250, 500, 750 and 1,000; four of them are probes."""
    every = {"validation.every": 250, "validation.pictures": 4, "validation.probes": 2}
    assert preview_seconds(config(more=every), 2000, 1.0) == 5 * 8
    assert preview_seconds(config(more={**every, "validation.probe_steps": 10}), 2000, 1.0) == 5 * 6
    share = {**every, "validation.time_share": 1.0}  # half of it is for loss checks
    assert preview_seconds(config(more=share), 2000, 1.0) == 2 * 8 + 0.005 * 2000
    assert preview_seconds(config(more=share), 200_000, 1.0) == 5 * 8
    assert preview_seconds(config(more={"validation.every": 0}), 2000, 1.0) == 0
