"""A run on a card that is not CUDA's: the loop's ways for cards, over a pretended one with the processor's bits."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.evaluation import loaded
from engine.inference import loaded_models, memory_saving
from engine.machine import device as seam
from engine.machine.capabilities import CAPABILITIES, Maker
from engine.nets import ema, offload
from engine.runs.run import Run
from engine.training import batches, fixed_images, oom, optim, preflight, state
from engine.training.randomness import BatchRandomness
from engine.workspace.paths import Workspace
from tests.short_runs import RunFactory, train

ON_CARDS = (state, fixed_images, preflight, oom, ema, offload, loaded, loaded_models, memory_saving)
CUDA_ONLY = ("empty_cache", "mem_get_info", "memory_reserved", "max_memory_reserved", "current_stream", "Stream")
GIB = 2**30


def pretend_an_intel_card(patch: pytest.MonkeyPatch) -> Counter[str]:
    """From now on the engine takes the processor for an Intel card. Returns how often torch's functions are called."""
    asked: Counter[str] = Counter()

    def answers(name: str, value: Any) -> Any:
        return lambda *_, **__: (asked.update([name]), value)[1]

    for module in ON_CARDS:
        patch.setattr(module, "is_card", lambda device: True)
    for user in (batches, ema, offload, oom, optim, state):
        patch.setattr(user, "capabilities", lambda kind: CAPABILITIES["intel"])
    patch.setattr(seam, "torch_device", lambda: torch.device("xpu"))  # for the cache of the card's memory
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor: (asked.update(["pinned"]), tensor)[1])
    patch.setattr(torch.accelerator, "get_memory_info", answers("memory", (6 * GIB, 8 * GIB)))
    patch.setattr(torch.accelerator, "memory_reserved", answers("reserved", GIB))
    patch.setattr(torch.accelerator, "max_memory_reserved", answers("peak", 2 * GIB))
    patch.setattr(torch.accelerator, "empty_cache", answers("empty", None))
    patch.setattr(torch.accelerator, "current_stream", lambda device: SimpleNamespace(synchronize=answers("wait", 0)))
    for name in CUDA_ONLY:
        patch.setattr(torch.cuda, name, answers(f"torch.cuda.{name}", None))
    return asked


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].folder / "controlnet" / "diffusion_pytorch_model.safetensors")


def test_a_run_on_a_card_without_cuda_trains_with_the_same_bits(
    new_run: RunFactory, ready_workspace: Workspace
) -> None:
    settings = {"train.steps": 2, "optim.ema_decay": 0.9, "validation.every": 0}
    usual = new_run(**settings)
    train(ready_workspace, usual)
    with pytest.MonkeyPatch.context() as patch:
        asked = pretend_an_intel_card(patch)
        run = new_run(**settings)
        train(ready_workspace, run)
        assert fixed_images.memory_gib(torch.device("xpu")) == 2.0
    assert asked["pinned"] and asked["empty"] and asked["peak"], "batches, freed memory, the figures"
    assert [name for name in asked if name.startswith("torch.cuda")] == []
    ours, theirs = weights(run), weights(usual)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()


@pytest.mark.parametrize(
    ("maker", "continues"), [("nvidia", True), ("intel", True), ("apple", False), ("other", False)]
)
def test_only_a_card_that_reads_pinned_memory_copies_while_the_processor_continues(
    monkeypatch: pytest.MonkeyPatch, maker: Maker, continues: bool
) -> None:
    """Apple's would read what is freed meanwhile: wrong numbers, without an error."""
    asked = []

    def to_device(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        asked.append(non_blocking)
        return tensor

    one = torch.zeros(1)
    random = BatchRandomness(**{field.name: one for field in fields(BatchRandomness)})
    batch = batches.Batch(one, one, {"hidden": one}, one, random, one, one)
    monkeypatch.setattr(torch.Tensor, "to", to_device)
    monkeypatch.setattr(batches, "capabilities", lambda kind: CAPABILITIES[maker])
    batch.to(torch.device("mps"))
    assert asked == [continues] * (6 + len(fields(BatchRandomness)))
