"""Runs that train a new word: only its vectors learn, they resume exactly, and their file says the same elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from engine.bases.merging import ready_base
from engine.data.token_cache import TokenCache
from engine.errors import UserError
from engine.estimate.memory import predict
from engine.export.out import export
from engine.families.embedding_files import parts_by_folder
from engine.families.registry import detect
from engine.families.text import TextOptions
from engine.jobs.control import Control
from engine.jobs.events import Message
from engine.nets.word_embedding import WordEmbedding
from engine.runs.run import Run, read_preview
from engine.runs.word_files import word_file
from engine.training.job import build_trainer
from engine.tuning.learned_text import tokenizer_of
from engine.workspace.paths import Workspace
from tests.compare_runs import assert_same_run
from tests.short_runs import train
from tests.teaching_runs import add_images
from tests.teaching_runs import run_of as run_that_teaches


@pytest.fixture
def images_only(workspace: Workspace, tmp_path: Path) -> Workspace:
    add_images(workspace, tmp_path / "images")
    return workspace


def run_of(workspace: Workspace, base: Path, **sections: Any) -> Run:
    tuning = {"what": "word", "word": "zrp", "begun_as": "red circle", "vectors": 3} | sections.pop("tuning", {})
    optim = {"learning_rate": 1e-2} | sections.pop("optim", {})
    return run_that_teaches(workspace, base, tuning=tuning, optim=optim, **sections)


def texts(base: str, prompts: list[str]) -> list[dict[str, torch.Tensor]]:
    """Embeddings as Try it makes them."""
    family = detect(base)
    encoder, tokenizer = family.load_text_encoder(base, torch.float32), family.load_tokenizer(base)
    with torch.no_grad():
        return [family.encode_text(tokenizer, encoder, [prompt]) for prompt in prompts]


def learned(workspace: Workspace, run: Run, prompts: list[str]) -> list[dict[str, torch.Tensor]]:
    """Embeddings as the run makes them now."""
    trainer = build_trainer(workspace, run, Control().token, lambda event: None)
    try:
        text = trainer.state.trainable.learned_text
        assert text is not None
        with torch.no_grad():
            return [text.encode(text.numbers_of(prompt)) for prompt in prompts]
    finally:
        trainer.close()


@pytest.mark.parametrize(
    "base",
    ["tiny_base", pytest.param("tiny_sd2", marks=pytest.mark.long), pytest.param("tiny_sdxl", marks=pytest.mark.long)],
)
def test_only_the_word_learns_and_its_file_says_the_same(
    base: str, images_only: Workspace, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(base)
    run = run_of(images_only, folder)
    trained = train(images_only, run)
    assert trained.outcome == "completed" and trained.warnings == []
    told = [message.text for message in trained.of(Message) if "zrp" in message.text]
    assert told == ["4 of 4 captions lack the word zrp; it is put in front."]
    prompts = ["noise", "", "a zrp with noise", "zrp"]
    before = texts(str(folder), prompts)
    now = learned(images_only, Run(run.folder), prompts)
    for place, (old, new) in enumerate(zip(before, now, strict=True)):
        assert all(torch.equal(old[name], new[name]) for name in old) == (place < 2), prompts[place]
    file = word_file(run.checkpoints()[-1].folder)
    merged = ready_base(images_only, f"{folder} + {file}")
    for from_run, from_file in zip(now, texts(merged, prompts), strict=True):
        assert all(torch.equal(from_run[name], from_file[name]) for name in from_run)
    with safe_open(file, "pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in list(opened.keys())}
    assert file.name == "zrp.safetensors" and {shape[0] for shape in shapes.values()} == {3}
    assert list(shapes) == (["clip_g", "clip_l"] if base == "tiny_sdxl" else ["emb_params"])


@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"precision": "bf16", "accumulation": 2}, "optim": {"ema_decay": 0.9}},
        pytest.param({"train": {"base_storage": "fp8", "precision": "bf16"}}, marks=pytest.mark.long),
        pytest.param({"optim": {"offload": True, "optimizer": "adafactor"}}, marks=pytest.mark.long),
        pytest.param({"train": {"gradient_checkpointing": "both"}}, marks=pytest.mark.long),
    ],
    ids=["bf16, EMA", "fp8", "in RAM, Adafactor", "checkpointing"],
)
def test_a_paused_run_ends_as_a_straight_one(settings: dict[str, Any], images_only: Workspace, tiny_base: Path) -> None:
    straight, paused = (run_of(images_only, tiny_base, **settings) for _ in range(2))
    train(images_only, straight)
    assert train(images_only, paused, {2: "pause"}).outcome == "paused"
    assert train(images_only, Run(paused.folder)).outcome == "completed"
    assert_same_run(straight, Run(paused.folder))
    averaged = "ema_decay" in settings.get("optim", {})
    assert word_file(Run(paused.folder).checkpoints()[-1].folder, average=True).is_file() == averaged


def test_previews_are_drawn_with_the_word_as_an_export_would_have_it(images_only: Workspace, tiny_base: Path) -> None:
    settings = {"every": 2, "pictures": 1, "sampling_steps": 2, "prompts": "zrp"}
    run = run_of(images_only, tiny_base, validation=settings, train={"steps": 2}, optim={"ema_decay": 0.9})
    assert train(images_only, run).warnings == []
    before, after = (read_preview(run.folder / "previews" / f"step-{step:06d}") for step in (0, 2))
    assert before is not None and after is not None
    first, last = (np.asarray(Image.open(one.pictures[0].parent / "p00.webp")) for one in (before, after))
    assert not np.array_equal(first, last)


@pytest.mark.parametrize("base", ["tiny_sd2", "tiny_sdxl"])
def test_the_pooled_text_is_read_at_the_end_token(
    base: str, images_only: Workspace, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Configs of real bases give 2 as the end token: transformers then reads at the largest number, a new word's."""
    folder = shutil.copytree(request.getfixturevalue(base), tmp_path / "base")
    for config in folder.glob("text_encoder*/config.json"):
        config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"eos_token_id": 2}), "utf-8")
    run = run_of(images_only, folder, train={"steps": 1})
    trainer = build_trainer(images_only, run, Control().token, lambda event: None)
    text = trainer.state.trainable.learned_text
    assert text is not None
    tokenizer, *_ = parts_by_folder(trainer.state.family, "tokenizer", text.tokenizer).values()
    for encoder in parts_by_folder(trainer.state.family, "text_encoder", text.encoder).values():
        embedding = encoder.get_input_embeddings()
        assert isinstance(embedding, WordEmbedding)
        numbers = text.numbers_of("zrp noise")["tokens_1"][:, 0]
        read = encoder(numbers)
        place = (numbers[0] == embedding.first + len(embedding.rows)).nonzero()
        assert place.numel() == 0 and numbers.max() >= embedding.first
        end = int((numbers[0] == tokenizer.eos_token_id).nonzero()[0])
        pooled = read.text_embeds if hasattr(read, "text_embeds") else read.pooler_output
        projected = read.last_hidden_state[:, end]
        if hasattr(read, "text_embeds"):
            projected = encoder.text_projection(projected)
        torch.testing.assert_close(pooled, projected)
    trainer.close()


def test_gradients_are_those_of_a_whole_embedding(images_only: Workspace, tiny_base: Path) -> None:
    """Against peft's way: the whole table is trainable, and only the new rows are looked at."""
    layer = torch.nn.Embedding(6, 4)
    whole = torch.nn.Embedding(6, 4, _weight=layer.weight.detach().clone())
    layer.__class__, layer.first = WordEmbedding, 4
    layer.rows = torch.nn.Parameter(whole.weight.detach()[4:].clone())
    numbers = torch.tensor([[0, 4, 5, 3], [4, 4, 1, 2]])
    weights = torch.randn(2, 4, 4)
    for one in (layer, whole):
        (one(numbers) * weights).sum().backward()
    assert torch.equal(layer(numbers), whole(numbers))
    assert whole.weight.grad is not None and layer.rows.grad is not None
    torch.testing.assert_close(layer.rows.grad, whole.weight.grad[4:])


def test_long_captions_are_read_as_the_cache_of_embeddings_reads_them(tiny_base: Path) -> None:
    family, base = detect(str(tiny_base)), str(tiny_base)
    tokenizer, encoder = family.load_tokenizer(base), family.load_text_encoder(base, torch.float32)
    captions = ["", "red circle", "red circle " * 20]
    cache = TokenCache(family, tokenizer, captions, TextOptions(whole=True))
    numbers = cache.read(captions)
    with torch.no_grad():
        read = family.encode_numbers(encoder, numbers)["hidden"]
        one = family.encode_long(tokenizer, encoder, captions[1:2], 1)["hidden"]
        long = family.encode_long(tokenizer, encoder, captions[2:], 2)["hidden"]
    torch.testing.assert_close(read[1:2], one.repeat(1, 2, 1))
    torch.testing.assert_close(read[2:], long)


@pytest.mark.parametrize("base", ["tiny_base", "tiny_sdxl"])
def test_the_export_is_called_like_the_word_and_read_back(
    base: str, images_only: Workspace, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(base)
    run = run_of(images_only, folder, train={"steps": 1})
    train(images_only, run)
    checkpoint = run.checkpoints()[-1].folder
    made = export(checkpoint, "single_file", run.exports, "any name", "fp32")
    assert made.path.name == "zrp.safetensors" and made.checked.endswith("Its name is the word, so keep it.")
    with safe_open(made.path, "pt") as opened:
        assert (opened.metadata() or {})["modelspec.trigger_phrase"] == "zrp"
    words = [
        texts(ready_base(images_only, f"{folder} + {file}"), ["a zrp"])[0]
        for file in (made.path, word_file(checkpoint))
    ]
    assert all(torch.equal(words[0][name], words[1][name]) for name in words[0])
    assert made.card is not None
    code = (made.card / "README.md").read_text(encoding="utf-8")
    assert ('vectors["clip_g"], token="zrp"' in code) == (base == "tiny_sdxl") and "| vectors | 3 |" in code
    with pytest.raises(UserError, match="A new word cannot be exported as"):
        export(checkpoint, "ldm", run.exports, "")


@pytest.mark.long
def test_diffusers_reads_the_files_of_xl_alike(images_only: Workspace, tiny_sdxl: Path) -> None:
    """One file for both text encoders; diffusers is told which vectors are whose."""
    run = run_of(images_only, tiny_sdxl, tuning={"vectors": 2}, train={"steps": 1})
    train(images_only, run)
    file, base = word_file(run.checkpoints()[-1].folder), str(tiny_sdxl)
    pipeline = StableDiffusionXLPipeline.from_pretrained(base)
    vectors = load_file(file)
    pipeline.load_textual_inversion(
        vectors["clip_l"], token="zrp", text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer
    )
    pipeline.load_textual_inversion(
        vectors["clip_g"], token="zrp", text_encoder=pipeline.text_encoder_2, tokenizer=pipeline.tokenizer_2
    )
    with torch.no_grad():
        hidden, _, pooled, _ = pipeline.encode_prompt("a zrp", device="cpu", do_classifier_free_guidance=False)
    (ours,) = texts(ready_base(images_only, f"{base} + {file}"), ["a zrp"])
    torch.testing.assert_close(hidden, ours["hidden"])
    torch.testing.assert_close(pooled, ours["pooled"])


def test_diffusers_reads_the_export_alike(images_only: Workspace, tiny_base: Path) -> None:
    run = run_of(images_only, tiny_base, tuning={"vectors": 1}, train={"steps": 1})
    train(images_only, run)
    file, base = word_file(run.checkpoints()[-1].folder), str(tiny_base)
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.load_textual_inversion(str(file), token="zrp")
    with torch.no_grad():
        theirs = pipeline.encode_prompt("a zrp", "cpu", 1, False)[0]
    ours = texts(ready_base(images_only, f"{base} + {file}"), ["a zrp"])[0]["hidden"]
    torch.testing.assert_close(theirs, ours)


@pytest.mark.parametrize(
    ("tuning", "sentence"),
    [
        ({"word": "circle"}, "circle is a word of the base already"),
        ({"word": ""}, "The new word has no name"),
        ({"begun_as": " "}, "The new word has nothing to begin as"),
        ({"begun_as": "..."}, "The new word has nothing to begin as"),
    ],
)
def test_what_is_no_new_word_is_refused(
    tuning: dict[str, Any], sentence: str, images_only: Workspace, tiny_base: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        run_of(images_only, tiny_base, tuning=tuning)


def test_other_refusals(images_only: Workspace, tiny_base: Path, tiny_sd3: Path) -> None:
    with pytest.raises(UserError, match="No new word can be trained for Stable Diffusion 3"):
        run_of(images_only, tiny_sd3)
    for word in ("two words", "Zrp", "-zrp", "zürp"):
        with pytest.raises(UserError, match="lower-case letters a to z"):
            run_of(images_only, tiny_base, tuning={"word": word})
    config = run_of(images_only, tiny_base, tuning={"word": "zrp"}).config
    taken = config.model_copy(update={"tuning": config.tuning.model_copy(update={"word": "circle"})})
    with pytest.raises(UserError, match="circle cannot be trained as a new word"):
        tokenizer_of(taken, detect(str(tiny_base)), str(tiny_base))


def test_captions_get_the_word_in_front_once(workspace: Workspace, tmp_path: Path, tiny_base: Path) -> None:
    add_images(workspace, tmp_path / "images", caption=["a ZRP here", "zrpx", "", "noise"].__getitem__)
    run = run_of(workspace, tiny_base, train={"steps": 1})
    trained = train(workspace, run)
    assert any("3 of 4 captions lack the word zrp" in message.text for message in trained.of(Message))
    trainer = build_trainer(workspace, Run(run.folder), Control().token, lambda event: None)
    captions = {sample.caption for sample in trainer.state.samples}
    trainer.close()
    assert captions == {"a ZRP here", "zrp, zrpx", "zrp", "zrp, noise"}


@pytest.mark.parametrize("base", ["tiny_base", "tiny_sdxl"])
def test_memory_is_predicted(base: str, images_only: Workspace, request: pytest.FixtureRequest) -> None:
    run = run_of(images_only, request.getfixturevalue(base), train={"precision": "bf16"}, optim={"ema_decay": 0.9})
    predicted = predict(images_only, run.config, images=4).training
    trainer = build_trainer(images_only, run, Control().token, lambda event: None)
    trainable = trainer.state.trainable
    assert trainable.learned_text is not None
    encoders = sum(parameter.nbytes for parameter in trainable.learned_text.encoder.parameters())
    trained = sum(parameter.nbytes for parameter in trainable.parameters())
    trainer.close()
    assert predicted["trained weights"] == predicted["EMA"] == trained
    assert predicted["optimizer"] == 2 * trained and predicted["their compute copy"] == trained / 2
    assert 0.7 < predicted["text encoder"] / encoders <= 1.05
