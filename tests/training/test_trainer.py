"""The training loop: checkpoints, images, requests, and failures with a cause and a fix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import compute_snr
from PIL import Image
from safetensors.torch import load_file

from engine.config import RunConfig
from engine.data.dataset import Dataset
from engine.errors import UserError
from engine.families.stable_diffusion import StableDiffusion
from engine.jobs.events import CheckpointSaved, Message, PreviewMade, StepDone
from engine.jobs.faults import describe_crash
from engine.jobs.runner import Busy, JobRunner
from engine.machine.hardware import Hardware
from engine.runs.changes import FALLBACKS
from engine.runs.run import Run, read_preview
from engine.training import job
from engine.training.job import resume_training, start_training
from engine.training.new_run import create_run, missing
from engine.workspace.paths import Workspace
from tests.compare_runs import step_gradients, tensors
from tests.short_runs import RunFactory, train

ONE_EACH = {"num_images_per_prompt": 1, "device": "cpu"}


def test_a_run_leaves_exactly_these_files(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"train.checkpoint_every": 3, "optim.ema_decay": 0.9})
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed"
    files = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    curves = {name for name in files if name.startswith("tensorboard/events.out.tfevents.")}
    assert len(curves) == 1
    checkpoint = {
        "checkpoint.json",
        "controlnet/config.json",
        "controlnet/diffusion_pytorch_model.safetensors",
        "controlnet_ema/config.json",
        "controlnet_ema/diffusion_pytorch_model.safetensors",
        "training_state/optimizer.safetensors",
        "training_state/state.json",
    }
    expected = {f"checkpoints/step-{step:06d}/{name}" for step in (3, 6) for name in checkpoint}
    assert files - curves == expected | {"run.json", "metrics.jsonl", "log.txt"}
    assert [event.step for event in trained.of(CheckpointSaved)] == [3, 6]
    assert [event.images_seen for event in trained.of(StepDone)] == [2, 4, 6, 8, 10, 12]


def test_the_weights_move_and_the_base_does_not(
    new_run: RunFactory, ready_workspace: Workspace, tiny_base: Path
) -> None:
    before = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    run = new_run(**{"train.checkpoint_every": 2})
    train(ready_workspace, run)
    name = "controlnet/diffusion_pytorch_model.safetensors"
    first, last = (load_file(c.folder / name) for c in (run.checkpoints()[0], run.checkpoints()[-1]))
    assert not torch.equal(first["controlnet_down_blocks.0.weight"], last["controlnet_down_blocks.0.weight"])
    after = load_file(tiny_base / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_training_on_a_few_images_lowers_the_loss(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"train.steps": 60, "optim.learning_rate": 3e-3, "objective.prompt_dropout": 0.0})
    train(ready_workspace, run)
    losses = [entry["loss"] for entry in run.metrics() if "loss" in entry]
    assert sum(losses[-15:]) < 0.97 * sum(losses[:15])


@pytest.mark.parametrize(
    ("checkpointing", "apart", "gamma", "offset", "huber"),
    [("none", False, 0.0, 0.0, False), ("controlnet", True, 5.0, 0.1, False), ("both", True, 0.0, 0.0, True)],
)
def test_the_step_equals_a_plain_diffusers_step(
    new_run: RunFactory,
    ready_workspace: Workspace,
    any_base: Path,
    checkpointing: str,
    apart: bool,
    gamma: float,
    offset: float,
    huber: bool,
) -> None:
    """Loss and every gradient to 1e-5, against a step from the files on with diffusers' parts alone.

    ``apart``: what learns and what computes are two nets, as in half precision, but both in fp32. ``gamma``: Min-SNR as
    diffusers' own scripts have it. ``offset``: of the noise, as there.
    """
    from engine.jobs.control import Control
    from engine.training.job import build_trainer

    settings = {
        "train.gradient_checkpointing": checkpointing,
        "optim.offload": apart,
        "train.batch_size": 3,
        "optim.max_grad_norm": 1e9,
    }
    settings |= {"objective.min_snr_gamma": gamma, "objective.offset_noise": offset}
    if huber:
        settings |= {"objective.loss": "huber", "objective.huber_c": 0.5, "objective.input_perturbation": 0.1}
    run = new_run(**settings, **{"model.base": str(any_base), "objective.prompt_dropout": 0.5})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    net = state.trainable.master
    assert state.trainable.weights.separate is apart
    # Zero convolutions give the trunk no gradient at the first step: start from somewhere else.
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    state.trainable.weights.refresh()
    draws = state.batches.get(0).random
    samples = [state.samples[row] for row, _ in state.batches.order.batch(0)]
    loss, ours = step_gradients(state)

    pipe = DiffusionPipeline.from_pretrained(any_base)
    images = torch.stack([torch.from_numpy(np.array(Image.open(s.image).convert("RGB"))) for s in samples])
    hint = torch.stack([torch.from_numpy(np.array(Image.open(s.condition).convert("RGB"))) for s in samples])
    captions = ["" if hidden else s.caption for s, hidden in zip(samples, draws.hide_prompt, strict=True)]
    with torch.no_grad():
        posterior = pipe.vae.encode(images.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist
        hidden, _, *pooled = pipe.encode_prompt(captions, do_classifier_free_guidance=False, **ONE_EACH)
    mean, logvar, hidden = (tensor.half().float() for tensor in (posterior.mean, posterior.logvar, hidden))  # as kept
    latents = (mean + torch.exp(0.5 * logvar) * draws.posterior) * pipe.vae.config.scaling_factor
    noise = draws.noise + offset * draws.offset
    seen = noise + 0.1 * draws.perturbation if huber else noise
    noisy = pipe.scheduler.add_noise(latents, seen, draws.uniform_timesteps)
    named = {"encoder_hidden_states": hidden}
    if pooled:
        whole_image = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 3)
        named["added_cond_kwargs"] = {"text_embeds": pooled[0].half().float(), "time_ids": whole_image}
    hint = hint.permute(0, 3, 1, 2).float() / 255
    down, middle = net(noisy, draws.uniform_timesteps, controlnet_cond=hint, return_dict=False, **named)
    residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    predicted = pipe.unet(noisy, draws.uniform_timesteps, **residuals, **named).sample
    velocity = pipe.scheduler.config.prediction_type == "v_prediction"
    wanted = pipe.scheduler.get_velocity(latents, noise, draws.uniform_timesteps) if velocity else noise
    each = torch.nn.functional.mse_loss(predicted, wanted, reduction="none")
    if huber:
        each = (each + 0.25).sqrt() - 0.5
    each = each.mean(dim=(1, 2, 3))
    if gamma:
        ratio = compute_snr(pipe.scheduler, draws.uniform_timesteps)
        each = each * ratio.clamp(max=gamma) / (ratio + 1 if velocity else ratio)
    plain = each.mean()
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for name, parameter in net.named_parameters():
        assert torch.allclose(ours[name], parameter.grad, rtol=1e-5, atol=1e-6), name
    assert sum(gradient.abs().sum() for gradient in ours.values()) > 0
    trainer.close()


def test_save_now_saves_now(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run()
    train(ready_workspace, run, at_step={2: "save_now"})
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2, 6]


def test_stop_saves_and_can_be_resumed(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run()
    assert train(ready_workspace, run, at_step={4: "stop"}).outcome == "stopped"
    assert (run.ending, run.last_step) == ("stopped", 4)
    assert train(ready_workspace, run).outcome == "completed"
    assert run.ending == "completed"


def test_a_run_records_what_it_was_trained_on_and_says_when_that_changes(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(**{"train.steps": 3})
    for end, name in ((1, "RTX 3060"), (2, "RTX 3060"), (None, "RTX 4090")):
        monkeypatch.setattr(job, "detect", lambda name=name: Hardware("cuda", name, 12.0, 16, 8))
        trained = train(ready_workspace, run, at_step={end: "stop"} if end else {})
    assert "was trained on RTX 3060, 12 GB; from now on it is trained on RTX 4090, 12 GB." in " ".join(
        m.text for m in trained.of(Message)
    )
    machines = Run(run.folder).about["machines"]
    assert [(entry["from_step"], entry["name"]) for entry in machines] == [(0, "RTX 3060"), (2, "RTX 4090")]
    assert Run(run.folder).machine == "RTX 4090"


@pytest.mark.answers("Checkpoints fill the disk")
def test_old_checkpoints_are_removed(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"train.checkpoint_every": 1, "train.keep_checkpoints": 2})
    train(ready_workspace, run)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [5, 6]
    assert sorted(path.name for path in (run.folder / "checkpoints").iterdir()) == ["step-000005", "step-000006"]


@pytest.mark.answers("There are no validation images")
def test_images_appear_and_change_nothing(new_run: RunFactory, ready_workspace: Workspace) -> None:
    quiet = new_run()
    drawing = new_run(**{"validation.every": 3, "validation.pictures": 2, "validation.sampling_steps": 2})
    train(ready_workspace, quiet)
    trained = train(ready_workspace, drawing)
    made = trained.of(PreviewMade)
    assert [event.step for event in made] == [0, 3, 6]
    assert all(path.is_file() for event in made for path in event.pictures)
    assert read_preview(made[-1].folder).pictures == made[-1].pictures
    assert [m["loss"] for m in quiet.metrics() if "loss" in m] == [m["loss"] for m in drawing.metrics() if "loss" in m]


def test_a_fault_in_the_images_does_not_end_the_training(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the printer is on fire")

    monkeypatch.setattr("engine.training.previews.make_previews", broken)
    trained = train(ready_workspace, new_run(**{"validation.every": 3}))
    assert trained.outcome == "completed"
    assert any("printer is on fire" in message.text for message in trained.of(Message))


@pytest.mark.answers("The last checkpoint is half-written")
def test_a_half_written_checkpoint_is_never_offered(new_run: RunFactory, ready_workspace: Workspace) -> None:
    run = new_run(**{"train.checkpoint_every": 3})
    train(ready_workspace, run)
    weights = run.checkpoints()[-1].folder / "controlnet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (run.folder / "checkpoints" / ".writing-step-000009").mkdir()
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3]
    assert not run.completed
    assert train(ready_workspace, run).outcome == "completed"
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [3, 6]
    assert not list((run.folder / "checkpoints").glob(".writing-*"))


def test_fp16_on_a_processor_goes_on_in_fp32_and_says_so(new_run: RunFactory, ready_workspace: Workspace) -> None:
    trained = train(ready_workspace, new_run(**{"train.precision": "fp16", "train.steps": 1}))
    assert trained.outcome == "completed"
    assert any("fp32" in message.text for message in trained.of(Message))


def test_a_step_reads_no_image_file(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.data import cache, map_cache
    from engine.training import batches

    run = new_run(**{"validation.check_every": 0})
    assert train(ready_workspace, run, at_step={2: "pause"}).outcome == "paused"
    for module, name in ((cache, "load_rgb"), (map_cache, "cropped_map"), (batches, "cropped_map")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("an image file was read"))
    assert train(ready_workspace, run).outcome == "completed"


def test_a_run_with_a_lost_map_says_which(
    new_run: RunFactory, ready_workspace: Workspace, tmp_path: Path, paired_folder: Path
) -> None:
    from engine.data.scan import scan_folder

    copy = tmp_path / "pairs copy"
    shutil.copytree(paired_folder, copy)
    Dataset.create(ready_workspace, "copy", scan_folder(copy))
    run = new_run(**{"data.dataset": "copy"})
    shutil.rmtree(copy / "conditions")
    with pytest.raises(UserError, match="condition map of .* is missing"):
        train(ready_workspace, run)


def test_what_is_missing_is_named(workspace: Workspace, make_config: Callable[..., RunConfig]) -> None:
    assert "There is no dataset called pairs" in missing(workspace, make_config())[0]
    nowhere = make_config(**{"model.base": "no/such/folder"})
    assert any("no/such/folder" in sentence for sentence in missing(workspace, nowhere))
    with pytest.raises(UserError, match="Training cannot start"):
        create_run(workspace, make_config(), {})
    assert workspace.run_folders() == []


def test_a_second_start_is_refused_and_leaves_no_folder(
    ready_workspace: Workspace, make_config: Callable[..., RunConfig]
) -> None:
    runner = JobRunner()
    start_training(runner, ready_workspace, make_config(**{"train.steps": 10_000}), {})
    with pytest.raises(Busy):
        start_training(runner, ready_workspace, make_config(), {})
    assert len(ready_workspace.run_folders()) == 1
    runner.pause()
    assert runner.wait(60)


def test_a_cancel_that_comes_late_stops_the_training_and_saves(new_run: RunFactory, ready_workspace: Workspace) -> None:
    """Pressed while preparing, it can reach the worker when the first step is already being made."""
    run = new_run()
    trained = train(ready_workspace, run, at_step={2: "cancel"})
    assert trained.outcome == "stopped"
    assert run.last_step == 2


def test_pause_and_resume_through_the_runner(ready_workspace: Workspace, make_config: Callable[..., RunConfig]) -> None:
    runner = JobRunner()
    folder = start_training(runner, ready_workspace, make_config(**{"train.steps": 10_000}), {"train.steps": "you"})
    while runner.alive and runner.snapshot.step < 2:
        runner.wait(0.05)
    runner.pause()
    assert runner.wait(60)
    assert runner.snapshot.outcome == "paused"
    paused_at = Run(folder).last_step
    assert paused_at >= 2
    resume_training(runner, ready_workspace, folder)
    assert runner.snapshot.loss.points, "the curve of the steps before is there at once"
    while runner.alive and runner.snapshot.step < paused_at + 1:
        runner.wait(0.05)
    runner.stop()
    assert runner.wait(60)
    assert runner.snapshot.outcome == "stopped"
    steps = [
        json.loads(line).get("step") for line in (folder / "metrics.jsonl").read_text().splitlines() if '"loss"' in line
    ]
    assert steps == list(range(1, Run(folder).last_step + 1))


def test_a_run_warms_up_goes_on_after_a_pause_and_comes_down(new_run: RunFactory, ready_workspace: Workspace) -> None:
    optim = {"optim.learning_rate": 4e-3, "optim.warmup_steps": 3, "optim.schedule": "linear"}
    run = new_run(**optim, **{"train.steps": 7, "train.checkpoint_every": 1, "train.keep_checkpoints": 0})
    first = train(ready_workspace, run, at_step={2: "pause"})
    second = train(ready_workspace, run)
    rates = [event.learning_rate for trained in (first, second) for event in trained.of(StepDone)]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 3e-3, 2e-3, 1e-3])
    weights = [tensors(saved.folder / "controlnet") for saved in run.checkpoints()]
    moves = [
        float(torch.cat([(after[name] - before[name]).abs().flatten() for name in after]).quantile(0.99))
        for before, after in pairwise(weights)
    ]
    # AdamW moves a weight by about the learning rate in its first steps, whatever the gradient (Kingma & Ba 2015).
    assert all(0.5 * rate < moved < 1.3 * rate for rate, moved in zip(rates[1:], moves, strict=True)), (rates, moves)


@pytest.mark.parametrize(
    "part",
    [
        "load_denoiser",
        *(pytest.param(one, marks=pytest.mark.long) for one in ("load_vae", "load_text_encoder")),
        "new_controlnet",
    ],
)
def test_a_base_that_does_not_fit_ends_the_run_in_words_and_it_can_be_resumed(
    new_run: RunFactory, ready_workspace: Workspace, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def too_large(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")

    shutil.rmtree(ready_workspace.cache)
    run = new_run()
    with monkeypatch.context() as patch:
        patch.setattr(StableDiffusion, part, too_large)
        with pytest.raises((torch.OutOfMemoryError, UserError)) as caught:
            train(ready_workspace, run)
    crash = describe_crash(caught.value)
    words = str(caught.value) if isinstance(caught.value, UserError) else f"{crash.what} {crash.why} {crash.try_this}"
    assert "memory" in words.lower() and "Close other programs" in words
    assert run.ending == "failed"
    assert FALLBACKS not in Run(run.folder).about, "on a processor nothing makes the nets smaller"
    assert train(ready_workspace, run).outcome == "completed"
