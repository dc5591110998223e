"""Settings of torch for the time of a run: switched on at its start, strict in its steps, and put back at its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from engine.config import RunConfig, TrainConfig, parse, speed_settings
from engine.config.migrate import of_a_run
from engine.config.presets import unflatten
from engine.errors import UserError
from engine.estimate.trials import FORMER_SETTINGS, Measured, digest, key_of, read, write
from engine.jobs.events import Message, StepDone
from engine.runs.run import Run, write_run
from engine.training import faults, run_data, setup
from engine.training.torch_settings import for_a_run, has_no_kernel, strictly_deterministic, without_tf32
from engine.workspace.paths import Workspace
from tests.short_runs import RunFactory, train

Switches = tuple[bool, bool, bool, bool, bool]
USUAL: Switches = (False, False, False, False, False)


def switches() -> Switches:
    """(deterministic, strictly so, cuDNN deterministic, cuDNN benchmark, TF32)."""
    wanted = torch.are_deterministic_algorithms_enabled()
    strict = wanted and not torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    return wanted, strict, cudnn.deterministic, cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def as_usual() -> Iterator[None]:
    assert switches() == USUAL
    yield
    assert switches() == USUAL
    assert torch.utils.deterministic.fill_uninitialized_memory


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))


@pytest.mark.parametrize(
    ("wanted", "within"),
    [
        ({}, USUAL),
        ({"precision": "fp32"}, (False, False, False, False, True)),
        ({"precision": "fp32", "allow_tf32": False}, USUAL),
        ({"precision": "bf16", "allow_tf32": True}, USUAL),
        ({"cudnn_benchmark": True}, (False, False, False, True, False)),
        ({"deterministic": True}, (True, False, True, False, False)),
        ({"deterministic": True, "cudnn_benchmark": True}, (True, False, True, False, False)),
    ],
)
def test_each_setting_holds_for_the_run_only(card: None, wanted: dict[str, Any], within: Switches) -> None:
    with pytest.raises(KeyError), for_a_run(TrainConfig(**wanted)):
        assert switches() == within
        raise KeyError("the run breaks off")


def test_what_the_process_had_before_comes_back() -> None:
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    torch.use_deterministic_algorithms(True)
    try:
        before = switches()
        with for_a_run(TrainConfig(deterministic=True)):
            assert switches()[:3] == (True, False, True)
        assert switches() == before
    finally:
        torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = False
        torch.use_deterministic_algorithms(False)


def test_the_cache_which_other_runs_use_too_is_made_without_tf32(card: None) -> None:
    with for_a_run(TrainConfig(precision="fp32")):
        with without_tf32():
            assert switches() == USUAL
        assert switches()[-1]


def test_only_a_step_is_strict() -> None:
    with for_a_run(TrainConfig(deterministic=True)):
        with strictly_deterministic(True):
            assert switches()[:2] == (True, True)
        assert switches()[:2] == (True, False)
        with strictly_deterministic(False):
            assert switches()[:2] == (True, False)


def test_torch_s_own_error_is_known() -> None:
    """An operation that has no deterministic kernel on a processor either."""
    with (
        for_a_run(TrainConfig(deterministic=True)),
        strictly_deterministic(True),
        pytest.raises(RuntimeError) as raised,
    ):
        torch.ones(3).put_(torch.tensor([0]), torch.ones(1), accumulate=False)
    assert has_no_kernel(raised.value)
    assert not has_no_kernel(RuntimeError("out of memory")) and not has_no_kernel(ValueError(str(raised.value)))


def test_a_run_s_steps_are_strict_until_a_kernel_is_missing(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Switches] = []
    real_step, real_cache = faults.train_step, run_data.open_or_build

    def step(state: Any) -> Any:
        seen.append(switches())
        if state.step == 1 and state.strict:
            torch.ones(3).put_(torch.tensor([0]), torch.ones(1), accumulate=False)
        return real_step(state)

    def cache(*arguments: Any, **named: Any) -> Any:
        assert switches() == (True, False, True, False, False)
        return real_cache(*arguments, **named)

    monkeypatch.setattr(faults, "train_step", step)
    monkeypatch.setattr(run_data, "open_or_build", cache)
    run = new_run(**{"train.steps": 3, "train.deterministic": True})
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed" and [event.step for event in trained.of(StepDone)] == [1, 2, 3]
    strict, lenient = (True, True, True, False, False), (True, False, True, False, False)
    assert seen == [strict, strict, lenient, lenient]
    assert "deterministic except for rounding: put_ does not have" in " ".join(trained.warnings)
    assert not [message for message in trained.of(Message) if "uncompiled" in message.text]


def test_a_run_that_cannot_start_leaves_nothing_switched_on(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise UserError("No.", "It cannot.", "Give up.")

    monkeypatch.setattr(setup, "build_nets", fail)
    with pytest.raises(UserError):
        train(ready_workspace, new_run(**{"train.deterministic": True}))


def config(**values: Any) -> RunConfig:
    return parse(unflatten({f"train.{name}": value for name, value in values.items()}))


def test_a_run_that_began_before_tf32_was_a_setting_goes_on_without(workspace: Workspace) -> None:
    older = config(precision="fp32").model_dump(mode="json")
    assert older["train"].pop("allow_tf32") is True, "a new run has it"
    folder = workspace.new_run("older")
    write_run(folder, {"config": older})
    assert Run(folder).config.train.allow_tf32 is False
    assert of_a_run({"train": {"allow_tf32": True}})["train"]["allow_tf32"] is True
    assert of_a_run({"train": "damaged"})["train"] == "damaged"


def test_trials_of_earlier_versions_count_unless_a_new_setting_changes_the_step(workspace: Workspace) -> None:
    measured = Measured(1.0, 1.0, 1.0, True)
    write(workspace, config(), "RTX 3060", measured)
    assert read(workspace, config(allow_tf32=False), "RTX 3060") == measured, "it matters in fp32 only"
    keys = [key_of(config(**{name: True}), "x") for name in ("deterministic", "cudnn_benchmark")]
    fp32 = [key_of(config(precision="fp32", allow_tf32=on), "x") for on in (False, True)]
    assert len({key_of(config(), "x"), *keys, *fp32}) == 5
    path = workspace.cache / "measurements.json"
    former = digest(["RTX 3060", *(speed_settings(config())[name] for name in FORMER_SETTINGS)])
    path.write_text(path.read_text().replace(key_of(config(), "RTX 3060"), former))
    assert read(workspace, config(), "RTX 3060") is None, "gradients in half precision need less memory"
    as_before = parse(unflatten({"optim.half_gradients": False}))
    assert read(workspace, as_before, "RTX 3060") == measured
    assert read(workspace, config(deterministic=True), "RTX 3060") is None
