"""Does half precision train as well as fp32, also with a base in fp8? Trains the shortened demo in each precision.

    python -m benchmarks.precision --out OUT [--kinds fp32 bf16 fp16 fp8 fp16+fp8] [--seeds 1 2 3] [--steps 240]

Trains on the bundled base and the demo's circles with the demo's settings until just after the ControlNet follows its
control images. Then 40 held-out pairs are drawn with the weights that an export would contain, and scored by the exact
IoU of the disc and by the app's own adherence, which knows nothing of discs. Runs whose result is in OUT are not
repeated, so the benchmark can be stopped between two runs. The table of all results is printed and written to
OUT/table.md.

A card computes in its own half precision. On a processor half precision is ten times slower than fp32, so bf16 and fp16
are emulated the way cards compute: sums in fp32, and every compute weight, layer output and gradient rounded to the
half type. The rest is the app's own code: compute copies, loss scale, skipped steps. fp8 stores the frozen base in fp8
(train.base_storage); fp16+fp8 is what the 8 GB preset uses on a card without bf16. bf16+none has no fp32 master weights
(optim.master_weights); on a processor these are rounded at random after each step, which is the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.config.presets import resolve
from engine.demo.sets import demo_preset, make_demo_set
from engine.evaluation.adherence import PairScores, normalize
from engine.jobs.control import Control
from engine.jobs.events import Checked, StepDone
from engine.machine.precision import DTYPES
from engine.nets.compact_weights import generator_of, round_stochastically
from engine.nets.frozen_layers import QUANTIZED
from engine.nets.master_weights import MasterWeightSync
from engine.training.loss_scale import LossScale
from engine.training.previews import preview_during_training
from engine.training.state import TrainState
from engine.training.trainer import Trainer
from engine.workspace.paths import DEMO_BASE, Workspace

PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "fp16+fp8", "bf16+none")
PAIRS = 40
"""Number of held-out pairs that are drawn and scored."""
RESAMPLES = 2000  # of the bootstrap


class _Rounded(torch.autograd.Function):
    """Rounds a tensor to a dtype in the forward pass, and its gradient in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        ctx.dtype = dtype
        return x.to(dtype).float()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0].to(ctx.dtype).float(), None


def emulate(state: TrainState, precision: str, masters: bool = True) -> None:
    """Make a run that was built in fp32 emulate half precision. Call it before the first step.

    Args:
        masters: the run keeps fp32 master weights.
    """
    dtype = DTYPES[precision]
    state.precision, state.loss_scale = precision, LossScale(precision)
    state.trainable.weights = weights = MasterWeightSync(state.trainable.master, torch.float32, state.device)
    state.nets.use(weights.compute, state.denoiser)

    def round_output(layer: nn.Module, inputs: Any, output: Any) -> Any:
        return _Rounded.apply(output, dtype) if isinstance(output, torch.Tensor) else output

    with torch.no_grad():
        for weight in state.denoiser.parameters():
            weight.copy_(weight.to(dtype))
    for net in (weights.compute, state.denoiser):
        for layer in net.modules():
            if not list(layer.children()):
                layer.register_forward_hook(round_output)
    for weight in weights.compute.parameters():
        weight.register_hook(lambda grad: grad.to(dtype).float())
    round_masters = (lambda: None) if masters else partial(_round_masters, state.trainable.weights, count(), dtype)
    refresh = _rounding_refresh(weights, weights.refresh, round_masters, dtype)
    weights.refresh = refresh  # type: ignore[method-assign]
    weights.refresh()


@torch.no_grad()
def _round_masters(weights: MasterWeightSync, calls: Iterator[int], dtype: torch.dtype) -> None:
    """To the nearest at first, then at random, as ``CompactMasterWeights`` does."""
    call = next(calls)
    for number, master in enumerate(weights.master_of.values()):
        draws = generator_of((call, number), master.device)
        master.copy_(round_stochastically(master, dtype, draws) if call else master.to(dtype))


def _rounding_refresh(
    weights: MasterWeightSync, plain: Callable[[], None], round_masters: Callable[[], None], dtype: torch.dtype
) -> Callable[[], None]:
    @torch.no_grad()
    def refresh() -> None:
        round_masters()
        plain()
        for weight in weights.compute.parameters():
            weight.copy_(weight.to(dtype))

    return refresh


def trained(
    workspace: Workspace,
    dataset: Any,
    kind: str,
    seed: int,
    steps: int,
    changes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train one run to its end. Returns its losses and the scores of held-out pairs, ready for JSON.

    Args:
        kind: one of PRECISIONS.
        changes: settings that replace the demo's.
    """
    precision, fp8, masters = kind.split("+")[0], kind.endswith("fp8"), not kind.endswith("none")
    precision = precision if precision in DTYPES else "fp32"
    on_card = torch.cuda.is_available()
    own = {
        "data": {"dataset": dataset.name},
        "train": {
            "seed": seed,
            "steps": steps,
            "base_storage": "fp8" if fp8 else "same",
            "precision": precision if on_card else "fp32",
            "checkpoint_every": 10 * steps,
        },
        "optim": {"warmup_steps": min(30, steps // 10), "master_weights": "whole" if masters else "none"},
        "validation": {"every": 0, "check_every": steps, "check_pairs": 16, "pictures": PAIRS, "probes": 0},
    }
    config = resolve(("demo", demo_preset().values), ("benchmark", own), ("changes", changes or {}))[0]
    seen: list[StepDone] = []
    checked: list[Checked] = []

    def watch(event: Any) -> None:
        if isinstance(event, StepDone):
            seen.append(event)
        elif isinstance(event, Checked):
            checked.append(event)

    run = workspace.new_run(f"{kind.replace('+', '-')}-{seed}")
    trainer = Trainer(run, config, str(DEMO_BASE), dataset, workspace.cache, Control().token, watch)
    if precision != "fp32" and not on_card:
        emulate(trainer.state, precision, masters)
    assert fp8 == any(type(layer) in QUANTIZED.values() for layer in trainer.state.denoiser.modules())
    trainer.train()
    preview_during_training(trainer.state, steps)
    (scores,) = (run / "previews").glob("step-*/scores.json")
    samples = json.loads(scores.read_text(encoding="utf-8"))["samples"]
    tail = [event.loss for event in seen[-50:]]
    found = {
        "kind": kind,
        "seed": seed,
        "steps": trainer.state.step,
        "on": torch.cuda.get_device_name() if on_card else "processor",
        "loss": sum(tail) / len(tail),
        "held_out_loss": checked[-1].held_out_loss if checked else None,
        "gain": checked[-1].control_gain if checked else None,
        "scale": trainer.state.loss_scale.value,
        "seconds_per_step": statistics.median(event.seconds for event in seen),
        "iou": [one["scores"].get("iou") for one in samples],
        "colours": [one["scores"].get("colours") for one in samples],
        "normalising": [one["normalising"] for one in samples],
    }
    trainer.close()
    return found


# -- the table --------------------------------------------------------------------------------------------------------


def interval(differences: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of paired differences: bootstrap over runs, and over the pairs of each run.

    Args:
        differences: one row per run, one column per pair.
    """
    values, rng = np.asarray(differences, np.float64), np.random.default_rng(seed)
    runs = rng.integers(0, len(values), (RESAMPLES, len(values)))
    pairs = rng.integers(0, values.shape[1], (RESAMPLES, *values.shape))
    means = np.array([values[run[:, None], pair].mean() for run, pair in zip(runs, pairs, strict=True)])
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown, one row per precision: scores, and the difference to fp32 over the same seeds and pairs."""
    by_kind = {kind: {run["seed"]: run for run in found if run["kind"] == kind} for kind in PRECISIONS}
    reference = by_kind["fp32"]
    head = "| | runs | IoU | per seed | difference to fp32 (95 %) | adherence (95 %) | colours | held-out loss | gain |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for kind, runs in by_kind.items():
        if not runs:
            continue
        each = {seed: statistics.fmean(run["iou"]) for seed, run in sorted(runs.items())}
        seeds = [seed for seed in runs if seed in reference]
        difference = ""
        if kind != "fp32" and seeds:
            gaps = [np.subtract(runs[seed]["iou"], reference[seed]["iou"]) for seed in seeds]
            low, high = interval(gaps)
            difference = f"{float(np.mean(gaps)):+.3f} ({low:+.3f} to {high:+.3f})"
        adherence = normalize([PairScores(**row) for run in runs.values() for row in run["normalising"]])
        interval_text = adherence.text if adherence else ""
        colours = statistics.fmean(value for run in runs.values() for value in run["colours"])
        losses = [run["held_out_loss"] for run in runs.values() if run["held_out_loss"] is not None]
        gains = [run["gain"] for run in runs.values() if run["gain"] is not None]
        lines.append(
            f"| {kind} | {len(runs)} | {statistics.fmean(each.values()):.3f} "
            f"| {', '.join(f'{value:.3f}' for value in each.values())} | {difference} | {interval_text} "
            f"| {colours:.1%} | {statistics.fmean(losses):.5f} | {statistics.fmean(gains):.4f} |"
        )
    return "\n".join(lines)


def results(out: Path) -> list[dict[str, Any]]:
    """The results in a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("precision-*.json"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--kinds", nargs="+", default=list(PRECISIONS[:4]), choices=PRECISIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--work", type=Path, help="folder for images and cache, kept for the next call")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Workspace(options.work or Path(scratch))
        dataset = make_demo_set(workspace, "circles", options.pictures)
        for seed in options.seeds:
            for kind in options.kinds:
                target = options.out / f"precision-{kind}-{seed}.json"
                if not target.exists():
                    found = trained(workspace, dataset, kind, seed, options.steps)
                    partial = target.with_suffix(".part")
                    partial.write_text(json.dumps(found), encoding="utf-8")
                    os.replace(partial, target)
                    iou = statistics.fmean(found["iou"])
                    print(f"{kind} seed {seed}: IoU {iou:.3f}, {found['seconds_per_step']:.2f} s per step", flush=True)
    text = table(results(options.out))
    (options.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
