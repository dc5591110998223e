"""Control-LoRA: smaller with a lower rank, nearer with a higher one, whole again with its base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from engine.errors import UserError
from engine.export import control_lora, export
from engine.families.layers import UNET
from engine.families.registry import detect
from engine.nets.importing import copied_weights, read_controlnet
from engine.nets.low_rank_math import factorize
from tests.checkpoint_folder import write_checkpoint

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def taught(loud_controlnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose trunk moved away from its base, as training moves it: most of it in few directions."""
    folder = write_checkpoint(tmp_path / "step-000500", loud_controlnet, has_ema=False)
    weights = load_file(folder / "controlnet" / WEIGHTS)
    generator = torch.Generator().manual_seed(3)
    for name, weight in weights.items():
        if name.startswith(UNET.copied) and weight.ndim > 1:
            flat = weight.flatten(1)
            few = torch.randn(flat.shape[0], 4, generator=generator) @ torch.randn(
                4, flat.shape[1], generator=generator
            )
            many = torch.randn(flat.shape, generator=generator)
            weight += (0.02 * few + 0.01 * many).reshape(weight.shape)
    save_file(weights, folder / "controlnet" / WEIGHTS, metadata={"format": "pt"})
    monkeypatch.setattr(control_lora, "RANKS", (2, 256))  # the net is so small that nothing shrinks at rank 32
    return folder


def test_the_product_is_the_nearest_of_its_rank() -> None:
    """Eckart and Young: the rest is what the dropped singular values hold, by either way of finding them."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((60, 90), (400, 700)):
        matrix = torch.randn(shape, generator=generator) * torch.linspace(3, 0.01, shape[1])
        up, down = factorize(matrix, 32)
        assert (up.shape, down.shape) == ((shape[0], 32), (32, shape[1]))
        best = torch.linalg.svdvals(matrix)[32:].square().sum().sqrt()
        assert (matrix - up @ down).norm() <= 1.01 * best


def test_the_factorising_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    factorize(torch.ones(600, 600), 32)
    assert torch.equal(torch.rand(3), expected)


def test_names_marker_and_facts(taught: Path, tiny_base: Path, tmp_path: Path) -> None:
    made = export(taught, "control_lora", tmp_path / "out", "mine", base=str(tiny_base), rank=4)
    tensors = load_file(made.path)
    assert "lora_controlnet" in tensors and "difference" not in tensors
    whole = {name for name in tensors if not name.endswith((".up", ".down"))}
    assert {"input_hint_block.0.weight", "zero_convs.0.0.weight", "middle_block_out.0.weight"} <= whole
    assert "input_blocks.1.0.in_layers.0.weight" in whole and "input_blocks.1.0.in_layers.2.bias" in whole
    factors = {name: tensor for name, tensor in tensors.items() if name not in whole}
    assert factors
    linear = [tensor for name, tensor in factors.items() if "attn" in name]
    assert all(tensor.ndim == 2 for tensor in linear)
    assert all(f"{name.rpartition('.')[0]}.weight" not in tensors for name in factors)
    with safe_open(made.path, framework="pt") as file:
        facts = file.metadata()
    assert facts["control_lora_rank"] == "4" and 0 < float(facts["approximation_error"]) < 1
    assert f"{float(facts['approximation_error']):.1%} of what was learned" in made.checked
    assert "a Control-LoRA" in made.checked and "draws" in made.checked


def test_a_higher_rank_is_larger_and_nearer(taught: Path, tiny_base: Path) -> None:
    weights = load_file(taught / "controlnet" / WEIGHTS)
    trunk = copied_weights(detect(str(tiny_base)), str(tiny_base))
    made = [control_lora.factorize(weights, trunk, rank, torch.float16) for rank in (2, 4, 8)]
    assert [m.error for m in made] == sorted((m.error for m in made), reverse=True)
    sizes = [sum(tensor.numel() for tensor in m.tensors.values()) for m in made]
    assert sizes == sorted(sizes) and sizes[-1] < sum(tensor.numel() for tensor in weights.values())
    assert made[1].error < 0.5 * made[0].error  # four directions were taught


def test_back_again_with_its_base(taught: Path, tiny_base: Path, tmp_path: Path) -> None:
    made = export(taught, "control_lora", tmp_path / "out", "mine", "fp32", base=str(tiny_base), rank=4)
    found = read_controlnet(made.path, detect(str(tiny_base)), str(tiny_base))
    original = load_file(taught / "controlnet" / WEIGHTS)
    assert found.format == "control_lora" and found.tensors.keys() == original.keys()
    error = float(found.metadata["approximation_error"])
    lost = sum(float((found.tensors[name] - weight).square().sum()) for name, weight in original.items())
    trunk = detect(str(tiny_base)).load_denoiser(str(tiny_base), torch.float32).state_dict()
    taught_much = sum(float((w - trunk[n]).square().sum()) for n, w in original.items() if n in trunk)
    assert (lost / taught_much) ** 0.5 <= error + 1e-3
    assert torch.equal(found.tensors["controlnet_mid_block.weight"], original["controlnet_mid_block.weight"])


def test_without_its_base_or_with_an_odd_rank(taught: Path, tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(UserError, match=r"Control-LoRA cannot be made.*base my-base"):
        export(taught, "control_lora", tmp_path / "out", "mine")
    with pytest.raises(UserError, match="rank 1 is not offered"):
        export(taught, "control_lora", tmp_path / "out", "mine", base=str(tiny_base), rank=1)
    assert not (tmp_path / "out").exists()
