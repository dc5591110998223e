"""A trial measures, corrects the estimate, and leaves no run behind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine.config import RunConfig
from engine.estimate.estimate import estimate, run_seconds
from engine.estimate.trials import FILE, read
from engine.jobs.control import Cancelled, Control
from engine.jobs.events import Event, Message, Progress
from engine.machine.hardware import Hardware
from engine.training import oom
from engine.training.oom import ema_fallback
from engine.training.preflight import preflight_job
from engine.workspace.paths import Workspace
from tests.training.test_oom import failing

MACHINE = Hardware("cpu", "a processor", None, 16, 8)


@pytest.mark.answers("I wait for the first checkpoint to see whether the setup works")
def test_a_trial_corrects_the_estimate_and_leaves_nothing_else(
    ready_workspace: Workspace, make_config: Callable[..., RunConfig]
) -> None:
    config = make_config(**{"train.steps": 1000, "validation.every": 500, "validation.pictures": 2})
    before = estimate(config, ready_workspace, MACHINE)
    assert "roughly " in before and "predicted" in before
    events: list[Event] = []
    assert preflight_job(ready_workspace, config, MACHINE)(Control().token, events.append) == "completed"

    measured = read(ready_workspace, config, MACHINE.name)
    assert measured is not None and measured.fallbacks == ()
    assert 0 < measured.seconds_per_step < 60 and measured.seconds_per_picture > 0
    assert measured.peak_bytes > 100 * 2**20
    assert measured.base_error and measured.dataset == config.data.dataset, "for the cautions before Start"
    after = estimate(config, ready_workspace, MACHINE)
    each = 2 + 2 * 2  # the held-out ones, and as many without a prompt and with one that contradicts
    images = 3 * each * measured.seconds_per_picture  # before the first step, in the middle, at the end
    seconds = pytest.approx(1000 * measured.seconds_per_step + images)
    assert run_seconds(config, ready_workspace, MACHINE) == (seconds, True)
    assert "about " in after and "measured by a trial" in after

    assert ready_workspace.run_folders() == []
    assert [p.name for p in ready_workspace.cache.iterdir() if p.name.startswith("trial-")] == []
    trial = [event for event in events if isinstance(event, Progress) and event.label.startswith("Trial")]
    assert [event.done for event in trial] == [1, 2, 3, 4]
    other = make_config(**{"train.batch_size": 1})
    assert read(ready_workspace, other, MACHINE.name) is None
    (ready_workspace.cache / FILE).write_text("{", encoding="utf-8")
    assert read(ready_workspace, config, MACHINE.name) is None


def test_a_trial_that_does_not_fit_says_with_what_it_did(
    ready_workspace: Workspace, make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.families.stable_diffusion import StableDiffusion

    real = StableDiffusion.predict

    def only_one(*arguments: object) -> torch.Tensor:
        if arguments[3].shape[0] > 1:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StableDiffusion, "predict", only_one)
    monkeypatch.setattr(torch, "_foreach_sub", failing(torch._foreach_sub, 1))  # the average's step
    monkeypatch.setattr(oom, "ema_fallback", lambda config, on_card: ema_fallback(config, True))
    config, events = make_config(**{"optim.ema_decay": 0.9}), []
    preflight_job(ready_workspace, config, MACHINE)(Control().token, events.append)
    measured = read(ready_workspace, config, MACHINE.name)
    assert measured is not None
    assert measured.settings == {"train.batch_size": 1, "train.accumulation": 2, "optim.ema_device": "cpu"}
    assert any("It fitted only with 1 at a time" in event.text for event in events if isinstance(event, Message))
    assert "it fitted only with 1 at a time" in estimate(config, ready_workspace, MACHINE)


def test_a_trial_can_be_cancelled(ready_workspace: Workspace, make_config: Callable[..., RunConfig]) -> None:
    control, config = Control(), make_config()

    def emit(event: Event) -> None:
        if isinstance(event, Progress) and event.label == "Trial steps":
            control.cancel()

    with pytest.raises(Cancelled):
        preflight_job(ready_workspace, config, MACHINE)(control.token, emit)
    assert read(ready_workspace, config, MACHINE.name) is None
    assert not list(ready_workspace.cache.glob("trial-*"))
