"""Runs that distil an LCM-LoRA: its formulas, its step, exact resume, previews beside many steps, verdict, files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.config import parse
from engine.config.presets import resolve
from engine.demo.sets import demo_preset
from engine.disk.durable import checksum
from engine.errors import UserError
from engine.evaluation.fewer_steps import judge_fewer_steps
from engine.evaluation.run_verdict import verdict_of
from engine.export.out import export
from engine.families.noise import DiffusionNoise
from engine.inference.settings import run_defaults
from engine.jobs.control import Control
from engine.nets.controlnet_files import WEIGHTS
from engine.runs.checkpoints import LORA
from engine.runs.run import Run
from engine.training.job import build_trainer
from engine.training.new_run import missing
from engine.training.step import train_step
from engine.tuning.consistency import boundary_scalings, consistency, ddim_step, guided, solver_timesteps
from engine.tuning.lcm_lora import describe_net, require_same_net
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint
from tests.compare_runs import assert_same_run
from tests.short_runs import RunFactory, train

LCM = {"tuning.what": "lcm", "tuning.rank": 4, "train.steps": 4, "train.batch_size": 2, "optim.learning_rate": 1e-3}

BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def process_of(prediction: str) -> DiffusionNoise:
    return DiffusionNoise(DDIMScheduler(**BETAS, prediction_type=prediction, clip_sample=False))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_formulas_are_those_of_the_samplers_that_draw_with_the_result(prediction: str) -> None:
    process = process_of(prediction)
    noisy, predicted = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    start, earlier = solver_timesteps(torch.tensor([437]), 1000)
    assert (start.item(), earlier.item()) == (439, 419)
    theirs = LCMScheduler.from_config(process.scheduler.config, clip_sample=False)
    theirs.set_timesteps(50)
    assert start.item() in theirs.timesteps and earlier.item() in theirs.timesteps
    theirs.set_timesteps(timesteps=[439])
    drawn = theirs.step(predicted, 439, noisy).denoised
    torch.testing.assert_close(consistency(process, noisy, predicted, start), drawn, rtol=1e-5, atol=1e-5)
    ddim = DDIMScheduler.from_config(process.scheduler.config, timestep_spacing="trailing")
    ddim.set_timesteps(50)
    wanted = ddim.step(predicted, 439, noisy).prev_sample
    torch.testing.assert_close(ddim_step(process, noisy, predicted, start, earlier), wanted, rtol=1e-5, atol=1e-5)


def test_at_timestep_0_the_answer_is_the_input_and_a_scale_of_1_is_no_guidance() -> None:
    zero, noisy = torch.tensor([0]), torch.randn(1, 4, 2, 2)
    assert [one.item() for one in boundary_scalings(zero)] == [1.0, 0.0]
    assert torch.equal(consistency(process_of("epsilon"), noisy, torch.randn(1, 4, 2, 2), zero), noisy)
    assert [one.tolist() for one in solver_timesteps(torch.tensor([0, 19, 999]), 1000)] == [[19, 19, 999], [0, 0, 979]]
    one, two = torch.randn(2, 1, 4, 2, 2)
    torch.testing.assert_close(guided(one, two, torch.tensor([1.0])), one)


def test_a_step_is_the_distance_to_what_the_student_answers_after_one_step_of_the_teacher(
    ready_workspace: Workspace, new_run: RunFactory, loud_controlnet: Path
) -> None:
    run = new_run(
        **LCM, **{"model.controlnet": str(loud_controlnet), "tuning.guidance_low": 2.0, "tuning.guidance_high": 6.0}
    )
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    train_step(state)  # so that the factors do something
    state.step_done()
    process, family, batch = state.noise_process, state.family, state.batches.get(1)
    assert isinstance(process, DiffusionNoise)
    latents = state.latent_space.sample(batch.mean, batch.logvar, batch.random.posterior)
    start, earlier = solver_timesteps(batch.random.uniform_timesteps, 1000)
    noisy = process.add_noise(latents, batch.random.noise, start)
    assert batch.maps is not None
    control = family.control_of(batch.maps)

    def predict(noisy: torch.Tensor, timesteps: torch.Tensor, text: dict[str, torch.Tensor]) -> torch.Tensor:
        given = family.conditioning(text, batch.sizes, torch.float32, batch.random.even, 0.0)
        return family.predict(state.denoiser, state.trainable.control_net, noisy, timesteps, given, control)

    with torch.no_grad():
        with state.trainable.untrained():
            with_prompt = predict(noisy, start, batch.text)
            without = predict(noisy, start, state.cache.text(["", ""]))
        scale = (2 + 4 * batch.random.even).reshape(-1, 1, 1, 1)
        teacher = without + scale * (with_prompt - without)
        nearer = ddim_step(process, noisy, teacher, start, earlier)
        target = consistency(process, nearer, predict(nearer, earlier, batch.text), earlier)
        answer = predict(noisy, start, batch.text)
        wanted = (consistency(process, noisy, answer, start) - target).square().mean()
        assert not torch.allclose(answer, with_prompt)
    loss = train_step(state)
    assert isinstance(loss, torch.Tensor) and loss.item() == pytest.approx(wanted.item(), rel=1e-4)
    trainer.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"train.steps": 2, "model.controlnet": "net"},
        pytest.param({"optim.ema_decay": 0.9, "train.precision": "bf16"}, marks=pytest.mark.long),
    ],
    ids=["under a ControlNet", "EMA as target, bf16"],
)
def test_a_paused_run_ends_as_a_straight_one(
    settings: dict[str, Any], ready_workspace: Workspace, new_run: RunFactory, loud_controlnet: Path
) -> None:
    net = {"model.controlnet": str(loud_controlnet)} if "model.controlnet" in settings else {}
    straight, paused = (new_run(**LCM | settings | net) for _ in range(2))
    train(ready_workspace, straight)
    assert train(ready_workspace, paused, {1: "pause"}).outcome == "paused"
    assert train(ready_workspace, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))


def test_previews_are_drawn_in_few_steps_and_compared_with_the_untrained_base(
    ready_workspace: Workspace, new_run: RunFactory, loud_controlnet: Path
) -> None:
    previews = {
        "train.steps": 2,
        "validation.every": 2,
        "validation.pictures": 2,
        "validation.sampling_steps": 3,
        "validation.probes": 0,
    }
    run = new_run(**LCM | previews | {"model.controlnet": str(loud_controlnet), "tuning.lcm_steps": 2})
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed" and trained.warnings == []
    untrained, last = run.previews()
    assert last.figures["gap_low"] <= last.figures["gap"] <= last.figures["gap_high"]
    assert last.figures["reference"] == pytest.approx(untrained.figures["reference"], abs=1e-6), "drawn once"
    verdict = verdict_of(run.history())
    assert verdict is not None and verdict.kind in ("as_good", "behind") and "2 steps" in verdict.sentence
    defaults = run_defaults(run.config)
    assert (defaults["sampler"], defaults["steps"], defaults["guidance"]) == ("lcm", 2, 1.0)
    checkpoint = run.checkpoints()[-1].folder
    assert (checkpoint / LORA).is_file() and not (checkpoint / "controlnet").exists()
    made = export(checkpoint, "single_file", run.exports, "fast", base=run.config.model.base)
    assert made.card is not None
    card = (made.card / "README.md").read_text(encoding="utf-8")
    hashed = checksum(loud_controlnet / WEIGHTS)[:10]
    assert "LCM sampler, 2 to 8 steps and CFG 1" in card
    assert f"under the ControlNet {loud_controlnet.name} (SHA-256 {hashed})" in card
    with safe_open(made.path, framework="pt") as file:
        assert hashed in file.metadata()["trained_under"]


def test_a_run_does_not_go_on_under_another_net_than_it_began_with(loud_controlnet: Path, tmp_path: Path) -> None:
    net, run = Path(shutil.copytree(loud_controlnet, tmp_path / "net")), tmp_path / "run"
    require_same_net(run, str(net))  # it begins
    for step, about in ((10, {}), (20, {"net": describe_net(str(net))})):
        lcm = {"steps": 4, "with_net": True} | about
        write_checkpoint(run / "checkpoints" / f"step-{step:06d}", loud_controlnet, step=step, lcm=lcm)
        require_same_net(run, str(net))
    weights = load_file(net / WEIGHTS)
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, net / WEIGHTS)
    with pytest.raises(UserError, match="cannot be resumed under net") as raised:
        require_same_net(run, str(net))
    assert about["net"]["sha256"][:10] in raised.value.why
    shutil.rmtree(run / "checkpoints" / "step-000020")
    require_same_net(run, str(net))  # a checkpoint of an earlier version does not say which net it was


def test_without_a_net_it_needs_no_maps_and_says_that_there_is_no_score(
    ready_workspace: Workspace, new_run: RunFactory
) -> None:
    previews = {"validation.every": 2, "validation.pictures": 1, "validation.sampling_steps": 2, "train.steps": 2}
    run = new_run(**LCM | previews)
    assert train(ready_workspace, run).warnings == []
    verdict = verdict_of(run.history())
    assert verdict is not None and "no score" in verdict.sentence


def test_the_demo_distils_at_all_timesteps_alike() -> None:
    """With mostly noisy ones, as its ControlNet has, the images lose contrast (docs/fewer-steps.md)."""
    config = resolve(*demo_preset().layers("sd1", "lcm"))[0]
    assert config.objective.timestep_sampling == "uniform"


def test_the_verdict_follows_the_interval() -> None:
    def of(gap: float, low: float, high: float) -> str:
        figures = {"gap": gap, "gap_low": low, "gap_high": high, "reference": 0.9}
        return judge_fewer_steps([(5, figures)], 2, 20, [5]).kind

    assert of(-0.01, -0.03, 0.01) == of(-0.02, -0.1, 0.04) == "as_good"
    assert of(-0.3, -0.4, -0.2) == "behind"
    assert judge_fewer_steps([], 2, 20).kind == "too_early"


def test_what_cannot_be_distilled_is_refused_in_words(workspace: Workspace, tiny_sd3: Path) -> None:
    asked = {"tuning": {"what": "lcm"}, "model": {"base": str(tiny_sd3)}}
    assert any("LCM sampler" in sentence for sentence in missing(workspace, parse(asked)))
    for wrong in ({"tuning": {"guidance_low": 8}}, {"model": {"control_lora_rank": 4}}):
        with pytest.raises(UserError):
            parse({"tuning": {"what": "lcm"} | wrong.get("tuning", {}), "model": wrong.get("model", {})})
