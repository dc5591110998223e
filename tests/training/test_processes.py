"""Two processes train as one does: the same pictures, the same curve, one voice, one end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.config import RunConfig, parse
from engine.data import cache
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.runs import Run
from engine.training.run import create_run
from engine.training.share import dealt
from engine.workspace import APP_FOLDER, Workspace

from .conftest import Worker

SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"dataset": "mixed", "resolution": 64, "held_out": 2, "buckets": True},
    "optim": {"learning_rate": 1e-3, "ema_decay": 0.9},
    "train": {"steps": 5, "batch_size": 4, "precision": "fp32", "checkpoint_every": 100},
    "validation": {"every": 5, "pictures": 1, "sampling_steps": 1, "check_every": 2, "check_pairs": 2},
}


@dataclass
class Two:
    """What two processes have left: main's answers by what they did, what the other printed, the runs."""

    workspace: Workspace
    main: dict[str, Any]
    printed: str
    runs: dict[str, Run]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def start(rank: int, port: int, words: list[str], more: dict[str, str]) -> subprocess.Popen[str]:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.process_worker", *words],
        cwd=APP_FOLDER, env={**os.environ, **place, **meet, **more}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8",
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, paired_folder: Path, mixed_folder: Path, tiny_base: Path) -> Two:
    workspace = Workspace(tmp_path_factory.mktemp("several") / "workspace")
    answers = tmp_path_factory.mktemp("answers")
    for name, folder in (("mixed", mixed_folder), ("pairs", paired_folder)):
        Dataset.create(workspace, name, scan_folder(folder))

    def run(watched: bool = False, **changes: Any) -> Run:
        values = {**SETTINGS, "train": {**SETTINGS["train"], **changes}, "model": {"base": str(tiny_base)}}
        if not watched:
            values["validation"] = {"every": 0, "check_every": 0}
        return create_run(workspace, parse(values), {})

    kinds = ("well", "short", "pause", "fault", "gone")
    runs = {kind: run(kind == "well", accumulation=1 + (kind == "short"), checkpoint_every=2) for kind in kinds}
    todo = json.dumps([["maps", "pairs"], *([kind, runs[kind].name] for kind in kinds)])
    port, words = free_port(), [str(workspace.root), str(answers), todo]
    workers = [start(rank, port, words, {"ACCELERATE_DYNAMO_BACKEND": "inductor"}) for rank in (0, 1)]
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    assert workers[0].returncode == 0, said[0]
    main = json.loads((answers / "0.json").read_text(encoding="utf-8"))
    assert not (answers / "1.json").exists(), "the second one was killed before it could answer"
    return Two(workspace, main, said[1], {**runs, "alone": run()})


def curve(run: Run) -> list[float]:
    return [entry["loss"] for entry in run.metrics() if "loss" in entry]


def weights(run: Run, folder: str = "controlnet") -> dict[str, Any]:
    return load_file(run.checkpoints()[-1].folder / folder / "diffusion_pytorch_model.safetensors")


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD", 4)  # as in the others
    Worker(two.workspace, two.runs["alone"])
    ours, wanted = curve(two.runs["well"]), curve(two.runs["alone"])
    assert len(ours) == 5
    assert ours == pytest.approx(wanted, rel=1e-5)
    for folder in ("controlnet", "controlnet_ema"):
        mine, theirs = weights(two.runs["well"], folder), weights(two.runs["alone"], folder)
        assert all(torch.allclose(mine[key], theirs[key], atol=2e-5) for key in theirs)
    seen = [entry["images_seen"] for entry in two.runs["well"].metrics() if "loss" in entry]
    assert seen == [4, 8, 12, 16, 20] == [step * two.runs["well"].config.images_per_step for step in range(1, 6)]


@pytest.mark.slow
def test_only_main_tells_and_draws(two: Two) -> None:
    run = two.runs["well"]
    assert two.main["well"]["outcome"] == "completed"
    assert two.main["well"]["pictures"] == [0, 5]
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2, 4, 5]
    log = run.log_tail()
    assert len(log) == len(set(log)), "a line was written twice"
    assert "2 processes share the 4 pictures of a step: 2 at a time on each." in log
    assert [entry["event"] for entry in run.metrics() if "event" in entry] == ["started", "completed"]
    assert "step" not in two.printed.lower().replace("process 2 of 2", "").split("the condition map")[0]


@pytest.mark.slow
def test_they_share_the_latents_and_the_maps(two: Two) -> None:
    made = set(two.main["shards"])
    there = {path.name for path in two.workspace.cache.glob("*/latents-*")}
    assert made & there and there - made, "both have made some"
    assert two.main["maps"] == {"made": 12, "kept": 0, "failed": 0}
    assert Dataset.open(two.workspace.dataset_folder("pairs")).count(ready=True) == 12


@pytest.mark.slow
def test_when_memory_runs_out_on_one_all_go_on_with_less(two: Two) -> None:
    run = Run(two.runs["short"].folder)
    assert two.main["short"]["outcome"] == "completed"
    assert any("Memory ran out at step 3" in text for text in two.main["short"]["told"])
    (rung,) = run.about["memory_ladder"]
    assert rung["settings"] == {"train.batch_size": 2, "train.accumulation": 4}
    assert len(curve(run)) == 5 and run.completed


@pytest.mark.slow
def test_a_pause_of_one_is_a_pause_of_all_and_one_process_can_resume(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(two.runs["pause"].folder)
    assert two.main["pause"]["outcome"] == "paused"
    assert run.last_step == 3
    monkeypatch.setattr(cache, "SHARD", 4)
    assert Worker(two.workspace, run).outcome == "completed"
    assert curve(run) == pytest.approx(curve(two.runs["well"]), rel=1e-5)


@pytest.mark.slow
def test_a_fault_in_one_ends_all_with_its_words(two: Two) -> None:
    assert "Process 2 of 2" in two.main["fault"]["error"] and "condition map of 07" in two.main["fault"]["error"]
    assert "condition map of 07" in two.printed
    assert Run(two.runs["fault"].folder).ending == "failed"


@pytest.mark.slow
def test_one_that_ends_among_gradients_ends_the_others_and_the_run_resumes(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(two.runs["gone"].folder)
    assert "Memory ran out at step 3 while gradients were on their way" in two.printed
    assert "one of its processes is gone" in two.main["gone"]["error"] and "resume" in two.main["gone"]["error"]
    assert run.last_step == 2
    (rung,) = run.about["memory_ladder"]
    assert rung["settings"] == {"train.batch_size": 1, "train.accumulation": 4}
    monkeypatch.setattr(cache, "SHARD", 4)
    assert Worker(two.workspace, run).outcome == "completed"
    assert curve(run) == pytest.approx(curve(two.runs["well"]), rel=1e-5)


@pytest.mark.slow
def test_what_accelerate_would_change_is_put_aside_with_words(two: Two) -> None:
    (remark,) = two.main["remarks"]
    assert "dynamo_backend inductor" in remark and "the run's settings are" in remark


@pytest.mark.parametrize(
    ("size", "accumulation", "count", "shared"),
    [(4, 1, 2, (2, 2)), (4, 2, 2, (4, 2)), (1, 4, 2, (1, 4)), (6, 2, 4, (3, 4)), (4, 1, 4, (1, 4)), (4, 3, 3, (4, 3))],
)
def test_a_step_keeps_its_pictures(size: int, accumulation: int, count: int, shared: tuple[int, int]) -> None:
    config = RunConfig.model_validate({"train": {"batch_size": size, "accumulation": accumulation}})
    dealt_out, sentence = dealt(config, count)
    assert (dealt_out.train.batch_size, dealt_out.train.accumulation) == shared
    assert dealt_out.images_per_step == config.images_per_step
    assert f"{count} processes share the {config.images_per_step} pictures" in sentence
    assert dealt(config, 1) == (config, "")


def test_a_step_that_cannot_be_shared_is_refused_with_a_way_out() -> None:
    config = RunConfig.model_validate({"train": {"batch_size": 4}})
    with pytest.raises(UserError, match="3 processes cannot share a step of 4 pictures.*product it divides .6, say"):
        dealt(config, 3)
