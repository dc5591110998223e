"""Before the first step a base is asked what it predicts, and whether it knows the images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import DDPMScheduler
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.evaluation.loaded import load_models
from engine.families.noise import DiffusionNoise
from engine.families.registry import describe
from engine.inference.session import TrySession
from engine.jobs.control import Control
from engine.jobs.events import Message
from engine.runs.known_bases import RECORD, known_schedule
from engine.runs.run import Run
from engine.training.base_check import BaseCheck, judge
from engine.training.job import build_trainer
from engine.workspace.paths import DEMO_BASE, Workspace
from tests.families.made_up import Flow
from tests.short_runs import RunFactory, train

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
NOISE = DiffusionNoise(DDPMScheduler(**BETAS))
VELOCITY = NOISE.with_settings("v", "auto")
ZERO_SNR = NOISE.with_settings("v", "on")


def demo_as(folder: Path, **schedule: Any) -> str:
    """The bundled base, which predicts noise, with another scheduler config."""
    shutil.copytree(DEMO_BASE, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | schedule), encoding="utf-8")
    return str(folder)


@pytest.mark.answers('"The base does not match its config"')
def test_a_base_with_the_wrong_prediction_type_is_caught_before_the_first_step(
    new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    """A real start of training with the bundled base, whose config was changed to velocity and zero terminal SNR."""
    base = demo_as(tmp_path / "wrong", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    run = new_run(**{"model.base": base, "train.steps": 2})
    trained = train(ready_workspace, run, at_step={1: "pause"})
    (words,) = trained.warnings
    assert "does not match its config" in words and "if it predicts noise" in words
    found = Run(run.folder).about[RECORD]
    assert found["schedule"] == {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
    assert found["errors"]["epsilon"] < 0.3 and found["errors"]["v"] > 0.8 and found["notes"] == [words]
    assert words in (run.folder / "log.txt").read_text(encoding="utf-8")

    # Its checkpoint says so, too: previews, evaluations and Try it draw with what it was trained for.
    (checkpoint,) = run.checkpoints()
    assert checkpoint.noise_schedule == found["schedule"]
    assert load_models(ready_workspace, run, checkpoint).schedule == found["schedule"]
    session = TrySession(ready_workspace, device="cpu")
    session.load(base, checkpoint.folder)
    sampler: Any = session.pipeline.scheduler.config
    assert (sampler.prediction_type, sampler.rescale_betas_zero_snr) == ("epsilon", False)

    # A net without a record of its own, such as an exported one, is drawn as the newest run on its base says.
    assert known_schedule(ready_workspace, base) == found["schedule"] and known_schedule(ready_workspace, "demo") == {}
    assert "predicts velocity" in describe(base) and "predicts noise" in describe(base, found["schedule"])
    shutil.copytree(checkpoint.controlnet, tmp_path / "exported")
    session.load(base, tmp_path / "exported")
    assert session.pipeline.scheduler.config.prediction_type == "epsilon"

    # It goes on as it began, and does not look again.
    again = build_trainer(ready_workspace, Run(run.folder), Control().token, lambda event: None)
    assert again.state.noise_process.schedule == found["schedule"] and again.state.step == 1
    again.close()


def test_images_that_a_base_does_not_know_are_a_caution(
    new_run: RunFactory, ready_workspace: Workspace, photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """The bundled base knows coloured shapes and no photographs. Training goes on."""
    for part in ("images", "conditions"):
        (tmp_path / "photos" / part).mkdir(parents=True)
        for name, photo in photos.items():
            Image.fromarray(photo).resize((64, 64)).save(tmp_path / "photos" / part / f"{name}.png")
    Dataset.create(ready_workspace, "photographs", scan_folder(tmp_path / "photos"))
    settings = {"model.base": "demo", "train.batch_size": 4}
    shapes = start(ready_workspace, new_run(**settings))
    photographs = start(ready_workspace, new_run(**settings, **{"data.dataset": "photographs"}))
    assert shapes["notes"] == [] and shapes["errors"]["epsilon"] < 0.25
    (words,) = photographs["notes"]
    assert "hardly knows images like these" in words and photographs["errors"]["epsilon"] > 0.35


def start(workspace: Workspace, run: Run) -> dict[str, Any]:
    """Set a run up, as at its start, and return what was found about its base."""
    events: list[Any] = []
    trainer = build_trainer(workspace, run, Control().token, events.append)
    found = Run(run.folder).about[RECORD]
    assert trainer.state.noise_process.schedule == found["schedule"]
    trainer.close()
    assert found["notes"] == [event.text for event in events if isinstance(event, Message) and event.level == "warning"]
    return dict(found)


def test_a_setting_decides_over_what_is_measured(new_run: RunFactory, ready_workspace: Workspace) -> None:
    found = start(ready_workspace, new_run(**{"model.base": "demo", "model.prediction": "v"}))
    assert found["schedule"]["prediction_type"] == "v_prediction"
    assert "Prediction type is set to v, but" in found["notes"][0]


def test_a_run_of_an_earlier_version_goes_on_as_it_began(
    new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path
) -> None:
    """It has a checkpoint and no record: its base stays what the config says."""
    run = new_run(**{"model.base": demo_as(tmp_path / "wrong", prediction_type="v_prediction"), "train.steps": 2})
    train(ready_workspace, run, at_step={1: "pause"})
    about = json.loads((run.folder / "run.json").read_text(encoding="utf-8"))
    del about[RECORD]
    for name in ("prediction", "zero_terminal_snr"):
        del about["config"]["model"][name]
    (run.folder / "run.json").write_text(json.dumps(about), encoding="utf-8")
    trainer = build_trainer(ready_workspace, Run(run.folder), Control().token, lambda event: None)
    assert trainer.state.noise_process.schedule["prediction_type"] == "v_prediction"
    assert RECORD not in Run(run.folder).about
    trainer.close()


@pytest.mark.parametrize(
    ("process", "errors", "setting", "chosen", "words"),
    [
        (NOISE, {"epsilon": 0.2, "v": 1.1}, "auto", NOISE, []),
        (VELOCITY, {"epsilon": 15.0, "v": 0.3}, "auto", VELOCITY, []),
        (NOISE, {"epsilon": 15.0, "v": 0.3}, "auto", VELOCITY, ["trained with zero terminal SNR"]),
        (NOISE, {"epsilon": 15.0, "v": 0.3}, "epsilon", NOISE, ["set to epsilon, but"]),
        (ZERO_SNR, {"epsilon": 0.1, "v": 1.2}, "auto", NOISE, ["does not match its config"]),
        (VELOCITY, {"epsilon": 0.3, "v": 0.4}, "auto", VELOCITY, ["no better than chance"]),
        (NOISE, {"epsilon": 9.0, "v": 1.3}, "auto", NOISE, ["no better than chance"]),
        (NOISE, {"epsilon": float("nan"), "v": float("nan")}, "auto", NOISE, ["no better than chance"]),
        (NOISE, {"epsilon": 0.5, "v": 1.3}, "auto", NOISE, ["hardly knows images"]),
        (NOISE.with_schedule({"rescale_betas_zero_snr": True}), None, "auto", NOISE, ["Zero terminal SNR is not used"]),
    ],
)
def test_how_the_errors_are_judged(
    process: DiffusionNoise, errors: dict[str, float] | None, setting: str, chosen: DiffusionNoise, words: list[str]
) -> None:
    used, notes = judge(process, errors and BaseCheck({name: [error] * 4 for name, error in errors.items()}), setting)
    assert used.schedule == chosen.schedule
    assert len(notes) == len(words) and all(word in note for word, note in zip(words, notes, strict=True))


def test_a_run_that_teaches_the_base_is_not_told_that_it_should_know_the_images() -> None:
    known = BaseCheck({"epsilon": [0.5] * 4, "v": [1.3] * 4})
    assert judge(NOISE, known, "auto", steers=False)[1] == [] != judge(NOISE, known, "auto")[1]


def test_a_base_that_can_be_read_in_one_way_only_has_nothing_to_set() -> None:
    flow = Flow()
    assert flow.with_settings("auto", "auto") is flow
    assert judge(flow, BaseCheck({flow.prediction: [0.2] * 4}), "auto") == (flow, [])
    with pytest.raises(UserError, match="Set both to auto"):
        flow.with_settings("v", "auto")
