"""Throughput of the data loader, and how long a card of a given speed would wait for it (docs/performance.md).

    python -m benchmarks.loader [--batches 200] [--busy]

Reads latents, text embeddings and condition maps in the shapes of SD 1.5 at 512 px and XL at 1024 px through the app's
own cache and ``Batches``, with batch size 4 and four random crops of each image. Latents and embeddings are random,
because their values do not matter; images and maps are crops of photographs. "At most" is for a card that takes no
time. Other cards are simulated by a pause of the length of their step, during which the processor is free, as it is
with a real card. Before each measurement the files are dropped from the system's file cache (Linux), so that they are
read from disk.
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
from engine.families.latents import LatentSpace
from engine.families.sdxl import StableDiffusionXL
from engine.families.stable_diffusion import StableDiffusion1
from engine.jobs.control import Control
from engine.training.batches import Batches
from engine.workspace.paths import Workspace

BATCH = 4
DISPLAY_NAMES = {StableDiffusion1: "SD 1.5", StableDiffusionXL: "XL"}
WIDTHS = {StableDiffusion1: {"hidden": 768}, StableDiffusionXL: {"hidden": 2048, "pooled": 1280}}
"""Text embeddings of each family, by name. "hidden" has 77 tokens."""
CARDS = {StableDiffusion1: {"RTX 3060": 6.3, "RTX 4090": 35.0}, StableDiffusionXL: {"RTX 4090": 8.0}}
"""Images per second: for SD 1.5 the best that the card's arithmetic allows (roofline), for XL a guess above that."""


def with_random_encoders(kind: type[Any]) -> Any:
    """The family with encoders that return noise of the right shapes, so that no base is needed."""

    class RandomEncoders(kind):  # type: ignore[misc]
        def latent_space(self, base: str) -> LatentSpace:
            return self.latents

        def load_vae(self, base: str) -> torch.nn.Module:
            return torch.nn.Identity()

        def load_text_encoder(self, base: str, dtype: torch.dtype) -> torch.nn.Module:
            return torch.nn.Identity()

        def load_tokenizer(self, base: str) -> None:
            return None

        def encode_images(self, vae: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            count, _, height, width = images.shape
            return torch.randn(count, 4, height // 8, width // 8), torch.randn(count, 4, height // 8, width // 8)

        def encode_text(self, tokenizer: Any, encoder: Any, captions: Any, **_: Any) -> dict[str, torch.Tensor]:
            rows = {name: (77, width) if name == "hidden" else (width,) for name, width in WIDTHS[kind].items()}
            return {name: torch.randn(len(captions), *shape) for name, shape in rows.items()}

    return RandomEncoders()


@contextmanager
def open_batches(
    dataset: Dataset, samples: list[Sample], cache: TrainingCache, maps: MapCache | None, plan: CropPlan
) -> Iterator[Batches]:
    batches = Batches(
        dataset,
        samples,
        range(len(samples)),
        cache,
        plan=plan,
        seed=0,
        batch_size=BATCH,
        num_train_timesteps=1000,
        prompt_dropout=0.1,
        maps=maps,
    )
    batches.split(BATCH, 1)
    try:
        yield batches
    finally:
        batches.close()


def drop_file_cache(folder: Path) -> None:
    """Ask the system to drop these files from its file cache."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in (path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def throughput(batches: Batches, count: int) -> float:
    """Images per second for a card that takes no time."""
    began = time.perf_counter()
    for number in range(count):
        batches.get(number)
    return count * BATCH / (time.perf_counter() - began)


def waited(batches: Batches, count: int, per_second: float) -> float:
    """Fraction of the time that a card of ``per_second`` images per second waits for batches after the first one."""
    batches.get(0)
    batches.waited = 0.0
    began, pause = time.perf_counter(), BATCH / per_second
    for number in range(1, count):
        batches.get(number)
        time.sleep(pause)
    return batches.waited / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--busy", action="store_true", help="keep another Python thread of the process busy")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.busy:
        threading.Thread(target=_compute_forever, daemon=True).start()
    print("| | at most, images/s | a card waits |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, side in ((StableDiffusion1, 512), (StableDiffusionXL, 1024)):
            measure(kind, side, Path(folder) / str(side), options.batches)


def measure(kind: type[Any], side: int, folder: Path, count: int) -> None:
    """Print two rows: with maps from the cache, and with maps decoded from their PNG files."""
    workspace = Workspace(folder)
    dataset = make_images(workspace, side)
    samples = list(dataset.samples())
    plan = CropPlan.of(DataConfig(resolution=side, crop="random"), 0)
    caches, token = workspace.cache, Control().token

    def progress(*_: Any) -> None:
        """Progress is not shown."""

    cache = open_or_build(
        caches, with_random_encoders(kind), "noise", samples, plan, torch.device("cpu"), token, progress
    )
    maps = map_cache.open_or_build(cache, dataset, samples, plan, token, progress)
    assert maps is not None
    for title, source in (("maps from the cache", maps), ("maps from their PNGs", None)):
        drop_file_cache(folder)
        with open_batches(dataset, samples, cache, source, plan) as batches:
            best = throughput(batches, count if source is not None else count // 4)  # decoding is slow
        waits = []
        for card, speed in CARDS[kind].items():
            drop_file_cache(folder)
            with open_batches(dataset, samples, cache, source, plan) as batches:
                fraction = waited(batches, min(count, round(20 * speed / BATCH)), speed)  # 20 seconds are enough
                waits.append(f"{card} ({speed:g}/s) {100 * fraction:.2f} %")
        print(f"| {DISPLAY_NAMES[kind]}, {side} px, {title} | {best:.0f} | {', '.join(waits)} |", flush=True)


def _compute_forever() -> None:
    while True:
        sum(range(1000))


if __name__ == "__main__":
    main()
