"""One of several processes that train together; started by test_processes.py, which reads what it leaves.

Arguments: workspace, folder for the answers, one JSON list of [kind, run] pairs to do one after another.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from engine.data import cache
from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.distributed import group, join
from engine.errors import UserError
from engine.jobs.control import Control
from engine.jobs.events import Event, Message, PreviewMade
from engine.runs.run import Run
from engine.training import faults as faults_module
from engine.training import setup as setup_module
from engine.training import step as step_module
from engine.training.job import training_job
from engine.training.loss_scale import LossScale
from engine.training.state import TrainState
from engine.training.trainer import Trainer
from engine.workspace.paths import Workspace
from tests import whole_denoiser

RANK = int(os.environ["RANK"])


def at_step(step: int, act: Callable[[TrainState], None], times: int = 1) -> Callable[[TrainState], Any]:
    """A step, but ``act`` comes first when step ``step`` (from 0) begins, and when it is tried again."""
    real = faults_module.train_step
    calls = {"left": times}

    def train_step(state: TrainState) -> Any:
        if state.step == step and calls["left"]:
            calls["left"] -= 1
            act(state)
        return real(state)

    return train_step


def run_out(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")  # 20 MiB, say, would be all that a tiny net has


def run_out_late(state: TrainState) -> None:
    """When the others have sent gradients already."""
    state.accelerator.backward = run_out  # type: ignore[method-assign]


def spoil(_: TrainState) -> None:
    """The next loss, and with it every gradient, is infinite: what an overflow looks like. On one process only."""
    real = step_module.denoising_loss

    def infinite(*given: Any) -> torch.Tensor:
        step_module.denoising_loss = real
        return real(*given) * float("inf")

    step_module.denoising_loss = infinite


def fail(_: TrainState) -> None:
    raise UserError("The condition map of 07 is gone.", "It no longer exists.", "Make all maps again.")


def do(kind: str, name: str, workspace: Workspace) -> dict[str, Any]:
    if kind in ("canny", "depth"):
        dataset, own = Dataset.open(workspace.dataset_folder(name)), 0
        model = {"model": str(workspace.models / kind)} if kind == "depth" else {}

        def count(*_: Any) -> None:
            nonlocal own
            own += 1

        report = make_all(dataset, kind, model, progress=count, group=group.current())
        return {"made": report.made, "kept": report.kept, "failed": len(report.failures), "here": own}
    events: list[Event] = []
    usable = setup_module.usable_precision
    control, real, train = Control(), faults_module.train_step, Trainer.train
    answer: dict[str, Any] = {"skipped": 0}

    def look_and_train(trainer: Trainer) -> Any:
        answer["model"] = type(trainer.state.parallel.net).__name__
        return train(trainer)

    def count_skipped(self: LossScale, step: int) -> None:
        answer["skipped"] += 1
        skipped(self, step)

    Trainer.train, skipped = look_and_train, LossScale.skipped  # type: ignore[method-assign]
    LossScale.skipped = count_skipped  # type: ignore[method-assign]
    acts = {"pause": lambda _: control.pause(), "short": run_out, "fault": fail, "gone": run_out_late, "nan": spoil}
    if RANK == 1 and kind in acts:
        # When memory runs out, the same settings are tried once more before a fallback.
        faults_module.train_step = at_step(2, acts[kind], times=2 if kind == "short" else 1)
    trained = whole_denoiser.chosen() if kind == "whole" else nullcontext()
    if RANK == 1 and kind == "nan":  # as on an older card than the first one's
        setup_module.usable_precision = lambda wanted, device: ("fp32", "")
    try:
        run = Run(workspace.run_folder(name))
        with trained:
            answer["outcome"] = training_job(workspace, run)(control.token, events.append)
    except UserError as error:
        answer["error"] = f"{error.what} {error.why} {error.try_this}"
        group.current().abort_all(error)
        if isinstance(error, group.Unreachable):
            print(group.one_line(error), flush=True)
            os._exit(1)
    finally:
        faults_module.train_step, Trainer.train = real, train  # type: ignore[method-assign]
        setup_module.usable_precision = usable
        LossScale.skipped = skipped  # type: ignore[method-assign]
    answer["messages"] = [event.text for event in events if isinstance(event, Message)]
    answer["pictures"] = [event.step for event in events if isinstance(event, PreviewMade)]
    answer["stop"] = control.token.stop_requested
    return answer


def main() -> None:
    workspace, answers = Workspace(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    cache.SHARD = 4
    made, save = [], cache.save_tensors
    cache.save_tensors = lambda path, tensors: (made.append(path.name), save(path, tensors))[1]  # type: ignore[assignment]
    report: dict[str, Any] = {"remarks": join.join()}
    for kind, name in json.loads(sys.argv[3]):
        report[kind] = do(kind, name, workspace)
    report["shards"] = made
    (answers / f"{RANK}.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
