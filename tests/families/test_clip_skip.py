"""Clip skip counts the text encoder's layers as AUTOMATIC1111 does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPTextModel

from engine.errors import UserError
from engine.families.registry import detect

LAYERS = 2
"""Layers of the tiny bases' text encoders."""


def read(base: Path, clip_skip: int) -> torch.Tensor:
    family = detect(str(base))
    tokenizer, encoder = family.load_tokenizer(str(base)), family.load_text_encoder(str(base), torch.float32)
    with torch.no_grad():
        long = family.encode_long(tokenizer, encoder, ["red circle"], 2, clip_skip)["hidden"]
        short = family.encode_text(tokenizer, encoder, ["red circle"], clip_skip=clip_skip)["hidden"]
    assert torch.equal(long[:, : short.shape[1]], short)
    return short


def without_last_layer(base: Path) -> torch.Tensor:
    family = detect(str(base))
    encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder", num_hidden_layers=LAYERS - 1)
    tokens = family.load_tokenizer(str(base))(["red circle"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        return encoder(tokens).last_hidden_state


@pytest.mark.parametrize(
    ("any_base", "usual", "most"),
    [("tiny_base", 1, LAYERS), ("tiny_sd2", 2, LAYERS + 1), ("tiny_sdxl", 2, LAYERS)],
    indirect=["any_base"],
)
def test_the_layer_is_counted_from_the_last(any_base: Path, usual: int, most: int) -> None:
    """Folders of SD 2 leave out the last layer, which no program reads; XL reads the last but one of all."""
    plain = read(any_base, 1)
    assert torch.equal(read(any_base, usual), plain), "the family's own layer"
    if usual < most:
        skipped = read(any_base, usual + 1)
        assert torch.equal(skipped, without_last_layer(any_base)) and not torch.equal(skipped, plain)
    with pytest.raises(UserError, match=f"Clip skip {most + 1} .* has {most} layers"):
        read(any_base, most + 1)
