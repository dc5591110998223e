"""Predictions against counted bytes: parameters and optimizers exactly, activations as autograd keeps them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from engine.config import OptimConfig, RunConfig
from engine.config.presets import all_presets, resolve
from engine.estimate.estimate import estimate, predicted_memory
from engine.estimate.memory import (
    GIB,
    LongCaptions,
    images_encoded_together,
    optimizer_bytes,
    predict,
    predict_from,
)
from engine.families.files import LAYOUTS, read_configs
from engine.families.registry import detect
from engine.families.sizes import Learned
from engine.families.unet_sizes import count
from engine.machine.hardware import Hardware
from engine.nets.compact_weights import CompactMasterWeights
from engine.nets.frozen_layers import quantize_base
from engine.nets.lora import to_control_lora
from engine.nets.master_weights import MasterWeightSync
from engine.training.optim import build_optimizer
from engine.tuning.facts import master_weights_of
from engine.tuning.trainable import Placement
from engine.workspace.paths import APP_FOLDER, Workspace

DOCS = APP_FOLDER / "docs" / "memory.md"
CARDS = {"6gb": 6, "8gb": 8, "12gb": 12, "16gb": 16, "24gb": 24}
SIDES = {"sd1": 512, "sd2": 768, "sdxl": 1024}


def unet_config(layout: str) -> dict:
    return json.loads((LAYOUTS / layout / "unet" / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("layout", "unet", "controlnet"),
    [
        ("sd1", 859_520_964, 361_279_120),
        ("sd2", 865_910_724, 364_228_240),
        ("sdxl", 2_567_463_684, 1_251_014_160),
    ],
)
def test_parameters_of_the_real_models(layout: str, unet: int, controlnet: int) -> None:
    net = count(unet_config(layout), 512)
    assert (net.denoiser.weights, net.controlnet.weights) == (unet, controlnet)


def nets(base: Path, rank: int = 0) -> tuple:
    family = detect(str(base))
    unet = family.load_denoiser(str(base), torch.float32)
    controlnet = family.new_controlnet(unet).train()
    if rank:
        to_control_lora(controlnet, unet, rank, family.layers)
    return family, unet, controlnet


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_weights_and_optimizer_to_the_byte(any_base: Path, optimizer: str, rank: int) -> None:
    _, unet, controlnet = nets(any_base, rank)
    counted = count(dict(unet.config), 64, learned=Learned(rank=rank))
    assert counted.denoiser.weights == sum(p.numel() for p in unet.parameters())
    learning = [p for p in controlnet.parameters() if p.requires_grad]
    assert counted.controlnet.trained == sum(p.numel() for p in learning)
    rule = build_optimizer(controlnet, OptimConfig(optimizer=optimizer))
    for parameter in learning:
        parameter.grad = torch.ones_like(parameter)
    rule.step()
    held = [value for state in rule.state.values() for value in state.values() if isinstance(value, torch.Tensor)]
    assert sum(value.nbytes for value in held if value.ndim) == optimizer_bytes(counted.controlnet, optimizer)


def held(net: torch.nn.Module) -> int:
    """Bytes of a net's weights, with the scales of quantized ones."""
    scales = [layer.scale for layer in net.modules() if isinstance(getattr(layer, "scale", None), torch.Tensor)]
    return sum(tensor.nbytes for tensor in (*net.parameters(), *scales))


@pytest.mark.parametrize(
    ("kind", "modulation"), [("same", "same"), ("fp8", "base"), ("int8", "same"), ("nf4", "int8"), ("nf4", "base")]
)
def test_a_quantized_base_to_the_byte(any_base: Path, kind: str, modulation: str) -> None:
    family, denoiser, _ = nets(any_base)
    if kind != "same":
        quantize_base(
            denoiser.bfloat16(),
            kind=kind,
            modulation="same" if modulation == "int8" else modulation,
            layers=family.layers,
        )
        quantize_base(denoiser, kind=kind, modulation=modulation, layers=family.layers)  # as when memory runs out later
    counted = family.facts.count(dict(denoiser.config), 64).denoiser
    assert held(denoiser) == counted.stored(kind, modulation, 4 if kind == "same" else 2)


@pytest.mark.parametrize("layout", ["sd3", "flux", "zimage"])
def test_a_base_in_four_bits_to_the_byte_at_real_shapes(layout: str) -> None:
    base = read_configs(LAYOUTS / layout)
    with torch.device("meta"):
        denoiser: Any = getattr(diffusers, base.facts.denoiser_class).from_config(base.denoiser).bfloat16()
    quantize_base(denoiser.requires_grad_(False), kind="nf4", modulation="int8", layers=base.facts.layers)
    few = {"base_storage": "nf4", "modulation_storage": "int8", "precision": "bf16"}
    assert held(denoiser) == predict_from(config(train=few), base).training["base model"]


@pytest.mark.parametrize(("kept", "each"), [("whole", 4), ("split", 2), ("none", 0)])
def test_master_weights_to_the_byte(tiny_base: Path, kept: Any, each: int) -> None:
    _, unet, controlnet = nets(tiny_base)
    place = Placement(torch.device("cpu"), torch.bfloat16, master_weights=kept)
    weights = place.sync(controlnet)
    weights.refresh()
    placeholders = 4 if kept != "whole" else 0
    held = sum(p.untyped_storage().nbytes() - placeholders for p in controlnet.parameters())
    held += sum(low.nbytes for low in weights.low_bits) if isinstance(weights, CompactMasterWeights) else 0
    base = replace(read_configs(LAYOUTS / "sd1"), denoiser=dict(unet.config))
    run = config(train={"precision": "bf16"}, optim={"master_weights": kept})
    assert (
        held
        == predict_from(run, base).training["trained weights"]
        == each * count(dict(unet.config), 64).controlnet.trained
    )


@pytest.mark.parametrize(("precision", "kept"), [("bf16", "split"), ("fp16", "whole"), ("fp32", "whole")])
def test_master_weights_that_cannot_be_split_stay_whole(precision: str, kept: str) -> None:
    run = config(train={"precision": precision}, optim={"master_weights": "split"})
    assert master_weights_of(run, precision) == kept
    assert master_weights_of(run, precision, processes=2) == "whole"
    none = run.model_copy(update={"optim": run.optim.model_copy(update={"master_weights": "none"})})
    assert master_weights_of(none, precision) == ("whole" if precision == "fp32" else "none")


@pytest.mark.parametrize(
    ("batch", "side", "rank", "dtype"),
    [(2, 64, 0, torch.float32), (1, 128, 0, torch.float32), (1, 128, 4, torch.float32), (1, 128, 0, torch.bfloat16)],
)
def test_activations_as_autograd_keeps_them(
    any_base: Path, batch: int, side: int, rank: int, dtype: torch.dtype
) -> None:
    base = str(any_base)
    family, unet, learning = nets(any_base, rank)
    unet, controlnet = unet.to(dtype), MasterWeightSync(learning, dtype).compute
    encoder = family.load_text_encoder(base, torch.float32)
    text = family.encode_text(family.load_tokenizer(base), encoder, ["red circle"] * batch)
    text = {name: rows.detach().to(dtype) for name, rows in text.items()}
    text |= family.size_conditions(torch.full((batch, 6), 64.0))
    weights = {p.untyped_storage().data_ptr() for net in (unet, controlnet) for p in net.parameters()}
    kept: dict[int, torch.Tensor] = {}  # held, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        noisy, hint = torch.randn(batch, 4, side // 8, side // 8).to(dtype), torch.rand(batch, 3, side, side).to(dtype)
        predicted = family.predict(unet, controlnet, noisy, torch.full((batch,), 500), text, hint)
        loss = predicted.float().square().mean()
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert loss.requires_grad
    net = count(dict(unet.config), side, tokens=text["hidden"].shape[1], learned=Learned(rank=rank))
    counted = dtype.itemsize * batch * (net.denoiser.kept + net.controlnet.kept)
    assert counted == pytest.approx(measured, rel=0.1)


OFFLOADED = {"offload": True, "optimizer": "adafactor", "learning_rate": 1e-5}


def config(base: str = "owner/model", **settings: dict) -> RunConfig:
    model = {"base": base, **settings.pop("model", {})}
    return resolve(("test", {**settings, "model": model}))[0]


def foreseen(preset: str, family: str) -> float:
    """GiB of graphics memory for the real base of a family, at the size that it was made for."""
    layers = next(p for p in all_presets() if p.name == preset).layers(family)
    values = resolve(*layers, ("test", {"data": {"resolution": SIDES[family]}}))[0]
    return predict_from(values, read_configs(LAYOUTS / family)).needs / GIB


@pytest.mark.answers("Only 8 GB")
@pytest.mark.parametrize("family", SIDES)
@pytest.mark.parametrize("preset", CARDS)
def test_every_preset_is_foreseen_to_fit_its_card(preset: str, family: str) -> None:
    assert foreseen(preset, family) < CARDS[preset] * 0.93  # the desktop takes its share


@pytest.mark.parametrize(("preset", "most"), [("8gb", 7), ("12gb", 10)])
def test_sd15_leaves_room_on_the_usual_cards(preset: str, most: float) -> None:
    assert foreseen(preset, "sd1") < most


@pytest.mark.parametrize("preset", CARDS)
def test_the_figures_in_presets_and_docs_are_those_that_are_foreseen(preset: str) -> None:
    text = f"{foreseen(preset, 'sd1'):.1f} GB"
    assert text in next(p for p in all_presets() if p.name == preset).hint
    row = next(
        line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith(f"| {CARDS[preset]} GB")
    )
    assert all(f"{foreseen(preset, family):.1f} GB" in row for family in SIDES), row


@pytest.mark.parametrize(
    ("preset", "family", "most"),
    [
        ("8gb", "sd3", 8.0),
        ("12gb", "sd3", 11.2),
        ("16gb", "sd3", 14.0),
        ("24gb", "sd3", 22.4),
        ("12gb", "zimage", 10.0),
        ("16gb", "zimage", 14.0),
        ("24gb", "zimage", 22.4),
        ("12gb", "flux", 10.5),
        ("16gb", "flux", 14.0),
        ("24gb", "flux", 22.4),
    ],
)
def test_presets_of_transformers_fit_their_cards_as_the_docs_say(preset: str, family: str, most: float) -> None:
    values = resolve(*next(p for p in all_presets() if p.name == preset).layers(family))[0]
    needed = predict_from(values, read_configs(LAYOUTS / family)).needs / GIB
    assert needed < most
    section = DOCS.read_text(encoding="utf-8").split("## Transformer bases, by card")[1]
    cells = next(line for line in section.splitlines() if line.startswith(f"| {CARDS[preset]} GB")).split("|")
    assert f"{needed:.1f} GB" in cells[2 + ("sd3", "zimage", "flux").index(family)]


@pytest.mark.parametrize(
    ("preset", "family", "most", "resolution", "changes"),
    [
        ("8gb", "sd3", 8.0, 1024, {}),
        ("12gb", "zimage", 10.0, 1024, {}),
        ("12gb", "zimage", 10.0, 1024, {"model": {"control_lora_rank": 0}, "optim": OFFLOADED}),
        ("16gb", "zimage", 14.0, 1024, {}),
        ("16gb", "flux", 14.0, 1024, {}),
        ("12gb", "flux", 10.5, 512, {}),
    ],
)
def test_batches_of_one_image_reach_the_aims(
    preset: str, family: str, most: float, resolution: int, changes: dict[str, Any]
) -> None:
    """SD 3.5 Medium with 6 blocks in 8 bits; Z-Image 3 + 2 in 4 bits, thin, in RAM, and whole; FLUX.1 2 + 0 in 4 bits,
    whole, and thin at 512 px."""
    layers = next(p for p in all_presets() if p.name == preset).layers(family)
    one = {"train": {"batch_size": 1, "accumulation": 1}, "data": {"resolution": resolution}}
    values = resolve(*layers, ("test", one), ("test", changes))[0]
    whole = bool(changes) or preset in ("8gb", "16gb")
    assert values.model.control_lora_rank == (0 if whole else 64) and values.model.control_blocks == 0
    assert values.train.base_storage == ("int8" if family == "sd3" else "nf4")
    assert predict_from(values, read_configs(LAYOUTS / family)).needs / GIB < most


def test_what_saves_memory_is_foreseen_to_save_memory(workspace: Workspace) -> None:
    def needs(**settings: dict) -> float:
        return predict(workspace, config(**settings)).needs

    plain = needs(train={"batch_size": 4})
    for settings in (
        {"train": {"batch_size": 2}},
        {"train": {"batch_size": 4, "gradient_checkpointing": "controlnet"}},
        {"train": {"batch_size": 4}, "optim": {"optimizer": "adamw8bit"}},
        {"train": {"batch_size": 4}, "optim": {"optimizer": "adafactor"}},
        {"train": {"batch_size": 4}, "model": {"control_lora_rank": 128}},
        {"train": {"batch_size": 4, "base_storage": "fp8"}},
        {"train": {"batch_size": 4}, "optim": {"offload": True}},
        {"train": {"batch_size": 4}, "optim": {"master_weights": "none"}},
    ):
        assert needs(**settings) < 0.97 * plain
    average = {"ema_decay": 0.99}
    assert needs(optim={**average, "ema_device": "cpu"}) < needs(optim=average)
    offloaded = predict(workspace, config(optim={"offload": True}))
    assert offloaded.ram > predict(workspace, config()).ram + 4 * GIB, "it goes somewhere"
    assert needs(train={"batch_size": 4, "precision": "fp32"}) > plain
    assert needs(train={"batch_size": 4}, objective={"sd_locked": False}) > 1.4 * plain


def test_a_single_file_is_foreseen_as_its_own_family(workspace: Workspace) -> None:
    from safetensors.torch import save_file

    reader = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    save_file({reader: torch.zeros(640, 2048, dtype=torch.uint8)}, workspace.models / "xl.safetensors")
    small, large = (predict(workspace, config(base)).peak for base in ("owner/sd15", "xl.safetensors"))
    assert large > 2.5 * small


def test_ram_while_nets_are_loaded() -> None:
    """A base that becomes fp8 is there in half precision while the net is made from it; only a Control-LoRA that starts
    from another net is there as a whole."""
    xl = read_configs(LAYOUTS / "sdxl")

    def ram(kind: str, start: str = "") -> float:
        model = {"control_lora_rank": 64, "controlnet": start}
        return predict_from(config(model=model, train={"base_storage": kind, "precision": "bf16"}), xl).ram

    unet, whole_controlnet = 2_567_463_684, 1_251_014_160
    trained = count(xl.denoiser, 1024, learned=Learned(rank=64)).controlnet.trained
    assert trained < whole_controlnet / 4
    assert ram("fp8") - 4 * trained == ram("fp8", "net") - 4 * whole_controlnet == pytest.approx(1.5 * GIB + 2 * unet)
    assert ram("same") == pytest.approx(1.5 * GIB + 2 * unet), "the base alone, before it is on the card"


def test_the_window_says_when_it_will_hardly_fit(workspace: Workspace) -> None:
    card = Hardware("cuda", "RTX 3050", 8.0, 16, 8)
    needed = predict(workspace, config(train={"batch_size": 16}))
    assert "more than available" in predicted_memory(needed, card)
    offloaded = predict(workspace, config(optim={"offload": True}))
    assert "of the computer's memory, and 8 GB are available" in predicted_memory(offloaded, replace(card, ram_gib=8))
    assert "computer's memory" not in predicted_memory(offloaded, card)
    thrifty = next(p.values for p in all_presets() if p.name == "8gb")
    summary = estimate(config(**thrifty), workspace, card)
    assert "of graphics memory predicted (8 GB available)" in summary and "more than available" not in summary


def test_the_demo_base_needs_little(workspace: Workspace) -> None:
    assert predict(workspace, config("demo", data={"resolution": 128}, train={"batch_size": 8})).peak < GIB


def test_the_cache_grows_with_the_images(workspace: Workspace) -> None:
    """Mean and log-variance in fp16: 64 KiB an image at 512 px; a caption of SD 1.5: 116 KiB; a map 768 at most."""
    assert predict(workspace, config(), images=10).cache == 10 * (64 * 1024 + 77 * 768 * 2 + 768 * 1024)


def test_long_captions_take_their_length_on_the_disk_and_a_little_memory(workspace: Workspace) -> None:
    short, long = (predict(workspace, config(), 10, captions) for captions in (LongCaptions(), LongCaptions(3, 2)))
    assert long.cache - short.cache == 3 * 77 * 768 * 2
    assert 1 < long.peak / short.peak < 1.05


@pytest.mark.parametrize(("resolution", "expected"), [(128, 8), (512, 4), (768, 1), (1024, 1), (2048, 1)])
def test_the_vae_sees_fewer_large_images_at_once(resolution: int, expected: int) -> None:
    assert images_encoded_together(resolution) == expected


def test_control_images_read_as_latents_take_the_vae_while_images_are_drawn_and_less_disk() -> None:
    base = read_configs(LAYOUTS / "sd1")
    encoded = replace(base, facts=replace(base.facts, control_is_encoded=True))
    run = config(train={"precision": "fp32"})
    plain, latents = (predict_from(run, one, images=10) for one in (base, encoded))
    assert latents.training == plain.training, "they are encoded before"
    assert 0 < latents.pictures["pictures"] - plain.pictures["pictures"] <= 4 * 83_653_863
    assert plain.cache - latents.cache == 10 * (3 * 512**2 - 2 * 4 * 64**2)


@pytest.mark.parametrize("what", ["lora", "base"])
@pytest.mark.parametrize("preset", CARDS)
def test_presets_of_other_trainables_fit_their_cards_as_the_docs_say(preset: str, what: str) -> None:
    section = DOCS.read_text(encoding="utf-8").split("## A LoRA, or the whole base, by card")[1]
    row = next(line for line in section.splitlines() if line.startswith(f"| {CARDS[preset]} GB")).split("|")
    found = next(p for p in all_presets() if p.name == preset)
    for number, family in enumerate(SIDES):
        size = ("size", {"data": {"resolution": SIDES[family]}, "tuning": {"what": what}})
        needed = predict_from(resolve(*found.layers(family, what), size)[0], read_configs(LAYOUTS / family)).needs / GIB
        cell = row[2 + number + len(SIDES) * ("lora", "base").index(what)]
        assert f"{needed:.1f} GB" in cell
        assert (needed < CARDS[preset] * 0.93) == ("does not fit" not in cell)
        subject = ("subject", {"tuning": {"what": "subject", "word": "my-mug"}})
        preserved = predict_from(
            resolve(*found.layers(family, "subject"), size, subject)[0], read_configs(LAYOUTS / family)
        )
        assert preserved.needs / GIB < CARDS[preset] * 0.99, "a subject fits, too"
        assert what == "base" or needed < CARDS[preset] * 0.93, "a LoRA fits every card"
