"""Does half precision learn as well as fp32, and with the base in eight bits? The demo, shortened, in each.

    python -m benchmarks.precision [--steps 250] [--pictures 2000] [--kinds fp32 bf16 fp16 fp8] [--seeds 1 2]

On the bundled base and the demo's circles, with the demo's settings. Gain: how much worse held-out pairs are told with
another picture's map (0: the net does not listen). Processors compute in half precision ten times
slower than in fp32, so bf16 and fp16 are emulated as cards do it: sums in fp32, and every weight that computes, every
layer's answer and every gradient rounded to the half type. The rest is the app's own code: copies that compute, loss
scale, skipped steps. fp8: fp32 with the frozen base in eight bits (train.base_storage).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.demo.sets import demo_preset, make_demo_set
from engine.jobs.control import Control
from engine.jobs.events import Checked, PreviewMade, StepDone
from engine.presets import resolve
from engine.training.frozen import KINDS
from engine.training.precision import DTYPES, LossScale
from engine.training.previews import preview_during_training
from engine.training.trainer import Trainer
from engine.training.working import WorkingNets
from engine.workspace import DEMO_BASE, Workspace

PAIRS = 8


class _Rounded(torch.autograd.Function):
    """Rounds what passes, and its gradient on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        ctx.dtype = dtype
        return x.to(dtype).float()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0].to(ctx.dtype).float(), None


def emulate(trainer: Trainer, precision: str) -> None:
    """Let a trainer that was built in fp32 compute as if in half precision; call before its first step."""
    dtype = DTYPES[precision]
    trainer.precision, trainer.loss_scale = precision, LossScale(precision)
    trainer.nets = nets = WorkingNets(trainer.controlnet, torch.float32, trainer.device)
    trainer.model = nets.controlnet

    def answer(layer: nn.Module, given: Any, said: Any) -> Any:
        return _Rounded.apply(said, dtype) if isinstance(said, torch.Tensor) else said

    with torch.no_grad():
        for weight in trainer.unet.parameters():
            weight.copy_(weight.to(dtype))
    for net in (nets.controlnet, trainer.unet):
        for layer in net.modules():
            if not list(layer.children()):
                layer.register_forward_hook(answer)
    for weight in nets.controlnet.parameters():
        weight.register_hook(lambda grad: grad.to(dtype).float())
    nets.refresh = _refreshed(nets, nets.refresh, dtype)  # type: ignore[method-assign]
    nets.refresh()


def _refreshed(nets: WorkingNets, plain: Callable[[], None], dtype: torch.dtype) -> Callable[[], None]:
    @torch.no_grad()
    def refresh() -> None:
        plain()
        for weight in nets.controlnet.parameters():
            weight.copy_(weight.to(dtype))

    return refresh


def trained(workspace: Workspace, dataset: Any, kind: str, seed: int, steps: int) -> dict[str, Any]:
    """The scores of a run at its end, over held-out pairs, and what it took."""
    asked = {
        "data": {"dataset": dataset.name},
        "train": {"seed": seed, "steps": steps, "base_storage": "fp8" if kind == "fp8" else "same"},
        "optim": {"warmup_steps": min(30, steps // 10), "schedule": "constant"},  # a short run has no time to slow down
        "validation": {"every": 0, "check_every": steps, "check_pairs": 2 * PAIRS, "pictures": PAIRS},
    }
    config = resolve(("demo", demo_preset().values), ("benchmark", asked))[0]
    seen: list[StepDone] = []
    scores: dict[str, float] = {}

    def watch(event: Any) -> None:
        if isinstance(event, StepDone):
            seen.append(event)
        elif isinstance(event, Checked):
            scores.update(gain=event.control_gain, held_out_loss=event.held_out_loss)
        elif isinstance(event, PreviewMade):
            scores.update(event.scores)

    run = workspace.new_run(f"{kind}-{seed}")
    trainer = Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, Control().token, watch)
    if kind in ("bf16", "fp16"):
        emulate(trainer, kind)
    small = sum(type(layer) in KINDS.values() for layer in trainer.unet.modules())
    assert bool(small) == (kind == "fp8")
    trainer.train()
    preview_during_training(trainer, steps)
    tail = [event.loss for event in seen[-50:]]
    found = {"loss": sum(tail) / len(tail), "scale": trainer.loss_scale.value, "seconds": seen[-1].seconds, **scores}
    trainer.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--kinds", nargs="+", default=["fp32", "bf16", "fp16", "fp8"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--work", type=Path, help="where pictures and cache are kept for the next time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(options.work or Path(scratch))
        dataset = make_demo_set(workspace, "circles", options.pictures)
        for seed in options.seeds:
            for kind in options.kinds:
                print(f"seed {seed} {kind} {trained(workspace, dataset, kind, seed, options.steps)}", flush=True)


if __name__ == "__main__":
    main()
