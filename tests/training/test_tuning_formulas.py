"""Formulas and choices of runs that teach the base, each against its definition, without a training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.bases.merged_tensors import changed
from engine.config import parse
from engine.export import adapter_file, trained_parts
from engine.families.embedding_files import add_word
from engine.families.registry import detect
from engine.families.text_names import text_layer_name
from engine.families.weight_delta import LowRank
from engine.tuning.base_lora import BaseLora
from engine.tuning.svdiff import AVERAGED_SHIFTS, SHIFTS
from engine.tuning.textual_inversion import vectors_of_words
from engine.tuning.trainable import Placement
from engine.workspace.base_reference import key_of
from tests.teaching_runs import outputs


def test_changes_are_added_up_in_the_order_of_the_files() -> None:
    """In fp32 (1 + 1e8) - 1e8 is 0, and (1e8 - 1e8) + 1 is 1."""
    plus, minus, one = (LowRank(torch.tensor([[value]]), None, None, 1.0) for value in (1e8, -1e8, 1.0))
    stored = torch.zeros(1, 1)
    assert changed("layer", stored, [(1.0, plus), (1.0, minus), (1.0, one)]).item() == 1.0
    assert changed("layer", stored, [(1.0, one), (1.0, plus), (1.0, minus)]).item() == 0.0


def test_the_sum_of_changes_is_rounded_once() -> None:
    """bfloat16 stores 1 and 1.0078: 0.003 alone is rounded off, twice 0.003 is not."""
    small = LowRank(torch.tensor([[0.003]]), None, None, 1.0)
    stored = torch.ones(1, 1, dtype=torch.bfloat16)
    assert changed("layer", stored, [(1.0, small)]).item() == 1.0
    assert changed("layer", stored, [(1.0, small), (1.0, small)]).item() == 1.0078125


def test_the_order_of_files_is_part_of_a_merged_bases_identity() -> None:
    files = [("a", 1.0), ("b", 0.5)]
    assert key_of("base", files) == key_of("base", files) != key_of("base", files[::-1])


def test_layers_of_text_encoders_have_the_names_of_kohyas_files(tiny_base: Path, tiny_sdxl: Path) -> None:
    layer = "encoder.layers.0.mlp.fc1"
    flat = "text_model_encoder_layers_0_mlp_fc1"
    encoder: Any = detect(str(tiny_base)).load_text_encoder(str(tiny_base), torch.float32)
    assert text_layer_name(encoder, "text_encoder", 1, layer) == f"lora_te_{flat}"
    two: Any = detect(str(tiny_sdxl)).load_text_encoder(str(tiny_sdxl), torch.float32)
    for number, (part, one) in enumerate(zip(("text_encoder", "text_encoder_2"), two.children(), strict=True), 1):
        assert text_layer_name(one, part, 2, layer) == f"lora_te{number}_{flat}"


def test_a_new_word_takes_the_vectors_of_its_words_in_turn(tiny_base: Path) -> None:
    family = detect(str(tiny_base))
    encoder: Any = family.load_text_encoder(str(tiny_base), torch.float32)
    tokenizer = family.load_tokenizer(str(tiny_base))
    red, circle = tokenizer("red circle", add_special_tokens=False).input_ids
    known = encoder.get_input_embeddings().weight
    found = vectors_of_words(tokenizer, encoder, "red circle", 3)
    assert torch.equal(found, known[[red, circle, red]])


def test_a_stored_text_encoder_is_read_at_the_end_token_and_not_at_a_new_word(tiny_base: Path, tmp_path: Path) -> None:
    """Configs with the end token 2 make transformers read the pooled text at the largest token, the new word's."""
    family = detect(str(tiny_base))
    encoder: Any = family.load_text_encoder(str(tiny_base), torch.float32)
    tokenizer = family.load_tokenizer(str(tiny_base))
    encoder.config.eos_token_id = 2
    add_word(tokenizer, encoder, "zrp", torch.ones(1, encoder.get_input_embeddings().weight.shape[1]))
    encoder.save_pretrained(tmp_path)
    numbers = torch.tensor(tokenizer(["red zrp circle"], padding="max_length").input_ids)
    read = type(encoder).from_pretrained(tmp_path).eval()(numbers)
    end = numbers[0].tolist().index(tokenizer.eos_token_id)
    torch.testing.assert_close(read.pooler_output[0], read.last_hidden_state[0, end])


@pytest.mark.parametrize("weights", [None, "ema", "plain"])
def test_exports_have_the_average_unless_asked_otherwise(
    weights: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_file, "require_intact", lambda folder, name: None)
    plain, averaged = tmp_path / "plain.safetensors", tmp_path / "averaged.safetensors"
    for value, path in enumerate((plain, averaged)):
        save_file({"up": torch.full((1,), float(value))}, path)
    checkpoint: Any = SimpleNamespace(folder=tmp_path, has_ema=True)
    found = adapter_file.trained_tensors(checkpoint, plain, averaged, weights, "fp32")
    assert found["up"].item() == (0.0 if weights == "plain" else 1.0)


@pytest.mark.parametrize("weights", ["ema", "plain"])
def test_exports_of_singular_values_have_the_weights_that_were_asked_for(
    weights: str, tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trained_parts, "require_intact", lambda folder, name: None)
    (tmp_path / SHIFTS).parent.mkdir()
    family = detect(str(tiny_base))
    own = family.load_denoiser(str(tiny_base), torch.float32).state_dict()
    layer = next(name for name in own if name.endswith("attn1.to_q.weight"))
    side = min(own[layer].shape)
    for path, shift in ((SHIFTS, 0.0), (AVERAGED_SHIFTS, 0.5)):
        save_file({f"{layer.removesuffix('.weight')}.shift": torch.full((side,), shift)}, tmp_path / path)
    checkpoint: Any = SimpleNamespace(folder=tmp_path, about={"svdiff": {"dtype": "float32"}})
    found = trained_parts.trained_parts(checkpoint, weights, family, str(tiny_base), None)["unet"][layer]
    assert torch.equal(found, own[layer]) is (weights == "plain")


def test_the_untrained_base_is_the_base_whatever_was_trained(tiny_base: Path) -> None:
    family = detect(str(tiny_base))
    denoiser: Any = family.load_denoiser(str(tiny_base), torch.float32)
    before = outputs(tiny_base, denoiser)
    config = parse({"tuning": {"what": "lora", "rank": 2}, "model": {"base": str(tiny_base)}})
    lora = BaseLora(denoiser, Placement(torch.device("cpu"), torch.float32), config, family)
    with torch.no_grad():
        for factor in lora.master.parameters():
            factor.fill_(0.05)
    assert not torch.equal(outputs(tiny_base, denoiser), before)
    with lora.untrained():
        assert torch.equal(outputs(tiny_base, denoiser), before)
    assert not torch.equal(outputs(tiny_base, denoiser), before), "and trained again afterwards"
