"""What stands in for weights, batches and 4 bits when memory is counted at real shapes (benchmarks/shapes.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.simulated_card import CARD, Counter, counting
from engine.families.files import LAYOUTS
from engine.families.parts import load_part
from engine.families.positions import positions_in_ram
from engine.families.sizes import NF4_BLOCK
from engine.training.batches import Batch
from engine.training.randomness import BatchRandomness
from engine.training.state import TrainState
from engine.tuning.facts import facts_of
from engine.tuning.learned_text import LearnedText

TOKENS = 77  # of a prompt that CLIP reads
TEXTS: dict[str, dict[str, tuple[int, ...]]] = {
    "sd3": {"hidden": (333, 4096), "pooled": (2048,)},
    "flux": {"hidden": (512, 4096), "pooled": (768,)},
    "zimage": {"hidden": (512, 2560), "real": (512,)},
}
"""Shapes of a caption, encoded; of Z-Image the longest that is read."""
LOADERS = ("base", "sdxl", "stable_diffusion", "transformer", "sd3", "flux", "zimage")
"""Modules of engine/families that load parts of a base."""


def tokens_of_zeros(text: LearnedText, count: int) -> dict[str, torch.Tensor]:
    """Captions for text encoders that are trained: token numbers, as ``LearnedText.encode`` reads them."""
    return {f"tokens_{n}": torch.zeros(count, 1, TOKENS, dtype=torch.long) for n, _ in enumerate(text.parts(), 1)}


def text_of_zeros(state: TrainState, count: int) -> dict[str, torch.Tensor]:
    """Encoded captions."""
    shapes = TEXTS.get(state.family.name)
    if shapes is None:
        config = state.denoiser.config
        shapes = {"hidden": (TOKENS, config.cross_attention_dim)}
        if config.addition_embed_type:
            shapes["pooled"] = (config.projection_class_embeddings_input_dim - 6 * 256,)
    return {name: torch.zeros(count, *shape) for name, shape in shapes.items()}


def control_of_zeros(state: TrainState, count: int) -> torch.Tensor:
    """Control images as a batch has them."""
    side, facts = state.config.data.resolution, state.family.facts
    if facts.control_is_encoded:
        return torch.zeros(count, *facts.latents.shape(side, side))
    return torch.zeros(count, side, side, 3, dtype=torch.uint8)


def batch_of_zeros(state: TrainState) -> Batch:
    count, side = state.config.train.batch_size, state.config.data.resolution
    latents = torch.zeros(count, *state.family.latents.shape(side, side))
    draws = BatchRandomness(
        noise=latents.clone(),
        posterior=latents.clone(),
        uniform_timesteps=torch.zeros(count, dtype=torch.long),
        hide_prompt=torch.zeros(count, dtype=torch.bool),
        offset=torch.zeros(count, latents.shape[1], 1, 1),
        perturbation=torch.zeros(count, 1, 1, 1),
        even=torch.zeros(count),
    )
    maps = control_of_zeros(state, count) if facts_of(state.config).needs_condition_maps else None
    learned = state.trainable.learned_text
    text = text_of_zeros(state, count) if learned is None else tokens_of_zeros(learned, count)
    return Batch(latents, latents.clone(), text, maps, draws, torch.zeros(count, 6), torch.ones(count))


@contextmanager
def simulated_bases(uses_ram: bool) -> Iterator[Counter]:
    """Count on the simulated card, and build bases from their configs instead of loading weights.

    Args:
        uses_ram: some tensors stay in RAM.
    """
    with ExitStack() as stack:
        for module in LOADERS:
            stack.enter_context(patch(f"engine.families.{module}.load_part", _from_config))
        for kind in ("stable_diffusion.StableDiffusion", "sdxl.StableDiffusionXL"):  # there are no vocabularies here
            stack.enter_context(patch(f"engine.families.{kind}.load_tokenizer", lambda family, base: None))
        numbers = "engine.tuning.learned_text.LearnedText.numbers_of"
        stack.enter_context(patch(numbers, lambda text, prompt: tokens_of_zeros(text, 1)))
        stack.enter_context(patch("engine.families.sd3.positions_in_ram", _positions_in_ram))
        stack.enter_context(patch("engine.nets.weight_quantization.bitsandbytes_functional", lambda: FOUR_BITS))
        stack.enter_context(patch("engine.families.zimage.cut", lambda text: list(text["hidden"])))  # reads lengths
        yield stack.enter_context(counting(uses_ram))


def _from_config(kind: Any, base: str, subfolder: str, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return load_part(kind, base, subfolder, dtype)
    path = LAYOUTS / Path(base).name / subfolder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # The denoiser is built on the card: what loading needs in RAM is not counted.
    with CARD if subfolder in ("unet", "transformer") else nullcontext():
        net = kind.from_config(config) if hasattr(kind, "from_config") else kind(kind.config_class(**config))
    return torch.nn.Module.to(net, dtype)


def _positions_in_ram(net: Any) -> Any:
    """Nets are built on the card here, otherwise in RAM, where this table stays."""
    embedder = positions_in_ram(net).pos_embed
    embedder.pos_embed = torch.empty(embedder.pos_embed.shape, dtype=embedder.pos_embed.dtype, device="cpu")
    return net


# bitsandbytes.functional, as far as engine/nets/weight_quantization.py uses it: shapes and dtypes are those of its
# own tensors.


class _State:
    def __init__(self, absmax: torch.Tensor, *_: Any) -> None:
        self.absmax, self.dtype = absmax, _[-1] if _ else None


def _quantize_4bit(flat: torch.Tensor, **_: Any) -> tuple[torch.Tensor, _State]:
    small = torch.empty((flat.numel() // 2, 1), dtype=torch.uint8, device=flat.device)
    return small, _State(torch.empty(-(-flat.numel() // NF4_BLOCK), device=flat.device))


def _dequantize_4bit(small: torch.Tensor, state: _State) -> torch.Tensor:
    return torch.empty((1, 2 * small.numel()), dtype=state.dtype, device=small.device)


FOUR_BITS = SimpleNamespace(quantize_4bit=_quantize_4bit, dequantize_4bit=_dequantize_4bit, QuantState=_State)
