"""Compares the estimate of graphics memory with what the app's own code allocates at real shapes (docs/memory.md).

    python -m benchmarks.shapes                                       (all presets and families: 15 minutes)
    python -m benchmarks.shapes --presets 8gb 12gb --families sd1
    python -m benchmarks.shapes --trained lora --families sd1 sd2 sdxl
    python -m benchmarks.shapes --trained base --text --families sd1 sdxl --presets 16gb 24gb     (and text encoders)

Memory is counted, not measured: neither a card nor weights are needed. The nets are built from the configs of the real
bases on a simulated card that only counts allocations (benchmarks/simulated_card.py). The app's own code builds the
nets of a run, the optimizer allocates its state, and one step is taken (with at most two micro-batches, because from
the second on all are alike). Then images are drawn and decoded, and images and captions encoded, with the app's own
calls.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.simulated_card import CARD
from benchmarks.stand_ins import TOKENS, batch_of_zeros, control_of_zeros, simulated_bases, text_of_zeros
from engine.config import RunConfig
from engine.config.presets import PRESETS_FOLDER, load_preset, resolve
from engine.data.captions import CAPTIONS_AT_ONCE
from engine.distributed import group
from engine.distributed.optimizer_in_backward import OptimizerInBackward
from engine.distributed.parallel import Parallel
from engine.estimate.memory import (
    DECODED_SIDE,
    GIB,
    Prediction,
    images_drawn_together,
    images_encoded_together,
    predict_from,
)
from engine.families.files import LAYOUTS, read_configs
from engine.families.noise import NoiseProcess
from engine.families.registry import by_name
from engine.machine.precision import DTYPES
from engine.nets.compact_weights import CompactMasterWeights
from engine.nets.ema import build_ema
from engine.training.loss_scale import LossScale
from engine.training.optim import build_optimizer
from engine.training.setup import build_nets
from engine.training.speed import set_attention_and_layout
from engine.training.state import TrainState
from engine.training.step import train_step
from engine.tuning.facts import facts_of, master_weights_of
from engine.tuning.trainable import Placement

SIDES = {"sd1": 512, "sd2": 768, "sdxl": 1024}
"""Sides of images in px; those of the other families are in the presets."""
NAMES = {
    "sd1": "SD 1.5",
    "sd2": "SD 2.1",
    "sdxl": "XL",
    "sd3": "SD 3.5 Medium",
    "zimage": "Z-Image",
    "flux": "FLUX.1",
}
PRESETS = {
    **dict.fromkeys(SIDES, ("6gb", "8gb", "12gb", "16gb", "24gb")),
    "sd3": ("6gb", "8gb", "12gb", "16gb", "24gb"),
    "zimage": ("12gb", "16gb", "24gb"),
    "flux": ("12gb", "16gb", "24gb"),
}
"""Those with settings for a family."""


@dataclass(frozen=True)
class Counted:
    """Peak bytes on the card."""

    training: int
    parts: dict[str, int]
    """What ``training`` consists of at its peak."""
    at: str
    """The operation at the peak of ``training``."""
    images: int
    """Peak of drawing preview images."""
    estimated: Prediction


def settings(preset: str, family: str, what: str = "controlnet", **changes: dict[str, Any]) -> RunConfig:
    """A preset's settings for a family at its resolution, with at most two micro-batches.

    Args:
        what: is trained (``tuning.what``).
    """
    layers = load_preset(PRESETS_FOLDER / f"{preset}.toml").layers(family, what)
    size = {"data": {"resolution": SIDES[family]}} if family in SIDES else {}
    trained = {"tuning": {"what": what}}
    config = resolve(*layers, ("size", size), ("what", trained), ("changes", changes))[0]
    fewer = {"accumulation": min(2, config.train.accumulation)}
    return config.model_copy(update={"train": config.train.model_copy(update=fewer)})


def estimate(config: RunConfig, family: str) -> Prediction:
    return predict_from(config, read_configs(LAYOUTS / family))


def build_state(config: RunConfig, family_name: str, noise_process: NoiseProcess) -> TrainState:
    """The state of a run without data: its nets, and everything that a step reads.

    Args:
        noise_process: made before counting, because a scheduler reads its own numbers.
    """
    base, family, dtype = str(LAYOUTS / family_name), by_name(family_name), DTYPES[config.train.precision]
    with tempfile.TemporaryDirectory() as folder:
        kept = master_weights_of(config, config.train.precision)
        place = Placement(CARD, dtype, in_ram=config.optim.offload, master_weights=kept)
        denoiser, trainable = build_nets(Path(folder), config, family, base, place)
    unused: Any = SimpleNamespace()
    history: Any = lambda event: None  # noqa: E731
    state = TrainState(
        run_folder=Path(folder), config=config, token=unused, history=history, group=group.current(),
        about={}, retry=unused, watchdog=unused, accelerator=_single_process(), device=CARD,
        precision=config.train.precision, dtype=dtype, loss_scale=LossScale(config.train.precision), base=base,
        family=family, denoiser=denoiser, noise_process=noise_process,
        latent_space=family.latent_space(base), trainable=trainable,
        optimizer=build_optimizer(trainable.master, config.optim), ema=build_ema(trainable.averaged, config.optim),
        dataset=unused, samples=[], held_out=[], plan=unused, cache=unused, images_at_once=1,
    )  # fmt: skip
    set_attention_and_layout(state)
    state.trainable.weights.refresh()
    strategy = OptimizerInBackward if config.optim.in_backward else Parallel
    state.parallel = type("AllFinite", (_AllFinite, strategy), {})(state, str)
    state.parallel.prepare()
    state.nets.use(*state.trainable.nets_of_step(state.parallel.net, denoiser))
    state.next_batch = lambda micro: batch_of_zeros(state)  # type: ignore[method-assign]
    no_others: Any = SimpleNamespace(preservation=None, distillation=None)  # a step trains on the batches above
    state.batches = no_others
    return state


def allocate_optimizer_state(state: TrainState) -> None:
    """Let the optimizer allocate its state, which it does in its first step."""
    for parameter in state.trainable.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    state.trainable.weights.update(state.optimizer.step, 0)
    state.optimizer.zero_grad(set_to_none=True)


def holders(state: TrainState) -> Callable[[], dict[str, Any]]:
    """A function that lists the tensors of each part of the memory."""
    trained = state.trainable.parameters()
    weights = [*state.denoiser.parameters(), *state.denoiser.buffers(), *trained]
    weights += [parameter for net in state.trainable.nets for parameter in net.parameters()]
    weights += state.trainable.learned_text.encoder.parameters() if state.trainable.learned_text else ()
    kept = state.trainable.weights

    def now() -> dict[str, Any]:
        states = (value for entries in state.optimizer.state.values() for value in entries.values())
        return {
            "weights": [*weights, *(kept.low_bits if isinstance(kept, CompactMasterWeights) else ())],
            "gradients": [parameter.grad for parameter in (*trained, *kept.master_of)],
            "optimizer": [value for value in states if isinstance(value, torch.Tensor)],
            "EMA": state.ema.shadow_params if state.ema is not None else [],
        }

    return now


def count(preset: str, family: str, what: str = "controlnet", **changes: dict[str, Any]) -> Counted:
    """Count one step, and drawing preview images, with a preset's settings. ``what``: see ``settings``."""
    config = settings(preset, family, what, **changes)
    noise_process = by_name(family).noise_process(str(LAYOUTS / family))
    with simulated_bases(config.optim.offload) as counter:
        with nullcontext() if config.optim.offload else CARD:
            state = build_state(config, family, noise_process)
        allocate_optimizer_state(state)
        counter.holders = holders(state)
        counter.reset_peak()
        loss = train_step(state)
        assert isinstance(loss, torch.Tensor), loss
        del loss
        training, parts, at = counter.peak, counter.parts, counter.at
        counter.reset_peak()
        if not facts_of(config).not_drawn:
            draw(state)
        images = counter.peak
    return Counted(training, parts, at, images, estimate(config, family))


@torch.no_grad()
def draw(state: TrainState) -> None:
    """One sampling step of a batch of preview images, each with and without its prompt; then decode one image.

    A base that reads the guidance scale predicts once for each. A VAE that encodes control images is there meanwhile.
    """
    side, family = state.config.data.resolution, state.family
    rows = images_drawn_together(side) * (1 if family.facts.guidance_embedded else 2)
    vae = _vae(state) if family.facts.control_is_encoded else None
    place = {"device": CARD, "dtype": state.dtype}
    text = {name: table.to(**place) for name, table in text_of_zeros(state, rows).items()}
    text |= family.size_conditions(torch.zeros(rows, 6, device=CARD))
    noisy = torch.zeros(rows, *family.latents.shape(side, side), **place)
    control = family.control_of(control_of_zeros(state, rows).to(CARD)).to(state.dtype)
    family.predict(state.denoiser, state.trainable.control_net, noisy, torch.zeros(rows, device=CARD), text, control)
    del text, noisy, control
    decoded = min(side, DECODED_SIDE)
    family.decode_latents(vae or _vae(state), torch.zeros(1, *family.latents.shape(decoded, decoded), device=CARD))


def _vae(state: TrainState) -> Any:
    with CARD:
        return state.family.load_vae(state.base)


@torch.no_grad()
def prepare(family: str) -> dict[str, int]:
    """Peak bytes of encoding images and of encoding captions."""
    model: Any = by_name(family)
    base, side, found = str(LAYOUTS / family), SIDES[family], {}
    with simulated_bases(uses_ram=False) as counter, CARD:
        vae = model.load_vae(base)
        counter.reset_peak()
        model.encode_images(vae, torch.zeros(images_encoded_together(side), 3, side, side))
        found["images"] = counter.peak
        del vae
        encoder = model.load_text_encoder(base, torch.float32)
        counter.reset_peak()
        model.encode_tokens(encoder, [torch.zeros(CAPTIONS_AT_ONCE, TOKENS, dtype=torch.long)] * 2)
        found["captions"] = counter.peak
    return found


class _AllFinite:
    """Tensors have no values here: they count as finite, and the gradients as too large, so that they are clipped.

    Where a card skips by itself, none is read, which would fail.
    """

    card = CARD.type

    def _read(self, values: torch.Tensor) -> list[float]:
        return [1e9] * len(values)


def _single_process() -> Any:
    """Stands in for accelerate's Accelerator in a single process."""

    def unchanged(optimizer: Any) -> Any:
        optimizer.step_was_skipped = False
        return optimizer

    return SimpleNamespace(
        prepare_model=lambda net: net,
        prepare_optimizer=unchanged,
        backward=lambda loss: loss.backward(),
    )


# -- the table --------------------------------------------------------------------------------------------------------


def gb(value: float) -> str:
    return f"{value / GIB:.2f}"


def row(preset: str, family: str, what: str, counted: Counted) -> str:
    side = settings(preset, family, what).data.resolution
    step, images = sum(counted.estimated.training.values()), sum(counted.estimated.pictures.values())
    parts = " + ".join(f"{gb(size)} {name}" for name, size in counted.parts.items() if size > 0.005 * GIB)
    off = f"{100 * (step / counted.training - 1):+.1f} %"
    drawn = f"{gb(images)} | {gb(counted.images)}" if what == "controlnet" else "|"
    names = f"{preset.removesuffix('gb')} GB | {NAMES[family]} at {side} px"
    return f"| {names} | {gb(step)} | {gb(counted.training)} | {off} | {parts} | {drawn} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS["sd1"], default=PRESETS["sd1"])
    parser.add_argument("--trained", choices=("controlnet", "lora", "base", "svdiff"), default="controlnet")
    parser.add_argument("--families", nargs="+", choices=PRESETS, default=tuple(PRESETS))
    parser.add_argument("--text", action="store_true", help="train the text encoders as well: lora, base")
    options = parser.parse_args()
    tuning = {"tuning": {"text_rate": 1e-6}} if options.text else {}
    torch.set_num_threads(1)
    print("GB on the card, counted at real shapes, without what driver and allocator need.\n")
    print("| preset | base | one step, estimated | counted | off by | at the peak | images, estimated | counted |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for family in options.families:
        for preset in (preset for preset in options.presets if preset in PRESETS[family]):
            print(row(preset, family, options.trained, count(preset, family, options.trained, **tuning)), flush=True)
    if options.trained != "controlnet":
        return  # images and captions are encoded as for a ControlNet
    print("\n| encoding, before training | estimated | images, counted | captions, counted |\n|---|---|---|---|")
    for family in (family for family in options.families if family in SIDES):
        found, expected = prepare(family), gb(sum(estimate(settings("12gb", family), family).preparing.values()))
        print(f"| {NAMES[family]} | {expected} | {gb(found['images'])} | {gb(found['captions'])} |", flush=True)


if __name__ == "__main__":
    main()
