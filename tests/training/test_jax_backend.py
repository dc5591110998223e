"""train.backend = jax: the same steps as torch's, checkpoints that either goes on with, and what is refused."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import RunConfig
from engine.errors import UserError
from engine.machine.device import card_count, torch_device
from engine.runs.run import Run
from engine.training import jax_backend
from engine.training.jax_backend import JaxPrediction, check_jax
from engine.training.job import change_run
from engine.workspace.paths import Workspace
from tests.compare_runs import losses, tensors
from tests.short_runs import RunFactory, train

HAS_JAX = find_spec("jax") is not None and find_spec("torchax") is not None
needs_jax = pytest.mark.skipif(not HAS_JAX, reason="jax and torchax are not installed (requirements-jax.txt)")
CPU = torch.device("cpu")
TOLERANCE = 1e-4


@pytest.mark.parametrize(
    "setting, value",
    [
        ("train.base_storage", "fp8"),
        ("train.precision", "bf16"),
        ("train.gradient_checkpointing", "controlnet"),
        ("train.compile", "kernels"),
        ("optim.offload", True),
        ("optim.in_backward", True),
        ("model.control_lora_rank", 4),
        ("tuning.what", "lora"),
    ],
)
def test_settings_that_are_torchs_are_refused_by_name(
    make_config: Callable[..., RunConfig], setting: str, value: Any
) -> None:
    with pytest.raises(UserError, match=f"JAX trains whole ControlNets.*{setting} to .*train.backend to torch"):
        make_config(**{"train.backend": "jax", setting: value})


def test_missing_packages_several_processes_and_a_card_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="jax, torchax.*requirements-jax.txt"):
        check_jax(CPU, 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    with pytest.raises(UserError, match="2 processes"):
        check_jax(CPU, 2)
    with pytest.raises(UserError, match="graphics card"):
        check_jax(torch.device("cuda"), 1)
    check_jax(CPU, 1)


def test_a_run_without_the_packages_ends_with_words(
    ready_workspace: Workspace, new_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(**{"train.backend": "jax"})
    found = find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None if name == "torchax" else found(name))
    with pytest.raises(UserError, match="torchax.*pip install -r"):
        train(ready_workspace, run)
    assert "jax" not in sys.modules or HAS_JAX


@needs_jax
def test_the_filled_overloads_are_needed_by_this_version_of_torchax_only() -> None:
    """If this fails, torchax is newer: try it without ``_missing_overloads``, and remove that."""
    assert importlib.metadata.version("torchax") == jax_backend.OLD_TORCHAX
    before = torch._ops.OpOverloadPacket.__getattr__, torch.backends.mha.get_fastpath_enabled()
    jax_backend.load_jax()
    assert (torch._ops.OpOverloadPacket.__getattr__, torch.backends.mha.get_fastpath_enabled()) == before
    with pytest.raises(AttributeError):
        torch.ops.aten.all.dimname  # noqa: B018
    assert torch_device() == CPU and card_count() == 0, "torchax is no card"


@needs_jax
def test_memory_that_runs_out_is_said_in_words() -> None:
    jax, _, _ = jax_backend.load_jax()
    with pytest.raises(UserError, match="smaller batch"), jax_backend.memory_in_words():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
    with pytest.raises(jax.errors.JaxRuntimeError), jax_backend.memory_in_words():
        raise jax.errors.JaxRuntimeError("INTERNAL: other")


@needs_jax
@pytest.mark.long
def test_ten_steps_on_torch_equal_ten_on_jax_and_five_on_each(
    ready_workspace: Workspace, new_run: RunFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted: list[int] = []
    call = JaxPrediction.__call__
    monkeypatch.setattr(JaxPrediction, "__call__", lambda *given: predicted.append(1) or call(*given))
    settings = {"train.steps": 10, "optim.learning_rate": 1e-4, "optim.ema_decay": 0.9}

    def trained(first: str, then: str) -> Run:
        """A run of ten steps, of which the last five are computed by ``then``."""
        run = new_run(**settings, **{"train.backend": first})
        if then != first:
            train(ready_workspace, run, at_step={5: "pause"})
            change_run(Run(run.folder), {"train.backend": then})
        train(ready_workspace, Run(run.folder))
        return Run(run.folder)

    torchs = trained("torch", "torch")
    assert not predicted
    wanted, wanted_losses = tensors(_last(torchs)), losses(torchs)
    for first, then, steps in (("jax", "jax", 10), ("torch", "jax", 5), ("jax", "torch", 5)):
        predicted.clear()
        run = trained(first, then)
        assert len(predicted) == steps
        found = tensors(_last(run))
        assert found.keys() == wanted.keys()
        apart = {name: (found[name].float() - wanted[name].float()).abs().max().item() for name in wanted}
        assert max(apart.values()) < TOLERANCE, max(apart.items(), key=lambda one: one[1])
        assert [step for step, _ in losses(run)] == list(range(1, 11))
        assert dict(losses(run)) == pytest.approx(dict(wanted_losses), abs=TOLERANCE)


def _last(run: Run) -> Path:
    return run.checkpoints()[-1].folder
