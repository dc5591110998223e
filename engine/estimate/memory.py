"""Predicts the graphics memory, RAM and disk of a run from its settings and the base's configs. Nothing is loaded.

A trial run measures instead (engine/training/preflight.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.config import RunConfig
from engine.config.validation import MOST_OWN
from engine.data.captions import CAPTIONS_AT_ONCE
from engine.estimate.peak import sampling_peak, training_peak
from engine.families.files import BaseConfigs, configs_of
from engine.families.latents import LatentSpace
from engine.families.sizes import NetSize
from engine.families.text import INT8_BYTES
from engine.machine.units import GIB
from engine.nets.starting_controlnet import reads_latents, with_starting_net
from engine.tuning.facts import UPDATED_TOGETHER, facts_of, is_over_start, master_weights_of
from engine.workspace.paths import Workspace

CONTEXT_BYTES = 0.75 * GIB  # CUDA's own, with the kernels of torch and cuDNN
SLACK = 1.05  # the allocator cannot use all of its blocks
PROCESS_RAM = 1.5 * GIB  # Python with torch, diffusers, CUDA and their libraries
PROCESS_RAM_WITHOUT_CARD = 0.7 * GIB
IN_UPDATE = 12  # bytes for each weight that is updated in the backward pass: its gradient, and what the update takes
DECODED_SIDE = 512  # px; a larger image is decoded in tiles of this size if memory runs out
DRAWN_PIXELS = 4 * 512**2  # pixels of preview images drawn together, each with and without its prompt
ENCODE_BATCH_PIXELS = 4 * 512**2  # pixels of images that the VAE encodes together
STEP_PARTS = ("gradients", "activations", "optimizer")  # of the training phase; the others are there before a step


@dataclass(frozen=True)
class Prediction:
    """Bytes. Each of the three phases lists its parts, which are in memory together."""

    preparing: Mapping[str, float]
    training: Mapping[str, float]
    pictures: Mapping[str, float]
    ram: float
    """The computer's memory, if the run is on a graphics card."""
    checkpoint: float
    """Disk, for one checkpoint."""
    cache: float
    """Disk, for latents, text, and condition maps at most."""
    weights_of_checkpoint: float = 0.0
    """Disk, for a checkpoint that cannot be resumed from."""

    @property
    def step(self) -> float:
        """Graphics memory at the peak of a training step."""
        return sum(self.training.values())

    @property
    def resident(self) -> float:
        """Graphics memory of the nets as they are built: weights and EMA. The first step adds the optimizer's state."""
        return sum(size for part, size in self.training.items() if part not in STEP_PARTS)

    @property
    def peak(self) -> float:
        """Peak graphics memory; without a card, the computer's memory beside the process itself."""
        return max(sum(phase.values()) for phase in (self.preparing, self.training, self.pictures))

    @property
    def needs(self) -> float:
        """``peak`` with what the driver takes and the allocator cannot use."""
        return self.peak * SLACK + CONTEXT_BYTES


@dataclass(frozen=True)
class LongCaptions:
    """The captions of a dataset that are read in more than one chunk."""

    count: int = 0
    chunks: int = 1
    """Chunks of the longest one; every text of the run is as long."""


NO_LONG_CAPTIONS = LongCaptions()


def images_encoded_together(resolution: int) -> int:
    """The VAE's batch size: up to 1024 px it then needs no more than at 512 px (2.8 GB, for cards of 6 GB)."""
    return max(1, min(8, ENCODE_BATCH_PIXELS // resolution**2))


def images_drawn_together(resolution: int) -> int:
    """Preview images in a batch: four at 512 px, fewer larger ones."""
    return max(1, min(4, DRAWN_PIXELS // resolution**2))


def images_drawn_at_once(config: RunConfig) -> int:
    """Preview images of a run that are in one batch; 0 if it draws none."""
    settings = config.validation
    if not settings.every:
        return 0
    own = MOST_OWN if settings.pictures_folder else 0  # the folder is not read here
    return min(images_drawn_together(config.data.resolution), settings.images_each_time + own)


def predict(
    workspace: Workspace, config: RunConfig, images: int = 0, long: LongCaptions = NO_LONG_CAPTIONS
) -> Prediction:
    """The prediction for a run. A base that is not on this disk counts as Stable Diffusion 1.5.

    Args:
        images: number of images in the dataset, for the cache.
        long: those with long captions.
    """
    return predict_from(config, configs_of(workspace, config.model.base), images, long=long)


def predict_from(
    config: RunConfig,
    base: BaseConfigs,
    images: int = 0,
    processes: int = 1,
    long: LongCaptions = NO_LONG_CAPTIONS,
) -> Prediction:
    """``predict`` from the configs of a base.

    Args:
        processes: that share the micro-batches of a step; the prediction is for one of them.
    """
    resolution, train, optim = config.data.resolution, config.train, config.optim
    decoded_side = min(resolution, DECODED_SIDE)
    encoders = base.facts.count_encoders(base.vae, base.text_encoders, resolution, decoded_side)
    facts, tokens = facts_of(config), encoders.tokens
    short_text = base.facts.count(base.denoiser, resolution, tokens).text
    learned = with_starting_net(facts.learned, config.model.controlnet, base.facts)
    sizes = base.facts.count(base.denoiser, resolution, long.chunks * tokens, learned)
    text_factors = facts.rank * encoders.text_sides if facts.learned.text else 0
    if text_factors:
        adafactor = encoders.text_sides + 2 * facts.rank * encoders.text_layers
        factors = NetSize(sizes.controlnet.weights + text_factors, sizes.controlnet.adafactor + adafactor)
        sizes = replace(sizes, controlnet=factors)
    beside, of_base = facts.trained_beside(sizes), facts.trained_of_base(sizes)
    if facts.learned.text and not facts.base_is_frozen:
        text_whole = encoders.text
        of_base = (*of_base, NetSize(text_whole, encoders.text_sides))
    else:
        text_whole = 0
    trained, base_trained = (sum(net.trained for net in nets) for nets in (beside, of_base))
    on_card, has_ema = not optim.offload, optim.ema_decay > 0
    bytes_each = 4 if train.precision == "fp32" else 2
    has_copy = bytes_each < 4 or optim.offload  # the nets that compute are copies of the master weights
    kept = master_weights_of(config, train.precision, processes)
    master_bytes = {"whole": 4, "split": 2, "none": 0}[kept]
    optimizer = sum(optimizer_bytes(net, optim.optimizer) for net in (*beside, *of_base))
    optimizer_on_card = on_card and not optim.optimizer.startswith("paged")  # a paged state moves to RAM when needed
    averaged = trained + (base_trained if facts.averages_base else 0)
    ema = averaged * 4 if has_ema else 0
    frozen = sizes.controlnet.shared if is_over_start(config, base.facts) else 0  # they are the net's own
    frozen_net = base.facts.count(base.denoiser, resolution, tokens).controlnet.weights if facts.frozen_net else 0
    resident = {
        "base model": float(sizes.denoiser.stored(train.base_storage, train.modulation_storage, bytes_each)),
        "trained weights": float((trained + (base_trained if has_copy else 0)) * master_bytes if on_card else 0),
        "their compute copy": float(trained * bytes_each if has_copy else 0),
        **({"text encoder": float(encoders.text * bytes_each)} if facts.learned.text else {}),
        **({"frozen ControlNet": float(frozen_net * bytes_each)} if frozen_net else {}),
        **({"frozen weights of the ControlNet": float(frozen * bytes_each)} if frozen else {}),
        **({"singular vectors": float(sizes.denoiser.vectors * bytes_each)} if sizes.denoiser.vectors else {}),
        "optimizer": float(optimizer if optimizer_on_card else 0),
        "EMA": float(ema if optim.ema_device == "same" and on_card else 0),
    }
    accumulates = train.accumulation > processes
    half_gradients = not accumulates and (kept != "whole" or (optim.half_gradients and processes == 1))
    together = train.batch_size * (1 if config.tuning.preserved_by == "none" else 2)  # with what is preserved
    step = training_peak(
        sizes,
        together,
        bytes_each,
        facts.checkpointed(train.gradient_checkpointing),
        accumulates,
        on_card,
        gradient_bytes=bytes_each if half_gradients else 4,
        most_gradients=UPDATED_TOGETHER * IN_UPDATE if optim.in_backward else math.inf,
    )
    of_encoders = 0 if optim.in_backward else text_factors + text_whole  # few are there at once, of all nets together
    text_gradients = float(of_encoders * (bytes_each if half_gradients else 4))
    of_captions = together * encoders.caption_kept * bytes_each if facts.learned.text else 0
    encoding = 4 * (encoders.vae + images_encoded_together(resolution) * encoders.image)
    text_encoding = 4 * (encoders.text + CAPTIONS_AT_ONCE * encoders.caption)
    decoding = 4 * (encoders.vae + encoders.decoded_image)
    encoded = reads_latents(config.model.controlnet, base.facts)
    encoding_control = 4 * encoders.vae if encoded else 0  # the VAE stays while images are drawn
    predictions = 1 if base.facts.guidance_embedded else 2  # for each image: with the prompt and without it
    sampling = sampling_peak(sizes, predictions * images_drawn_together(resolution), bytes_each)
    drawing = max(sampling + encoding_control, decoding)
    ema_in_ram = ema if optim.ema_device == "cpu" or not on_card else 0
    offloaded = 0 if on_card else (trained + base_trained) * 8 + optimizer
    # While nets are loaded: the base; then the net that begins as its copy, beside one that is quantized then.
    base_in_ram = (sizes.denoiser.weights + text_whole) * facts.bytes_when_loaded(bytes_each)
    built = (facts.built_in_ram(sizes, bool(config.model.controlnet)) + frozen_net) * 4
    loading = max(base_in_ram, built + (base_in_ram if train.base_storage != "same" else 0))
    tables = sizes.denoiser.tables * bytes_each + sizes.controlnet.tables * 4 * (2 if has_copy else 1)
    draws = config.validation.every and facts.has_previews
    kept_vae = 4 * encoders.vae if draws else 0  # between two sets of preview images
    latents = 2 * math.prod(LatentSpace.from_config(base.vae).shape(resolution, resolution)) * 2  # mean, logvar; fp16
    largest_map = latents / 2 if encoded else 3 * resolution**2  # the mean alone; in colour
    of_text = INT8_BYTES if config.text.uses_int8(images, lambda: short_text) else 2
    on_disk = latents + short_text * of_text + (largest_map if facts.needs_condition_maps else 0)
    saved = facts.saved_weights(sizes) + text_whole
    averaged_too = facts.averaged_weights(sizes) + text_whole if has_ema else 0
    weights_on_disk = 4 * (saved + averaged_too)
    return Prediction(
        preparing={"VAE or text encoder": float(max(encoding, text_encoding))},
        training={
            **resident,
            "gradients": step.gradients + text_gradients,
            "activations": step.activations + of_captions,
        },
        pictures={**resident, "pictures": float(drawing) if facts.has_previews else 0.0},
        ram=PROCESS_RAM + tables + max(loading, built + kept_vae + ema_in_ram + offloaded + optimizer),
        checkpoint=weights_on_disk + optimizer,
        cache=float(images * on_disk + long.count * (sizes.text - short_text) * of_text),
        weights_of_checkpoint=float(weights_on_disk),
    )


def optimizer_bytes(net: NetSize, optimizer: str) -> float:
    """Size of an optimizer's state: two moments for Adam, in 8 bits with a scale for every 256 of them."""
    if optimizer == "adamw":
        return 8.0 * net.trained
    if optimizer == "adafactor":
        return 4.0 * net.adafactor
    return 2 * (1 + 4 / 256) * net.trained
