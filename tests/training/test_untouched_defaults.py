"""A run with the settings that a newcomer gets: the preset that the window suggests without a card, unchanged."""

from __future__ import annotations

import logging

import pytest

from engine.demo.sets import make_demo_set
from engine.jobs.events import Checked, Message, PhaseChanged, PreviewMade, Progress
from engine.machine.hardware import Hardware
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests.short_runs import train
from ui.page.context import AppContext, Draft

CHECKPOINT = {
    "checkpoint.json",
    "controlnet/config.json",
    "controlnet/diffusion_pytorch_model.safetensors",
    "controlnet_ema/config.json",
    "controlnet_ema/diffusion_pytorch_model.safetensors",
    "training_state/optimizer.safetensors",
    "training_state/state.json",
}
IMAGES = [*(f"{number:02d}" for number in range(6)), "p00", "p01"]
"""Six held-out pairs, and two probes: one without a prompt, one with another image's prompt."""


@pytest.mark.slow
def test_the_suggested_settings_train_check_draw_and_save(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ui.page.next_run.detect", lambda: Hardware("cpu", "A processor", None, ram_gib=16, cores=4))
    context = AppContext(workspace)
    name = make_demo_set(workspace, "circles", 72).folder.name
    draft = Draft(context.suggested_preset, {"data": {"dataset": name}})
    run = create_run(workspace, *context.config_of(draft))
    assert {origin for origin in run.origins.values() if origin not in ("default", "preset demo")} == {"you"}
    assert [setting for setting, origin in run.origins.items() if origin == "you"] == ["data.dataset"]

    trained = train(workspace, run, at_step={2: "pause"})
    assert trained.outcome == "paused"

    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    (curves,) = {file for file in files if file.startswith("tensorboard/events.out.tfevents.")}
    drawn = {f"previews/step-000000/{image}{kind}.webp" for image in IMAGES for kind in ("", "-row")}
    saved = {f"checkpoints/step-000002/{file}" for file in CHECKPOINT}
    assert files - {curves} == saved | drawn | {
        "previews/step-000000/scores.json",
        "run.json",
        "metrics.jsonl",
        "log.txt",
    }

    events = [event for event in trained.events if not isinstance(event, Progress)]
    assert [event.phase if isinstance(event, PhaseChanged) else type(event).__name__ for event in events] == [
        *("Message", "preparing", "Message", "RunOpened", "running", "DiskSpace", "Checked"),
        *("validating", "PreviewMade", "running", "StepDone", "StepDone"),
        *("saving", "CheckpointSaved", "DiskSpace", "running", "Message"),
    ]
    assert [message.text for message in trained.of(Message)] == [
        "Loading torch and diffusers.",
        "Loading the base model.",
        "Paused. Saved at step 2; it is safe to close the app.",
    ]
    log = (run.folder / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in log if "Step 2 saved." not in line] == [message.text for message in trained.of(Message)]
    assert len(log) == 4

    (check,) = trained.of(Checked)
    assert (check.step, check.control_gain, check.gain_share) == (0, 0, 0), "a new ControlNet adds nothing"
    assert 0 < check.held_out_loss < 0.1 and 0 < check.training_loss < 0.1
    (preview,) = trained.of(PreviewMade)
    assert preview == run.previews()[0].event
    assert len(preview.pictures) == 6 and len(preview.probes) == 2
    assert preview.scores.keys() == {"iou", "colours", "likeness", "obeys"}

    kinds = [sorted({"event", "loss", "scores", "control_gain"} & line.keys()) for line in run.metrics()]
    assert kinds == [["event"], ["control_gain"], ["scores"], ["loss"], ["loss"], ["event"]]
    rates = [line["learning_rate"] for line in run.metrics() if "loss" in line]
    assert rates == pytest.approx([3e-3 / 31, 2 * 3e-3 / 31]), "the warm-up has begun"


def test_no_line_about_a_kernel_of_bitsandbytes_appears_when_a_user_trains() -> None:
    """diffusers imports it wherever it is installed, and its warning names packages that nobody needs."""
    ops = pytest.importorskip("bitsandbytes.backends.cpu.ops")
    assert ops.logger.name == "bitsandbytes.backends.cpu.ops" and not ops.logger.isEnabledFor(logging.WARNING)
