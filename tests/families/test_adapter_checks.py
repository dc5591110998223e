"""LoRA and embedding files that no base can use are refused in words, before anything is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import UserError
from engine.families.adapter_kinds import why_unfit
from engine.families.embedding_files import vectors_of
from engine.families.facts import SD1, SDXL
from engine.families.lora_files import AdapterFile, lora_deltas, open_adapter

LAYER = "down_blocks.0.attentions.0.to_k"
SHAPES = {"unet": {f"{LAYER}.weight": torch.Size((6, 8)), "conv_in.weight": torch.Size((6, 4, 3, 3))}}
KOHYA = "lora_unet_" + LAYER.replace(".", "_")
UP, DOWN, ALPHA = (f"{KOHYA}.{end}" for end in ("lora_up.weight", "lora_down.weight", "alpha"))
GOOD = {UP: torch.ones(6, 2), DOWN: torch.ones(2, 8), ALPHA: torch.tensor(2.0)}
NAN = torch.full((6, 2), float("nan"))
CONV = "lora_unet_conv_in"


class Executes:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def hada(*shapes: tuple[int, int]) -> dict[str, torch.Tensor]:
    names = ("w1_a", "w1_b", "w2_a", "w2_b")
    return {f"{KOHYA}.hada_{name}": torch.ones(shape) for name, shape in zip(names, shapes, strict=False)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (GOOD | {UP: torch.ones(6, 0), DOWN: torch.ones(0, 8)}, "rank 0"),
        (GOOD | {UP: NAN}, "not numbers"),
        (GOOD | {ALPHA: torch.tensor(float("inf"))}, "not numbers"),
        (GOOD | {ALPHA: torch.tensor(0.0)}, "alpha is 0"),
        (GOOD | {ALPHA: torch.ones(2)}, "should be one number"),
        ({UP: GOOD[UP]}, "has up, but not down"),
        ({DOWN: GOOD[DOWN]}, "has down, but not up"),
        ({ALPHA: GOOD[ALPHA]}, "no weights for any layer"),
        (GOOD | {DOWN: torch.ones(3, 8)}, LAYER),
        (GOOD | {DOWN: torch.ones(8)}, LAYER),
        (GOOD | {DOWN: torch.tensor(1.0)}, LAYER),
        (GOOD | {f"unet.{LAYER}.lora_A.weight": GOOD[DOWN]}, "twice"),
        ({f"{KOHYA}.diff": torch.ones(8, 6)}, LAYER),
        (hada((6, 2), (2, 8), (6, 2), (3, 8)), LAYER),
        (hada((6, 2), (2, 8)), "hada_w1_a, but not hada_w2_a"),
        ({f"{KOHYA}.lokr_w1": torch.ones(2), f"{KOHYA}.lokr_w2": torch.ones(3)}, LAYER),
        (
            {
                f"{CONV}.lora_up.weight": torch.ones(6, 2, 1, 1),
                f"{CONV}.lora_down.weight": torch.ones(2, 4, 1, 1),
                f"{CONV}.lora_mid.weight": torch.ones(3, 3, 3, 3),
            },
            "conv_in",
        ),
    ],
)
def test_files_of_no_use_are_refused(tensors: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(UserError) as error:
        lora_deltas(AdapterFile(Path("style.safetensors"), tensors, {}), SHAPES, SD1)
    assert words in error.value.why and "style.safetensors" in error.value.what and error.value.try_this


def test_a_good_file_passes_and_may_have_layers_of_two_programs() -> None:
    conv = {"unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3), "unet.conv_in.lora_B.weight": torch.ones(6, 2, 1, 1)}
    found = lora_deltas(AdapterFile(Path("a"), GOOD | conv, {}), SHAPES, SD1)["unet"]
    assert found.keys() == {f"{LAYER}.weight", "conv_in.weight"}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"emb_params": torch.zeros(0, 768)}, "without vectors"),
        ({"emb_params": torch.full((1, 768), float("nan"))}, "not numbers"),
        ({"emb_params": torch.zeros(1, 1024)}, "Its vectors are 1024 numbers wide"),
        ({"nonsense": torch.zeros(2)}, "If it is an embedding, its vectors (nonsense) are 2 numbers wide"),
    ],
)
def test_embeddings_of_no_use_are_refused(tensors: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(UserError) as error:
        vectors_of(AdapterFile(Path("word.safetensors"), tensors, {}), [768], SD1.title)
    assert words in error.value.why


def test_an_embedding_of_another_width_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "word.safetensors"
    save_file({"clip_l": torch.zeros(1, 768), "clip_g": torch.zeros(1, 1280)}, path)
    assert "made for Stable Diffusion XL, and the base is Stable Diffusion 1.x" in why_unfit(path, SD1)
    assert why_unfit(path, SDXL) == ""


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(3), None])
def test_old_files_with_code_or_without_tensors_are_refused(value: Any, tmp_path: Path) -> None:
    path, mark = tmp_path / "old.pt", tmp_path / "executed"
    torch.save({"string_to_param": {"*": torch.zeros(1, 8)}, "more": Executes(mark)} if value is None else value, path)
    with pytest.raises(UserError, match="old.pt") as error:
        open_adapter(path)
    assert not mark.exists() and (value is not None or "program code" in error.value.why)
