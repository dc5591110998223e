"""Two runs are the same where everything that training decides is the same, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from engine.runs.run import Run
from engine.training.state import TrainState
from engine.training.step import train_step

CLOCKED = {"seconds", "memory_gib"}  # measured, not decided


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint: weights, average, optimizer."""
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_checkpoint(first: Path, second: Path) -> None:
    one, two = tensors(first), tensors(second)
    assert one.keys() == two.keys(), one.keys() ^ two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert different == [], different
    states = [json.loads((f / "training_state" / "state.json").read_text(encoding="utf-8")) for f in (first, second)]
    assert states[0] == states[1], states


def losses(run: Run) -> list[tuple[int, float]]:
    return [(entry["step"], entry["loss"]) for entry in run.metrics() if "loss" in entry]


def scores(run: Run) -> dict[int, dict[str, float]]:
    noted = [(entry["step"], entry["scores"]) for entry in run.metrics() if "scores" in entry]
    assert len(noted) == len(dict(noted)), f"scores of a step stand there once: {run.metrics()}"
    return dict(noted)


def checks(run: Run) -> dict[int, Any]:
    """What was measured without drawing; when it is measured depends on how long it takes."""
    entries = [entry for entry in run.metrics() if "control_gain" in entry or "drift" in entry]
    return {entry["step"]: {key: value for key, value in entry.items() if key not in CLOCKED} for entry in entries}


def images(run: Run) -> dict[str, bytes]:
    found = sorted((run.folder / "previews").rglob("*.webp"))
    return {path.relative_to(run.folder).as_posix(): path.read_bytes() for path in found}


def assert_same_run(straight: Run, other: Run) -> None:
    """Final checkpoint, losses, scores, checks and images."""
    assert straight.checkpoints()[-1].step == other.checkpoints()[-1].step
    assert_same_checkpoint(straight.checkpoints()[-1].folder, other.checkpoints()[-1].folder)
    assert losses(straight) == losses(other), f"{losses(straight)} {losses(other)}"
    assert scores(straight) == scores(other), f"{scores(straight)} {scores(other)}"
    assert images(straight) == images(other), "images differ"
    one, two = checks(straight), checks(other)
    for step in sorted(one.keys() & two.keys()):
        assert one[step] == two[step], f"the check of step {step}: {one[step]}, {two[step]}"


def step_gradients(state: TrainState) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of the next step, unscaled and clipped, fp32, by name. The weights do not move."""
    parallel = state.parallel
    optimizer_step, zero_grad = parallel.optimizer_step, parallel.zero_grad
    found: dict[str, torch.Tensor] = {}

    def note() -> None:
        named = state.trainable.master.named_parameters()
        found.update({name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None})

    parallel.optimizer_step = lambda: state.trainable.weights.update(note, state.step)  # type: ignore[method-assign]
    parallel.zero_grad = lambda: None  # type: ignore[method-assign]
    try:
        loss = train_step(state)
    finally:
        parallel.optimizer_step, parallel.zero_grad = optimizer_step, zero_grad  # type: ignore[method-assign]
    assert isinstance(loss, torch.Tensor), "something is not finite"
    state.drop_gradients()
    return loss, {name: found[name] for name, _ in state.trainable.master.named_parameters() if name in found}


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    """All of them in one row."""
    return torch.cat([gradient.flatten() for gradient in gradients.values()])
