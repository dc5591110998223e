"""Captions of any length in training, and clip skip: the same step as in plain diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from engine.data import caption_edits
from engine.data.dataset import Dataset
from engine.evaluation.loaded import load_models
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.inference.settings import run_defaults
from engine.jobs.control import Control
from engine.jobs.events import Message
from engine.runs.run import Run, write_run
from engine.training.job import build_trainer
from engine.training.previews import DrawPreviews
from engine.workspace.paths import Workspace
from tests.compare_runs import step_gradients
from tests.short_runs import RunFactory, train

LONG = ", ".join(f"red circle {number} on blue" for number in range(40))
"""More tokens than fit into two chunks."""


@pytest.fixture
def dataset(ready_workspace: Workspace) -> Dataset:
    """Two of three images have a long caption."""
    dataset = Dataset.open(ready_workspace.dataset_folder("pairs"))
    long = [sample.key for number, sample in enumerate(dataset.samples()) if number % 3]
    caption_edits.set_captions(dataset, {key: f"{key} {LONG}" for key in long})
    return dataset


def chunks_of(tokenizer: Any, caption: str, count: int) -> list[torch.Tensor]:
    """The token numbers of each chunk, made as A1111 does: start, up to 75 tokens (here 30), end, padding."""
    inner, length = tokenizer(caption, truncation=False, verbose=False).input_ids[1:-1], tokenizer.model_max_length
    parts = [inner[(length - 2) * n : (length - 2) * (n + 1)] for n in range(count)]
    rows = [[tokenizer.bos_token_id, *part, tokenizer.eos_token_id] for part in parts]
    return [torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row))]) for row in rows]


def plain_text(pipe: Any, caption: str, chunks: int, layer: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states of the ``layer``-th layer from the end, and XL's pooled text, with transformers alone."""
    if not hasattr(pipe, "text_encoder_2"):
        hidden = []
        for numbers in chunks_of(pipe.tokenizer, caption, chunks):
            states = pipe.text_encoder(numbers, output_hidden_states=True).hidden_states
            hidden.append(pipe.text_encoder.final_layer_norm(states[-layer]))
        return torch.cat(hidden, dim=1), None
    both, pooled, encoders = [], None, (pipe.text_encoder, pipe.text_encoder_2)
    for first, second in zip(*(chunks_of(t, caption, chunks) for t in (pipe.tokenizer, pipe.tokenizer_2)), strict=True):
        one, two = (e(n, output_hidden_states=True) for e, n in zip(encoders, (first, second), strict=True))
        both.append(torch.cat([one.hidden_states[-layer], two.hidden_states[-layer]], dim=-1))
        pooled = two.text_embeds if pooled is None else pooled
    return torch.cat(both, dim=1), pooled


@pytest.mark.parametrize(("any_base", "clip_skip"), [("tiny_base", 2), ("tiny_sdxl", 1)], indirect=["any_base"])
def test_the_step_with_long_captions_equals_a_plain_diffusers_step(
    new_run: RunFactory, ready_workspace: Workspace, dataset: Dataset, any_base: Path, clip_skip: int
) -> None:
    """Loss and every gradient to 1e-5. diffusers reads each image alone, with a short caption in one chunk."""
    settings = {"model.base": str(any_base), "model.clip_skip": clip_skip, "objective.prompt_dropout": 0.3}
    run = new_run(**settings, **{"train.batch_size": 4, "optim.max_grad_norm": 1e9})
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    state = trainer.state
    net = state.trainable.master
    with torch.no_grad():
        for index, parameter in enumerate(net.parameters()):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    state.trainable.weights.refresh()
    batch = state.batches.get(0)
    samples = [state.samples[row] for row, _ in state.batches.order.batch(0)]
    loss, ours = step_gradients(state)

    pipe = DiffusionPipeline.from_pretrained(any_base)
    draws, losses, lengths = batch.random, [], set()
    assert batch.text["hidden"].shape[1] == 3 * pipe.tokenizer.model_max_length
    for n, sample in enumerate(samples):
        caption = "" if draws.hide_prompt[n] else sample.caption
        chunks = 3 if len(caption) > 200 else 1
        lengths.add(chunks)
        with torch.no_grad():
            hidden, pooled = plain_text(pipe, caption, chunks, 2)
            image = torch.from_numpy(np.array(Image.open(sample.image).convert("RGB"))).permute(2, 0, 1)[None]
            posterior = pipe.vae.encode(image / 127.5 - 1).latent_dist
        mean, logvar, hidden = (tensor.half().float() for tensor in (posterior.mean, posterior.logvar, hidden))
        latents = (mean + torch.exp(0.5 * logvar) * draws.posterior[n]) * pipe.vae.config.scaling_factor
        t = draws.uniform_timesteps[n : n + 1]
        noisy = pipe.scheduler.add_noise(latents, draws.noise[n][None], t)
        named: dict[str, Any] = {"encoder_hidden_states": hidden}
        if pooled is not None:
            whole_image = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
            named["added_cond_kwargs"] = {"text_embeds": pooled.half().float(), "time_ids": whole_image}
        control = torch.from_numpy(np.array(Image.open(sample.condition).convert("RGB")))
        hint = control.permute(2, 0, 1)[None].float() / 255
        down, middle = net(noisy, t, controlnet_cond=hint, return_dict=False, **named)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        predicted = pipe.unet(noisy, t, **residuals, **named).sample
        losses.append((predicted - draws.noise[n]).square().mean())
    plain = torch.stack(losses).mean()
    plain.backward()
    assert lengths == {1, 3}
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    for name, parameter in net.named_parameters():
        assert torch.allclose(ours[name], parameter.grad, rtol=1e-5, atol=1e-6), name

    # The user's own prompts of the previews are read from the same layer, and in as many chunks as they fill.
    short, long = DrawPreviews().encode(state, ["another prompt", f"another prompt, {LONG[:150]}"])
    with torch.no_grad():
        for text, prompt, chunks in ((short, "another prompt", 1), (long, f"another prompt, {LONG[:150]}", 2)):
            wanted = plain_text(pipe, prompt, chunks, 2)[0][0]
            assert text["hidden"].shape == wanted.shape and torch.allclose(text["hidden"], wanted, atol=1e-5)
    trainer.close()


def test_previews_are_drawn_with_long_captions_and_other_prompts(
    new_run: RunFactory, ready_workspace: Workspace, dataset: Dataset, edges: Image.Image
) -> None:
    run = new_run(
        **{
            "model.clip_skip": 2,
            "train.steps": 2,
            "validation.every": 2,
            "validation.pictures": 2,
            "validation.sampling_steps": 1,
            "validation.prompts": "a short one\n" + LONG,
        }
    )
    trained = train(ready_workspace, run)
    assert trained.outcome == "completed" and not trained.warnings
    (note,) = [message.text for message in trained.of(Message) if message.text.startswith("Captions")]
    assert note.startswith("Captions longer than the base reads at once: 8. They are read in up to 3 chunks. In 8 of")

    # What draws afterwards reads prompts in the same way: the evaluation always, Try it as its form says.
    checkpoint, base = run.checkpoints()[-1], run.config.model.base
    read = load_models(ready_workspace, run, checkpoint).text
    assert (read.clip_skip, read.whole) == (2, True)
    asked = {**run_defaults(run.config), "steps": 1, "base": base, "controlnet": checkpoint.folder, "control": edges}
    assert asked["clip_skip"] == 2
    session = TrySession(ready_workspace, device="cpu")
    requests = [TryRequest(**{**asked, "prompt": "red circle", "clip_skip": layer}) for layer in (1, 2)]
    first, second = (np.asarray(image) for image in session.generate(requests))
    assert (first != second).any(), "they are not drawn in one batch"


def test_a_run_of_an_earlier_version_cuts_them_as_before(
    new_run: RunFactory, ready_workspace: Workspace, dataset: Dataset
) -> None:
    run = new_run()
    assert run.config.data.long_captions == "whole"
    del run.about["config"]["data"]["long_captions"], run.about["config"]["model"]["clip_skip"]
    write_run(run.folder, run.about)
    run = Run(run.folder)
    assert run.config.data.long_captions == "cut" and run.config.model.clip_skip == 1
    assert json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["config"]["data"].keys() >= {"resolution"}
    trainer = build_trainer(ready_workspace, run, Control().token, lambda event: None)
    assert trainer.state.batches.get(0).text["hidden"].shape[1] == 32, "one chunk of this tokenizer"
    trainer.close()
