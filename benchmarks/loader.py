"""Can a card wait for its images? How many a second the loader hands out, and how long a card of a given speed waits.

    python -m benchmarks.loader [--batches 200] [--busy]

Latents, embeddings and condition maps of the shapes of SD 1.5 at 512 px and XL at 1024 px, through the run's own cache
and ``Batches``: batch size 4, four random crops of each image. Latents and embeddings hold noise, since their values
do not matter to a reader; images and maps are pieces of photographs. "Most" is a card that takes no time at all. A
card is stood in for by as long a rest as its step takes, in which the processor is free, as it is beside a real one.
Before each measurement the system is asked to forget the files (Linux), so that they come from the disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.synthetic import make_images
from engine.config import DataConfig
from engine.data import map_cache
from engine.data.cache import TrainingCache, open_or_build
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.map_cache import MapCache
from engine.data.samples import Sample
from engine.families.sdxl import StableDiffusionXL
from engine.families.stable_diffusion import StableDiffusion1
from engine.jobs.control import Control
from engine.training.batches import Batches
from engine.workspace.paths import Workspace

BATCH = 4
WIDTHS = {StableDiffusion1: {"text": 768}, StableDiffusionXL: {"text": 2048, "pooled": 1280}}
CARDS = {StableDiffusion1: {"RTX 3060": 6.3, "RTX 4090": 35.0}, StableDiffusionXL: {"RTX 4090": 8.0}}
"""Images a second: for SD 1.5 what each could reach at best by its arithmetic (roofline), for XL a guess above it."""


def noisy(kind: type[Any]) -> Any:
    """The family, with encoders that answer noise of the right shapes."""

    class Noisy(kind):  # type: ignore[misc]
        def load_vae(self, base: str) -> torch.nn.Module:
            return torch.nn.Identity()

        def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
            return torch.nn.Identity()

        def load_tokenizer(self, base: str) -> None:
            return None

        def encode_images(self, vae: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            count, _, height, width = images.shape
            return torch.randn(count, 4, height // 8, width // 8), torch.randn(count, 4, height // 8, width // 8)

        def encode_text(self, tokenizer: Any, encoder: Any, captions: Any) -> dict[str, torch.Tensor]:
            rows = {name: (77, width) if name == "text" else (width,) for name, width in WIDTHS[kind].items()}
            return {name: torch.randn(len(captions), *shape) for name, shape in rows.items()}

    return Noisy()


@contextmanager
def reading(
    dataset: Dataset, samples: list[Sample], cache: TrainingCache, maps: MapCache | None, plan: CropPlan
) -> Iterator[Batches]:
    batches = Batches(
        dataset, samples, range(len(samples)), cache, plan=plan, seed=0, batch_size=BATCH, timesteps=1000,
        prompt_dropout=0.1, maps=maps,
    )  # fmt: skip
    batches.split(BATCH, 1)
    try:
        yield batches
    finally:
        batches.close()


def forget(folder: Path) -> None:
    """Ask the system to drop its copies of these files."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def most(batches: Batches, count: int) -> float:
    """Images a second, of a card that takes no time."""
    began = time.perf_counter()
    for number in range(count):
        batches.get(number)
    return count * BATCH / (time.perf_counter() - began)


def waited(batches: Batches, count: int, per_second: float) -> float:
    """The share of a card's time in which it had no batch, after the first one."""
    batches.get(0)
    batches.waited = 0.0
    began, rest = time.perf_counter(), BATCH / per_second
    for number in range(1, count):
        batches.get(number)
        time.sleep(rest)
    return batches.waited / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--busy", action="store_true", help="another thread of the app computes all the time")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.busy:
        threading.Thread(target=_be_busy, daemon=True).start()
    print("| | most, pictures/s | a card waits |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, side in ((StableDiffusion1, 512), (StableDiffusionXL, 1024)):
            measure(kind, side, Path(folder) / str(side), options.batches)


def measure(kind: type[Any], side: int, folder: Path, count: int) -> None:
    """Print two rows: maps from the cache, and maps decoded from their files."""
    workspace = Workspace(folder)
    dataset = make_images(workspace, side)
    samples = list(dataset.samples())
    plan = CropPlan.of(DataConfig(resolution=side, crop="random"), 0)
    caches, token = workspace.cache, Control().token

    def quiet(*_: Any) -> None:
        """Nobody looks."""

    cache = open_or_build(caches, noisy(kind), "noise", samples, plan, torch.device("cpu"), token, quiet)
    maps = map_cache.open_or_build(cache, dataset, samples, plan, token, quiet)
    assert maps is not None
    for words, source in (("maps from the cache", maps), ("maps from their PNGs", None)):
        forget(folder)
        with reading(dataset, samples, cache, source, plan) as batches:
            best = most(batches, count if source is not None else count // 4)  # decoding is slow
        shares = []
        for card, speed in CARDS[kind].items():
            forget(folder)
            with reading(dataset, samples, cache, source, plan) as batches:
                share = waited(batches, min(count, round(20 * speed / BATCH)), speed)  # 20 seconds are enough
                shares.append(f"{card} ({speed:g}/s) {100 * share:.2f} %")
        print(f"| {kind.title}, {side} px, {words} | {best:.0f} | {', '.join(shares)} |", flush=True)


def _be_busy() -> None:
    while True:
        sum(range(1000))


if __name__ == "__main__":
    main()
