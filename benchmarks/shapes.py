"""What the app foresees of graphics memory, beside what its own code would hold at real shapes: counted, not measured.

    python -m benchmarks.shapes                                       (all presets and families: a quarter of an hour)
    python -m benchmarks.shapes --presets 8gb 12gb --families sd1

No card is needed, and no weights: nets are made from the configs of the real bases on a card that only counts
(benchmarks/simulated_card.py). The trainer builds them as for a run, its optimizer has its memory, and one step is taken
(of batches that are added up, two: from the second on all are alike). Then images are drawn and decoded, and images
and captions encoded, with the calls that the app makes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.simulated_card import CARD, Counter, counting
from engine.config import RunConfig
from engine.config.presets import PRESETS_FOLDER, load_preset, resolve
from engine.data.captions import CAPTIONS_AT_ONCE
from engine.distributed import group
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
from engine.families.parts import load_part
from engine.families.registry import by_name
from engine.machine.precision import DTYPES
from engine.nets.ema import build_ema
from engine.training.batches import Batch, Draws
from engine.training.optim import LossScale, build_optimizer
from engine.training.setup import build_nets
from engine.training.speed import set_attention_and_layout
from engine.training.state import TrainState
from engine.training.step import train_step
from engine.tuning.trainable import Placement

PRESETS = ("6gb", "8gb", "12gb", "16gb", "24gb")
SIDES = {"sd1": 512, "sd2": 768, "sdxl": 1024}
TITLES = {"sd1": "SD 1.5 at 512 px", "sd2": "SD 2.1 at 768 px", "sdxl": "XL at 1024 px"}
WORDS = 77  # tokens of a prompt


@dataclass(frozen=True)
class Counted:
    """Bytes on the card at the fullest moment of each phase."""

    training: int
    parts: dict[str, int]
    """Of ``training``."""
    at: str
    pictures: int
    foreseen: Prediction


def settings(preset: str, family: str, **changes: dict[str, Any]) -> RunConfig:
    """A preset's for a family, at the size that it was made for."""
    layers = load_preset(PRESETS_FOLDER / f"{preset}.toml").layers(family)
    config = resolve(*layers, ("size", {"data": {"resolution": SIDES[family]}}), ("changes", changes))[0]
    twice = {"accumulation": min(2, config.train.accumulation)}
    return config.model_copy(update={"train": config.train.model_copy(update=twice)})


def foreseen(config: RunConfig, family: str) -> Prediction:
    return predict_from(config, read_configs(LAYOUTS / family))


def on_paper(config: RunConfig, family_name: str) -> TrainState:
    """The state of a run without data: its nets, and all that its step asks for."""
    base, family, dtype = str(LAYOUTS / family_name), by_name(family_name), DTYPES[config.train.precision]
    with tempfile.TemporaryDirectory() as folder:
        place = Placement(CARD, dtype, in_ram=config.optim.offload)
        denoiser, trainable = build_nets(Path(folder), config, family, base, place)
    nothing: Any = SimpleNamespace()
    state = TrainState(
        run_folder=Path(folder), config=config, token=nothing, history=lambda event: None, group=group.current(),
        about={}, retry=nothing, watchdog=nothing, accelerator=_alone(), device=CARD,
        precision=config.train.precision, dtype=dtype, loss_scale=LossScale(config.train.precision), base=base,
        family=family, denoiser=denoiser, noise_process=family.noise_process(base),
        latent_space=family.latent_space(base), trainable=trainable,
        optimizer=build_optimizer(trainable.master, config.optim), ema=build_ema(trainable.averaged, config.optim),
        dataset=nothing, samples=[], held_out=[], plan=nothing, cache=nothing, images_at_once=1,
    )  # type: ignore[arg-type]  # fmt: skip
    set_attention_and_layout(state)
    state.parallel = Parallel(state, str)
    state.parallel.prepare()
    state.use_nets(state.parallel.net, denoiser)
    state.next_batch = lambda micro: _batch(state)  # type: ignore[method-assign]
    return state


def _batch(state: TrainState) -> Batch:
    count, side = state.config.train.batch_size, state.config.data.resolution
    draws = Draws(*(torch.zeros(count, 4, side // 8, side // 8) for _ in range(2)),
                  torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.bool),
                  torch.zeros(count, 4, 1, 1))  # fmt: skip
    maps = torch.zeros(count, side, side, 3, dtype=torch.uint8)
    latents = torch.zeros(count, 4, side // 8, side // 8)
    return Batch(latents, latents.clone(), _text(state, count), maps, draws, torch.zeros(count, 6))


def _text(state: TrainState, count: int) -> dict[str, torch.Tensor]:
    """Encoded captions, with nothing in them."""
    config = state.denoiser.config
    text = {"hidden": torch.zeros(count, WORDS, config.cross_attention_dim)}
    if config.addition_embed_type:
        text["pooled"] = torch.zeros(count, config.projection_class_embeddings_input_dim - 6 * 256)
    return text


def allocate_optimizer_state(state: TrainState) -> None:
    """Let the optimizer allocate its state, as its first step does."""
    for parameter in state.trainable.parameters():
        parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


def holders(state: TrainState) -> Callable[[], dict[str, Any]]:
    """What holds which memory of the card."""
    trained = state.trainable.parameters()
    weights = [*state.denoiser.parameters(), *state.denoiser.buffers(), *trained]
    weights += state.trainable.control_net.parameters()

    def now() -> dict[str, Any]:
        states = (value for entries in state.optimizer.state.values() for value in entries.values())
        return {
            "weights": weights,
            "gradients": [parameter.grad for parameter in trained],
            "optimizer": [value for value in states if isinstance(value, torch.Tensor)],
            "average": state.ema.shadow_params if state.ema is not None else [],
        }

    return now


def count(preset: str, family: str, **changes: dict[str, Any]) -> Counted:
    """A step, and images, with a preset's settings."""
    config = settings(preset, family, **changes)
    with world(config.optim.offload) as counter:
        with nullcontext() if config.optim.offload else CARD:
            state = on_paper(config, family)
        allocate_optimizer_state(state)
        counter.holders = holders(state)
        counter.begin()
        loss = train_step(state)
        assert isinstance(loss, torch.Tensor), loss
        del loss
        training, parts, at = counter.peak, counter.parts, counter.at
        counter.begin()
        draw(state)
        images = counter.peak
    return Counted(training, parts, at, images, foreseen(config, family))


@torch.no_grad()
def draw(state: TrainState) -> None:
    """One sampling step of as many images as a preview draws together, with and without prompt; then decode one."""
    side = state.config.data.resolution
    rows = 2 * images_drawn_together(side)
    place = {"device": CARD, "dtype": state.dtype}
    text = {name: table.to(**place) for name, table in _text(state, rows).items()}
    text |= state.family.size_conditions(torch.zeros(rows, 6, device=CARD))
    noisy, hint = torch.zeros(rows, 4, side // 8, side // 8, **place), torch.zeros(rows, 3, side, side, **place)
    state.family.predict(state.denoiser, state.trainable.control_net, noisy, torch.zeros(rows, device=CARD), text, hint)
    del text, noisy, hint
    with CARD:
        vae = state.family.load_vae(state.base)
    state.family.decode_latents(vae, torch.zeros(1, 4, *[min(side, DECODED_SIDE) // 8] * 2, device=CARD))


@torch.no_grad()
def prepare(family: str) -> dict[str, int]:
    """Bytes at the fullest moment of encoding images, and captions."""
    base, model, side, found = str(LAYOUTS / family), by_name(family), SIDES[family], {}
    with world(beside=False) as counter, CARD:
        vae = model.load_vae(base)
        counter.begin()
        model.encode_images(vae, torch.zeros(images_encoded_together(side), 3, side, side))
        found["pictures"] = counter.peak
        del vae
        encoder = model.load_text_encoder(base, torch.float32)
        counter.begin()
        model.encode_tokens(encoder, [torch.zeros(CAPTIONS_AT_ONCE, WORDS, dtype=torch.long)] * 2)
        found["captions"] = counter.peak
    return found


@contextmanager
def world(beside: bool) -> Iterator[Counter]:
    """A card that counts, and bases that are made from their configs. ``beside``: something stays in RAM."""
    with ExitStack() as stack:
        for module in ("base", "sdxl"):
            stack.enter_context(patch(f"engine.families.{module}.load_part", _from_config))
        yield stack.enter_context(counting(beside))


def _from_config(kind: Any, base: str, subfolder: str, dtype: torch.dtype | None) -> Any:
    if dtype is None:
        return load_part(kind, base, subfolder, dtype)
    config = _read(Path(base).name, subfolder)
    # The UNet stands on the card at once: what passes through RAM as it is loaded is not counted.
    with CARD if subfolder == "unet" else nullcontext():
        net = kind.from_config(config) if hasattr(kind, "from_config") else kind(kind.config_class(**config))
    return torch.nn.Module.to(net, dtype)


def _alone() -> Any:
    """accelerate of one process: it hands everything on. The norm of gradients without numbers is finite."""

    def clip(parameters: list[torch.nn.Parameter], most: float) -> float:
        torch.nn.utils.clip_grad_norm_(parameters, most)
        return 0.0

    def hand_on(optimizer: Any) -> Any:
        optimizer.step_was_skipped = False
        return optimizer

    return SimpleNamespace(
        prepare_model=lambda net: net, prepare_optimizer=hand_on,
        backward=lambda loss: loss.backward(), clip_grad_norm_=clip,
    )  # fmt: skip


def _read(family: str, part: str) -> dict[str, Any]:
    return json.loads((LAYOUTS / family / part / "config.json").read_text(encoding="utf-8"))


# -- in words ---------------------------------------------------------------------------------------------------------


def gb(value: float) -> str:
    return f"{value / GIB:.2f}"


def row(preset: str, family: str, counted: Counted) -> str:
    step, images = sum(counted.foreseen.training.values()), sum(counted.foreseen.pictures.values())
    parts = " + ".join(f"{gb(size)} {name}" for name, size in counted.parts.items() if size > 0.005 * GIB)
    off = f"{step / counted.training - 1:+.1%}"
    drawn = f"{gb(images)} | {gb(counted.pictures)}"
    return f"| {preset} | {TITLES[family]} | {gb(step)} | {gb(counted.training)} | {off} | {parts} | {drawn} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=PRESETS)
    parser.add_argument("--families", nargs="+", choices=SIDES, default=tuple(SIDES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("GB on the card, counted at real shapes; without the driver's share and the allocator's.\n")
    print("| preset | base | step, foreseen | counted | off by | what is there | images, foreseen | counted |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for family in options.families:
        for preset in options.presets:
            print(row(preset, family, count(preset, family)), flush=True)
    print("\n| encoding | foreseen | images, counted | captions, counted |\n|---|---|---|---|")
    for family in options.families:
        found, expected = prepare(family), foreseen(settings("12gb", family), family)
        print(f"| {TITLES[family]} | {gb(sum(expected.preparing.values()))} | {gb(found['pictures'])} "
              f"| {gb(found['captions'])} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
