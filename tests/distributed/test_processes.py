"""Two processes train as one does: the same images, the same curve, one voice, one end."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from engine.config import RunConfig, parse
from engine.data import cache, caption_edits
from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.data.scan import scan_folder
from engine.disk.images import load_array
from engine.distributed.agreement import split_among, start_equal
from engine.errors import UserError
from engine.families.registry import detect
from engine.nets.frozen_layers import quantize_base
from engine.nets.lora import to_control_lora
from engine.runs.run import Run
from engine.training.new_run import create_run
from engine.tuning.whole_base import DENOISER
from engine.workspace.paths import Workspace
from tests import whole_denoiser
from tests.conditions import tiny_models
from tests.forked import Forks
from tests.short_runs import train

WORKER = "tests.distributed.process_worker"
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


def variables(rank: int, port: int) -> dict[str, str]:
    """What torchrun or accelerate would put into the environment of one of two processes."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    tools = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # DeepSpeed builds with ninja
    return {**place, **meet, **tools, "ACCELERATE_DYNAMO_BACKEND": "inductor"}


@pytest.fixture(scope="module")
def two(
    tmp_path_factory: pytest.TempPathFactory, forks: Forks, paired_folder: Path, mixed_folder: Path, tiny_base: Path
) -> Two:
    workspace = Workspace(tmp_path_factory.mktemp("several") / "workspace")
    answers = tmp_path_factory.mktemp("answers")
    tiny_models.depth_anything(workspace.models / "depth")
    for name, folder in (("mixed", mixed_folder), ("pairs", paired_folder), ("scenes", paired_folder)):
        dataset = Dataset.create(workspace, name, scan_folder(folder))
        if name == "mixed":  # texts of several lengths
            caption_edits.set_captions(dataset, {dataset.samples()[0].key: "red circle, " * 30})

    def run(watched: bool = False, **changes: Any) -> Run:
        values = {**SETTINGS, "train": {**SETTINGS["train"], **changes}, "model": {"base": str(tiny_base)}}
        if not watched:
            values["validation"] = {"every": 0, "check_every": 0}
        return create_run(workspace, parse(values), {})

    kinds = ("well", "short", "pause", "fault", "nan", "gone")
    own: dict[str, dict[str, Any]] = {"short": {"accumulation": 2}, "nan": {"precision": "bf16"}}
    runs = {kind: run(kind == "well", checkpoint_every=2, **own.get(kind, {})) for kind in kinds}
    with whole_denoiser.chosen():
        runs |= {name: run(steps=3, accumulation=2) for name in ("whole", "whole alone")}
    todo = [("canny", "pairs"), ("depth", "scenes"), *((kind, runs[kind].name) for kind in (*kinds[:-1], "whole"))]
    todo += [("gone", runs["gone"].name)]  # ends the other process
    main, printed = work_together(forks, workspace, answers, todo)
    assert not (answers / "1.json").exists(), "the second one has ended before it could answer"
    return Two(workspace, main, printed, {**runs, "alone": run()})


def work_together(
    forks: Forks, workspace: Workspace, answers: Path, todo: list[tuple[str, str]], **more: str
) -> tuple[dict[str, Any], str]:
    """Let two processes do all of ``todo``. Returns the answers of the main one, and what the other one printed.

    ``more``: what accelerate would put into their environment.
    """
    port, words = free_port(), [str(workspace.root), str(answers), json.dumps(todo)]
    printed = [answers / f"printed-{rank}.txt" for rank in (0, 1)]
    workers = [forks.start(WORKER, *words, output=printed[rank], **variables(rank, port), **more) for rank in (0, 1)]
    codes = [forks.wait(worker) for worker in workers]
    outputs = [file.read_text(encoding="utf-8") for file in printed]
    assert codes[0] == 0, outputs[0]
    return json.loads((answers / "0.json").read_text(encoding="utf-8")), outputs[1]


def curve(run: Run) -> list[float]:
    return [entry["loss"] for entry in run.metrics() if "loss" in entry]


def weights(run: Run, folder: str = "controlnet") -> dict[str, Any]:
    return load_file(run.checkpoints()[-1].folder / folder / "diffusion_pytorch_model.safetensors")


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD", 4)  # as in the others
    train(two.workspace, two.runs["alone"])
    ours, wanted = curve(two.runs["well"]), curve(two.runs["alone"])
    assert len(ours) == 5
    assert two.main["well"]["model"] == "DistributedDataParallel"
    assert ours == pytest.approx(wanted, rel=1e-5)
    for folder in ("controlnet", "controlnet_ema"):
        mine, theirs = weights(two.runs["well"], folder), weights(two.runs["alone"], folder)
        assert all(torch.allclose(mine[key], theirs[key], atol=2e-5) for key in theirs)
    seen = [entry["images_seen"] for entry in two.runs["well"].metrics() if "loss" in entry]
    assert seen == [4, 8, 12, 16, 20] == [step * two.runs["well"].config.images_per_step for step in range(1, 6)]


@pytest.mark.slow
def test_the_whole_denoiser_can_be_shared(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """What computes is the denoiser: there is no ControlNet to wrap."""
    monkeypatch.setattr(cache, "SHARD", 4)  # as in the others
    assert two.main["whole"].get("error") is None
    assert two.main["whole"]["model"] == "DistributedDataParallel"
    with whole_denoiser.chosen():
        train(two.workspace, two.runs["whole alone"])
    assert curve(two.runs["whole"]) == pytest.approx(curve(two.runs["whole alone"]), rel=1e-5)
    mine, theirs = (whole_weights(two.runs[name]) for name in ("whole", "whole alone"))
    assert all(torch.allclose(mine[key], theirs[key], atol=2e-5) for key in theirs)


def whole_weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.checkpoints()[-1].folder / DENOISER)


@pytest.mark.long
def test_every_way_to_learn_is_the_same_with_two(
    tmp_path: Path, forks: Forks, paired_folder: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies in half precision, thin matrices over the base's weights in eight bits, the decoder, offload."""
    monkeypatch.setattr(cache, "SHARD", 4)  # as in the others
    workspace = Workspace(tmp_path / "workspace")
    Dataset.create(workspace, "pairs", scan_folder(paired_folder))
    ways: dict[str, dict[str, Any]] = {
        "half": {"train": {"precision": "bf16"}, "optim": {"offload": True}},
        "thin": {"train": {"base_storage": "fp8"}, "model": {"control_lora_rank": 4}},
        "decoder": {"objective": {"sd_locked": False}},
    }

    def run(way: dict[str, Any]) -> Run:
        whole = {"data": {"dataset": "pairs", "resolution": 64, "held_out": 2}, "validation": {"every": 0}}
        whole |= {"model": {"base": str(tiny_base), **way.get("model", {})}, "objective": way.get("objective", {})}
        whole["optim"] = {"learning_rate": 1e-3, **way.get("optim", {})}
        settings = {"steps": 6, "batch_size": 1, "accumulation": 4, "precision": "fp32", "checkpoint_every": 100}
        whole["train"] = {**settings, **way.get("train", {})}
        return create_run(workspace, parse(whole), {})

    shared = {kind: run(way) for kind, way in ways.items()}
    main, _ = work_together(forks, workspace, tmp_path, [(kind, made.name) for kind, made in shared.items()])
    for kind, way in ways.items():
        assert main[kind].get("error") is None
        alone = run(way)
        train(workspace, alone)
        together, wanted = weights(shared[kind]), weights(alone)
        worst = max(float((together[key] - wanted[key]).abs().max()) for key in wanted)
        print(kind, curve(shared[kind]), curve(alone), worst)
        assert len(curve(alone)) == 6
        assert curve(shared[kind]) == pytest.approx(curve(alone), rel=1e-5 if kind != "half" else 1e-3)


FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BasicTransformerBlock,ResnetBlock2D",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


@pytest.mark.long
def test_a_divided_net_learns_what_a_whole_one_learns(
    tmp_path: Path, forks: Forks, mixed_folder: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SHARD", 4)
    workspace = Workspace(tmp_path / "workspace")
    Dataset.create(workspace, "mixed", scan_folder(mixed_folder))

    def run(precision: str, steps: int = 6, **changes: Any) -> Run:
        train = {**SETTINGS["train"], "accumulation": 2, "steps": steps, "checkpoint_every": 3, "precision": precision}
        optim = {**SETTINGS["optim"], "ema_decay": 0.0, **changes}
        return create_run(
            workspace, parse({**SETTINGS, "optim": optim, "train": train, "model": {"base": str(tiny_base)}}), {}
        )

    shared = {"well": run("fp32"), "half": run("bf16"), "pause": run("fp32"), "average": run("fp32", ema_decay=0.9)}
    shared["nan"], again = run("fp32"), run("fp32")
    todo = [(kind, made.name) for kind, made in shared.items()] + [("pause", again.name), ("further", again.name)]
    main, _ = work_together(forks, workspace, tmp_path, todo, **FSDP)
    assert "optim.ema_decay above 0" in main["average"]["error"]
    assert main["well"]["model"].startswith("FSDP")
    assert main["well"]["pictures"] == [0, 5, 6]
    assert [checkpoint.step for checkpoint in shared["well"].checkpoints()] == [3, 6]

    alone, half = run("fp32"), run("bf16")
    train(workspace, alone)
    train(workspace, half)
    wanted = curve(alone)
    print(curve(shared["well"]), wanted, curve(shared["half"]), curve(half), sep="\n")
    assert curve(shared["well"]) == pytest.approx(wanted, rel=1e-5)
    assert curve(shared["half"]) == pytest.approx(curve(half), rel=2e-3)
    together, whole = weights(shared["well"]), weights(alone)
    assert all(torch.allclose(together[key], whole[key], atol=2e-5) for key in whole)

    assert main["nan"]["skipped"] == 1, "infinite on one is infinite for all"
    assert curve(shared["nan"])[:2] == pytest.approx(wanted[:2], rel=1e-5) and len(curve(shared["nan"])) == 5
    assert Run(shared["pause"].folder).last_step == 3
    assert train(workspace, Run(shared["pause"].folder)).outcome == "completed"  # one process, the whole net
    assert curve(shared["pause"]) == pytest.approx(wanted, rel=1e-5)
    assert (main["pause"]["outcome"], main["further"]["outcome"]) == ("paused", "completed")
    assert main["further"]["model"].startswith("FSDP")
    assert curve(again) == pytest.approx(wanted, rel=1e-5), "divided again, with the optimizer's memory"
    assert all(torch.allclose(weights(again)[key], whole[key], atol=2e-5) for key in whole)


@pytest.mark.long
@pytest.mark.parametrize(("stage", "offload"), [(2, "none"), (3, "none"), (2, "cpu")])
def test_deepspeed_learns_what_a_whole_net_learns(
    forks: Forks,
    stage: int,
    offload: str,
    tmp_path: Path,
    mixed_folder: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("deepspeed", reason="an option for several cards; install it to run this")
    monkeypatch.setattr(cache, "SHARD", 4)
    workspace = Workspace(tmp_path / "workspace")
    Dataset.create(workspace, "mixed", scan_folder(mixed_folder))

    def run(precision: str = "fp32", scope: str = "none", **changes: Any) -> Run:
        train = {**SETTINGS["train"], "accumulation": 2, "steps": 6, "checkpoint_every": 3, "precision": precision}
        train["gradient_checkpointing"] = scope
        optim = {**SETTINGS["optim"], "ema_decay": 0.0, **changes}
        return create_run(
            workspace, parse({**SETTINGS, "optim": optim, "train": train, "model": {"base": str(tiny_base)}}), {}
        )

    shared = {"well": run(), "half": run("bf16"), "pause": run(), "average": run(ema_decay=0.9), "nan": run()}
    shared["thrifty"], again = run(scope="both"), run()
    todo = [(kind, made.name) for kind, made in shared.items()] + [("pause", again.name), ("further", again.name)]
    settings = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    settings["ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"] = offload
    main, _ = work_together(forks, workspace, tmp_path, todo, **settings)
    assert "cannot be sharded among cards by DeepSpeed" in main["average"]["error"]
    assert main["well"]["model"] == "DeepSpeedEngine"
    assert main["well"]["pictures"] == [0, 5, 6]
    assert [checkpoint.step for checkpoint in shared["well"].checkpoints()] == [3, 6]

    alone, half = run(), run("bf16")
    train(workspace, alone)
    train(workspace, half)
    wanted = curve(alone)
    print(curve(shared["well"]), wanted, curve(shared["half"]), curve(half), sep="\n")
    assert curve(shared["well"]) == pytest.approx(wanted, rel=1e-5)
    assert curve(shared["thrifty"]) == pytest.approx(wanted, rel=1e-5)
    assert curve(shared["half"]) == pytest.approx(curve(half), rel=2e-3)
    together, whole = weights(shared["well"]), weights(alone)
    assert all(torch.allclose(together[key], whole[key], atol=2e-5) for key in whole)

    assert main["nan"]["skipped"] == 1, "infinite on one is infinite for all"
    assert curve(shared["nan"])[:2] == pytest.approx(wanted[:2], rel=1e-5) and len(curve(shared["nan"])) == 5
    assert train(workspace, Run(shared["pause"].folder)).outcome == "completed"  # one process, the whole net
    assert curve(shared["pause"]) == pytest.approx(wanted, rel=1e-5)
    assert (main["pause"]["outcome"], main["further"]["outcome"]) == ("paused", "completed")
    assert curve(again) == pytest.approx(wanted, rel=1e-5), "divided again, with the optimizer's memory"
    assert all(torch.allclose(weights(again)[key], whole[key], atol=2e-5) for key in whole)


@pytest.mark.slow
def test_only_main_reports_and_draws(two: Two) -> None:
    run = two.runs["well"]
    assert two.main["well"]["outcome"] == "completed"
    assert two.main["well"]["pictures"] == [0, 5]
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2, 4, 5]
    log = run.log_tail()
    assert len(log) == len(set(log)), "a line was written twice"
    assert "2 processes split the 4 images of a step: 2 at a time on each." in log
    assert [entry["event"] for entry in run.metrics() if "event" in entry] == ["started", "completed"]
    assert "step" not in two.printed.lower().replace("process 2 of 2", "").split("the condition map")[0]


@pytest.mark.slow
def test_they_share_the_latents_and_the_maps(two: Two) -> None:
    made = set(two.main["shards"])
    there = {path.name for path in two.workspace.cache.glob("*/latents-*")}
    assert made & there and there - made, "both have made some"
    assert two.main["canny"] == {"made": 12, "kept": 0, "failed": 0, "here": 6}
    assert Dataset.open(two.workspace.dataset_folder("pairs")).count(ready=True) == 12


@pytest.mark.slow
def test_they_share_maps_that_a_model_makes(two: Two, paired_folder: Path) -> None:
    assert two.main["depth"] == {"made": 12, "kept": 0, "failed": 0, "here": 8}, "eight at once, and the other has four"
    shared = Dataset.open(two.workspace.dataset_folder("scenes"))
    alone = Dataset.create(two.workspace, "alone", scan_folder(paired_folder))
    make_all(alone, "depth", {"model": str(two.workspace.models / "depth")})
    assert shared.count(ready=True) == 12
    for sample in alone.samples():
        mine, theirs = (load_array(dataset.condition_path(sample)) for dataset in (alone, shared))
        assert (mine == theirs).all() and mine.std() > 0


@pytest.mark.slow
def test_when_memory_runs_out_on_one_all_go_on_with_less(two: Two) -> None:
    run = Run(two.runs["short"].folder)
    assert two.main["short"]["outcome"] == "completed"
    assert any("Memory ran out at step 3" in text for text in two.main["short"]["messages"])
    (fallback,) = run.about["memory_ladder"]
    assert fallback["settings"] == {"train.batch_size": 2, "train.accumulation": 4}
    assert len(curve(run)) == 5 and run.completed


@pytest.mark.slow
def test_a_pause_of_one_is_a_pause_of_all_and_one_process_can_resume(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(two.runs["pause"].folder)
    assert two.main["pause"]["outcome"] == "paused"
    assert run.last_step == 3
    monkeypatch.setattr(cache, "SHARD", 4)
    assert train(two.workspace, run).outcome == "completed"
    assert curve(run) == pytest.approx(curve(two.runs["well"]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.answers("A step was skipped, or the loss became NaN")
def test_what_is_not_finite_in_one_is_skipped_by_all(two: Two) -> None:
    run = two.runs["nan"]
    assert (two.main["nan"]["outcome"], two.main["nan"]["skipped"]) == ("completed", 1)
    (skipped,) = [entry for entry in run.metrics() if "skipped" in entry]
    assert (skipped["step"], skipped["skipped"]) == (3, "loss")
    assert len(skipped["images"]) == run.config.images_per_step, "those of both processes"
    ours, wanted = curve(run), curve(two.runs["well"])
    assert "can compute in bf16; all processes use fp32" in "".join(two.main["nan"]["messages"])
    assert ours[:2] == pytest.approx(wanted[:2], rel=1e-5), "the same batches, in fp32, before the skipped one"
    assert len(ours) == 4 and ours[2:] == pytest.approx(wanted[3:], rel=0.2) and ours[2:] != wanted[3:]


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
    assert "Memory ran out at step 3 while gradients were being exchanged" in two.printed
    assert "one of its processes disappeared" in two.main["gone"]["error"] and "resume" in two.main["gone"]["error"]
    assert run.last_step == 2
    (fallback,) = run.about["memory_ladder"]
    assert fallback["settings"] == {"train.batch_size": 1, "train.accumulation": 4}
    monkeypatch.setattr(cache, "SHARD", 4)
    assert train(two.workspace, run).outcome == "completed"
    assert curve(run) == pytest.approx(curve(two.runs["well"]), rel=1e-5)


@pytest.mark.slow
def test_what_accelerate_would_change_is_put_aside_with_words(two: Two) -> None:
    (remark,) = two.main["remarks"]
    assert "dynamo_backend inductor" in remark and "the run's are used" in remark


@pytest.mark.slow
def test_nothing_that_torch_or_accelerate_will_drop_is_asked_for(two: Two) -> None:
    assert "FutureWarning" not in two.printed and "deprecated" not in two.printed, two.printed


def test_weights_in_eight_bits_stay_at_home(tiny_base: Path) -> None:
    """gloo and NCCL cannot send them: a Control-LoRA over such a base shares them, and all have read the same file."""
    family = detect(str(tiny_base))
    unet = family.load_denoiser(str(tiny_base), torch.float32)
    net = family.new_controlnet(unet)
    to_control_lora(net, unet, 4, family.layers)
    quantize_base(unet, net, kind="fp8", modulation="base", layers=family.layers)
    sent: list[torch.Tensor] = []
    group = SimpleNamespace(gather=lambda step: [step, step], broadcast_parameters=sent.extend)
    start_equal(cast(Any, group), 0, Path("run"), net.parameters())
    assert {tensor.dtype for tensor in sent} == {torch.float32}
    assert {id(tensor) for tensor in sent} == {id(p) for p in net.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("size", "accumulation", "count", "shared"),
    [(4, 1, 2, (2, 2)), (4, 2, 2, (4, 2)), (1, 4, 2, (1, 4)), (6, 2, 4, (3, 4)), (4, 1, 4, (1, 4)), (4, 3, 3, (4, 3))],
)
def test_a_step_keeps_its_images(size: int, accumulation: int, count: int, shared: tuple[int, int]) -> None:
    config = RunConfig.model_validate({"train": {"batch_size": size, "accumulation": accumulation}})
    split, sentence = split_among(config, count)
    assert (split.train.batch_size, split.train.accumulation) == shared
    assert split.images_per_step == config.images_per_step
    assert f"{count} processes split the {config.images_per_step} images" in sentence
    assert split_among(config, 1) == (config, "")


def test_a_step_that_cannot_be_split_is_refused_with_a_way_out() -> None:
    config = RunConfig.model_validate({"train": {"batch_size": 4}})
    with pytest.raises(UserError, match="3 processes cannot split a step of 4 images.*multiple of 3, such as 6"):
        split_among(config, 3)
