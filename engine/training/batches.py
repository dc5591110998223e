"""What the loop trains on: latents, text, control images and random numbers, read one batch ahead for a card.

Random numbers and the order of images come from (seed, position), so a resumed run repeats them exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch

from engine.conditions import registry
from engine.data.balance import ImageClass
from engine.data.cache import TrainingCache, cropped_map
from engine.data.control_cache import ControlCache
from engine.data.crop import Crop, size_numbers
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.map_cache import MapCache, existing_map
from engine.data.samples import Sample
from engine.disk.tensor_file import DamagedFile
from engine.errors import DataGone, UserError
from engine.machine.capabilities import capabilities
from engine.machine.device import torch_device
from engine.training.batch_order import BatchOrder
from engine.training.input_dropout import NOTHING_LEFT_OUT, InputDropout
from engine.training.randomness import BatchRandomness, random_numbers


@dataclass(frozen=True)
class Batch:
    """B images of one size on the CPU."""

    mean: torch.Tensor
    """(B, 4, h, w) fp32, unscaled mean of the VAE's posterior."""
    logvar: torch.Tensor
    text: dict[str, torch.Tensor]
    """Embeddings, those of the empty prompt where the caption is hidden."""
    maps: torch.Tensor | None
    """Condition maps, uint8 RGB (B, H, W, 3): a quarter of the bytes to copy to a card. Where the control net reads
    latents: those, fp32 (B, C, h, w). None: the run needs none."""
    random: BatchRandomness
    sizes: torch.Tensor
    """(B, 6) fp32: size of the image and place of its crop, see ``size_numbers``."""
    weights: torch.Tensor
    """(B,) fp32: each image's loss is multiplied by this."""
    position: int = 0
    """Place of its first image in the stream of the run's images."""

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device; a card that can reads pinned memory while the processor continues.

        On Apple's it must not: their copy would read what is freed meanwhile (pytorch issues 139550 and 189690).
        """
        continues = capabilities(device.type).pinned_memory
        return self._each(lambda tensor: tensor.to(device, non_blocking=continues))

    def pinned(self) -> Batch:
        """Copy the batch to pinned memory, from which a card copies asynchronously."""
        return self._each(torch.Tensor.pin_memory)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        random = BatchRandomness(
            **{field.name: change(getattr(self.random, field.name)) for field in fields(BatchRandomness)}
        )
        text = {name: change(rows) for name, rows in self.text.items()}
        maps = change(self.maps) if self.maps is not None else None
        mean, logvar, sizes, weights = map(change, (self.mean, self.logvar, self.sizes, self.weights))
        return Batch(mean, logvar, text, maps, random, sizes, weights, self.position)


@dataclass(frozen=True)
class Task:
    """What a step predicts for B images, on the device."""

    noisy: torch.Tensor
    """(B, C, h, w), in the run's precision."""
    timesteps: torch.Tensor
    text: dict[str, torch.Tensor]
    """From ``Family.conditioning``."""
    target: torch.Tensor
    weights: torch.Tensor
    """(B,), of each image's loss."""
    compared: Callable[[torch.Tensor], torch.Tensor] = lambda predicted: predicted
    """What of a prediction is compared with the target: usually the prediction itself."""


class Preservation(Protocol):
    """What a run adds to each batch."""

    def others(self, task: Task, batch: Batch) -> Task:
        """As many images as ``task`` has.

        Args:
            batch: that the task was made of, on the device.
        """


class Distillation(Protocol):
    """What a run makes of each batch in place of the noise process."""

    def task(
        self,
        batch: Batch,
        latents: torch.Tensor,
        noise: torch.Tensor,
        drawn: torch.Tensor,
        text: dict[str, torch.Tensor],
        control: torch.Tensor | None,
    ) -> Task:
        """The task of the same images. See ``ConsistencyDistillation.task``."""


class Batches:
    """Batch number n of a run. The same (seed, n) gives the same batch, whenever and wherever it is read."""

    def __init__(
        self,
        dataset: Dataset,
        samples: Sequence[Sample],
        train_rows: Sequence[int],
        cache: TrainingCache,
        *,
        plan: CropPlan,
        seed: int,
        batch_size: int,
        num_train_timesteps: int,
        prompt_dropout: float,
        perturbed: bool = False,
        weighted: bool = True,
        classes: Sequence[ImageClass] = (),
        inputs: InputDropout = NOTHING_LEFT_OUT,
        maps: MapCache | ControlCache | None = None,
        with_maps: bool = True,
        preservation: Preservation | None = None,
        distillation: Distillation | None = None,
        rank: int = 0,
        world: int = 1,
        read_ahead: bool = True,
    ) -> None:
        """
        Args:
            perturbed: the run has input perturbation.
            weighted: images have the loss weights of their dataset; False: all count alike.
            classes: of the images, with how often each is drawn; none: once in each epoch.
            inputs: leaves out control images and parts of captions.
            maps: prepared condition maps; None: they are read from their files.
            preservation: what steps add to each batch, so that the base forgets less.
            distillation: what steps predict instead, in a run that distils.
            with_maps: batches have condition maps; every one of these samples has one then.
            read_ahead: a second thread reads the next batch while the card computes. Without a card it costs time: once
                it has used torch, OpenMP counts more threads than cores, and the training threads sleep between
                operations.
        """
        spec = dataset.condition
        assert spec is not None or not with_maps, "checked when the run was created"
        self._with_maps = with_maps
        self._pinned = capabilities(torch_device().type).pinned_memory
        self.preservation = preservation
        """What steps add to each batch; None: nothing."""
        self.distillation = distillation
        """What steps predict instead; None: what the noise process says."""
        self._nearest = spec is not None and registry.get(spec.type).categorical
        self._dataset, self._samples, self._cache, self._plan, self._maps = dataset, samples, cache, plan, maps
        rows_by_size: dict[tuple[int, int], list[int]] = {}
        for row in train_rows:
            rows_by_size.setdefault(cache.size(row), []).append(row)
        self.order = BatchOrder(rows_by_size, seed, batch_size, classes)
        """Which images are in which batch, of all processes."""
        self._seed, self._size, self._part = seed, batch_size, batch_size
        self._steps, self._dropout, self._perturbed = num_train_timesteps, prompt_dropout, perturbed
        self._weighted, self._inputs, self._rank, self.world, self._count = weighted, inputs, rank, world, 1
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") if read_ahead else None
        self._ahead: tuple[int, Future[Batch]] | None = None
        self.waited = 0.0
        """Seconds that ``get`` has waited for batches."""

    def get(self, number: int) -> Batch:
        """Batch ``number`` of this process, counted from 0 over the whole run.

        Raises:
            DataGone: a file of the dataset or its cache is gone. OSError: the disk does not answer; call it again.
        """
        began = time.perf_counter()
        ahead, self._ahead = self._ahead, None  # one that failed is read again
        batch = ahead[1].result() if ahead is not None and ahead[0] == number else self._read(number)
        self.waited += time.perf_counter() - began
        if self._reader is not None:
            self._ahead = (number + 1, self._reader.submit(self._read, number + 1))
        return batch

    def split(self, batch_size: int, accumulation: int) -> None:
        """Cut each batch into parts of ``batch_size``, which divides it; from now on numbers count parts.

        Each of several processes gets the same number of the ``accumulation`` parts of a step, and counts only its own.
        The images, their order and their random numbers stay the same.
        """
        assert accumulation % self.world == 0, "see distributed/agreement.py"
        if self._ahead is not None:
            self._ahead[1].cancel()
        self._part, self._ahead = batch_size, None
        self._count = accumulation // self.world

    def keys(self, step: int) -> list[str]:
        """Keys of the images of step ``step``, counted from 0, in all processes."""
        parts = self._count * self.world
        chosen = [pair for number in range(step * parts, (step + 1) * parts) for pair in self._rows(number)[2]]
        return [self._samples[row].key for row, _ in chosen]

    def close(self) -> None:
        """Wait for the read in progress and end the thread that reads ahead."""
        if self._reader is not None:
            self._reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, number: int) -> Batch:
        step, micro = divmod(number, self._count)
        place, first, chosen = self._rows((step * self.world + self._rank) * self._count + micro)
        rows = [row for row, _ in chosen]
        samples = [self._samples[row] for row in rows]
        variants = [self._plan.variant_at(self._samples[row], turn) for row, turn in chosen]
        shape, position = self._cache.latent_shape(rows[0]), place * self._size + first
        random = random_numbers(self._seed, position, self._part, shape, self._steps, self._dropout, self._perturbed)
        captions = ["" if hide else s.caption for s, hide in zip(samples, random.hide_prompt.tolist(), strict=True)]
        crops = [self._cache.crop(row, variant) for row, variant in zip(rows, variants, strict=True)]
        places = zip(rows, variants, crops, strict=True)
        try:
            mean, logvar = self._cache.latents(rows, variants)
            text = self._cache.text(captions)
            maps = None
            if self._with_maps:
                maps = torch.from_numpy(np.stack([self.control(row, variant, crop) for row, variant, crop in places]))
        except (FileNotFoundError, DamagedFile) as error:
            if not self._cache.folder.exists():
                raise  # the disk is gone, and may come back
            raise DataGone(
                "The cache of images and captions was changed while the run used it.",
                f"{error.filename}: {error.strerror}.",
                "Resume: what is missing is made again. Nothing else is lost.",
            ) from error
        text, maps = self._inputs(position, text, maps)
        sizes = torch.tensor([size_numbers(crop) for crop in crops], dtype=torch.float32)
        weights = torch.tensor([sample.weight if self._weighted else 1.0 for sample in samples])
        batch = Batch(mean, logvar, text, maps, random, sizes, weights, position)
        return batch.pinned() if self._pinned else batch

    def _rows(self, number: int) -> tuple[int, int, list[tuple[int, int]]]:
        """Part ``number`` of all processes: its batch, where it begins in there, and (row, turn) of each image."""
        place, part = divmod(number, self._size // self._part)
        first = part * self._part
        return place, first, self.order.batch(place)[first : first + self._part]

    def control(self, row: int, variant: int, crop: Crop) -> np.ndarray:
        """The condition map of a crop as a batch has it.

        Args:
            crop: of this variant; ``TrainingCache.crop``.

        Raises:
            DataGone: its file is gone or broken.
        """
        if self._maps is not None:
            return self._maps.read(row, variant)
        sample = self._samples[row]
        path = existing_map(self._dataset, sample)
        try:
            return cropped_map(path, crop, self._nearest, sample.old_ground)
        except (UserError, OSError, ValueError) as error:
            raise DataGone(
                f"The condition map of {sample.key} cannot be read.",
                f"{path}: {error.why if isinstance(error, UserError) else error}",
                "Delete that file, make all maps again on the Conditions tab, then resume. Nothing else is lost.",
            ) from error
