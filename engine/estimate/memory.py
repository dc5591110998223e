"""What a run will need of graphics memory, RAM and disk: arithmetic over its settings and the base's configs.

Nothing is loaded. These are predictions; a preflight measures (engine/training/preflight.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.data.captions import CAPTIONS_AT_ONCE
from engine.errors import UserError
from engine.estimate import peak
from engine.estimate.layer_sizes import Tally, count
from engine.families.files import LAYOUTS, configs_of
from engine.families.latents import LatentSpace
from engine.machine.units import GIB
from engine.workspace.paths import Workspace

CONTEXT_BYTES = 0.75 * GIB  # CUDA's own, with the kernels of torch and cuDNN
SLACK = 1.05  # of the allocator's blocks, some room cannot be used
PROCESS_RAM = 1.5 * GIB  # Python with torch, diffusers, CUDA and their libraries
PROCESS_RAM_WITHOUT_CARD = 0.7 * GIB
VAE_PARAMETERS, VAE_WIDEST = 83_653_863, 512  # of every Stable Diffusion
FP8_BYTES = 1.01  # a weight of the frozen base; norms and both ends stay in half precision
DECODED_SIDE = 512  # a larger image is decoded in tiles of this where memory does not suffice
LAYER = 3  # tensors at the VAE's widest layer: what goes in, what comes out, and the norm's answer between
FIRST_LAYER = 5  # where it encodes: also what the first convolution said, which diffusers holds on to, and a sum
DRAWN_PIXELS = 4 * 512**2  # of a preview's images drawn together, each with and without its prompt
ENCODE_BATCH_PIXELS = 4 * 512**2  # images that the VAE encodes together, in pixels


@dataclass(frozen=True)
class Prediction:
    """Bytes. Each phase has its parts; a phase's parts are in memory together."""

    preparing: Mapping[str, float]
    training: Mapping[str, float]
    pictures: Mapping[str, float]
    ram: float
    """Of the computer's memory, when the run is on a graphics card."""
    checkpoint: float
    """Disk, for one checkpoint."""
    cache: float
    """Disk, for latents, text, and at most for condition maps."""
    weights_of_checkpoint: float = 0.0
    """Disk, for one without what a resume needs."""

    @property
    def peak(self) -> float:
        """Most graphics memory at any time; without a card, of the computer's memory beside the process itself."""
        return max(sum(phase.values()) for phase in (self.preparing, self.training, self.pictures))

    @property
    def needs(self) -> float:
        """``peak`` with what the driver takes and the allocator cannot use."""
        return self.peak * SLACK + CONTEXT_BYTES


def images_encoded_together(resolution: int) -> int:
    """So that the VAE needs no more at any resolution up to 1024 px than at 512 px (2.8 GB, for cards of 6)."""
    return max(1, min(8, ENCODE_BATCH_PIXELS // resolution**2))


def images_drawn_together(resolution: int) -> int:
    """Of a preview: four at 512 px, and fewer larger ones."""
    return max(1, min(4, DRAWN_PIXELS // resolution**2))


def predict(workspace: Workspace, config: RunConfig, images: int = 0) -> Prediction:
    """The prediction for a run; where the base is not on this disk, as for Stable Diffusion 1.5.

    Args:
        images: in the dataset, for the cache.
    """
    folder = LAYOUTS / "sd1"
    try:
        folder = configs_of(workspace.locate_base(config.model.base)) or folder
        unet = _read(folder, "unet")
    except (UserError, OSError, ValueError):
        folder = LAYOUTS / "sd1"  # an incomplete base is refused in words elsewhere
        unet = _read(folder, "unet")
    texts = [_read(folder, part) for part in ("text_encoder", "text_encoder_2") if (folder / part).is_dir()]
    vae = _read(folder, "vae") if (folder / "vae" / "config.json").is_file() else {}
    return predict_from(config, unet, texts, vae, images)


def predict_from(
    config: RunConfig,
    unet: dict[str, Any],
    texts: list[dict[str, Any]],
    vae: dict[str, Any],
    images: int = 0,
) -> Prediction:
    """``predict`` from the configs of the UNet, of the text encoders, and of the VAE."""
    resolution, train, optim = config.data.resolution, config.train, config.optim
    words = int(texts[0].get("max_position_embeddings", 77)) if texts else 77
    locked = config.objective.sd_locked
    net = count(unet, resolution, words, not locked, config.model.control_lora_rank)
    wide = 4 if train.precision == "fp32" else 2
    learning, whole = net.controlnet.learning, net.controlnet.weights  # of a Control-LoRA, what is not the base's
    base_learning, on_card = 0 if locked else net.decoder.weights, not optim.offload
    apart = wide < 4 or optim.offload  # what computes is a copy of what learns
    of_base = FP8_BYTES if train.base_storage == "fp8" else wide
    moments = optimizer_bytes(net.controlnet, optim.optimizer)
    moments += 0 if locked else optimizer_bytes(net.decoder, optim.optimizer)
    average = learning * 4 if optim.ema_decay > 0 else 0
    resident = {
        "base model": float(net.unet.weights * of_base),
        "ControlNet": float((learning + (base_learning if apart else 0)) * 4 if on_card else 0),
        "its copy that computes": float(learning * wide if apart else 0),
        "optimizer": float(moments if on_card else 0),
        "average": float(average if optim.ema_device == "same" and on_card else 0),
    }
    adds_up = train.accumulation > 1
    fullest = peak.fullest(net, train.batch_size, wide, train.gradient_checkpointing, adds_up, on_card)
    drawing = peak.drawing(net, 2 * images_drawn_together(resolution), wide)
    widths = vae.get("block_out_channels", (128, 256, 512, VAE_WIDEST))
    vae_bytes = 4 * VAE_PARAMETERS * (widths[-1] / VAE_WIDEST) ** 2
    decoding = vae_bytes + 4 * LAYER * widths[1] * min(resolution, DECODED_SIDE) ** 2
    encoding = vae_bytes + 4 * FIRST_LAYER * widths[0] * resolution**2 * images_encoded_together(resolution)
    average_in_ram = average if optim.ema_device == "cpu" or not on_card else 0
    learning_in_ram = 0 if on_card else (learning + base_learning) * 8 + moments
    copies = 3 if config.optim.ema_decay > 0 else 1  # weights, average, and the weights put aside meanwhile
    space = LatentSpace.from_config(vae)
    latents = 2 * math.prod(space.shape(resolution, resolution)) * 2  # mean and log-variance in fp16
    map = 3 * resolution**2  # at most: in colour
    width = int(unet["cross_attention_dim"])
    kept_on_disk = whole + (learning if config.model.control_lora_rank else 0)  # the thin matrices, and put together
    return Prediction(
        preparing={"VAE or text encoder": float(max(encoding, _reading(texts, words)))},
        training={**resident, "gradients": fullest.gradients, "activations": fullest.activations},
        pictures={**resident, "pictures": float(max(drawing, decoding))},
        ram=PROCESS_RAM + copies * whole * 4 + average_in_ram + learning_in_ram + moments,
        checkpoint=kept_on_disk * (8 if config.optim.ema_decay > 0 else 4) + base_learning * 4 + moments,
        cache=float(images * (latents + words * width * 2 + map)),
        weights_of_checkpoint=float(kept_on_disk * (8 if config.optim.ema_decay > 0 else 4) + base_learning * 4),
    )


def optimizer_bytes(net: Tally, optimizer: str) -> float:
    """What an optimizer keeps for each net: Adam two moments, in 8 bits with a scale for every 256 of them."""
    if optimizer == "adamw":
        return 8.0 * net.learning
    if optimizer == "adafactor":
        return 4.0 * net.factored
    return 2 * (1 + 4 / 256) * net.learning


def _reading(texts: list[dict[str, Any]], words: int) -> int:
    """Bytes of text encoders that read: their weights, what each layer says, and one layer within; fp32."""
    read = CAPTIONS_AT_ONCE * words
    said = sum((int(text["num_hidden_layers"]) + 1) * int(text["hidden_size"]) for text in texts)
    within = max((2 * int(text["intermediate_size"]) for text in texts), default=0)
    return 4 * (sum(_text_parameters(text) for text in texts) + read * (said + within))


def _text_parameters(config: dict[str, Any]) -> int:
    """Of a CLIP text encoder, to a percent."""
    hidden, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    layer = 4 * hidden**2 + 2 * hidden * inner
    return int(config["num_hidden_layers"]) * layer + int(config["vocab_size"]) * hidden


def _read(folder: Path, part: str) -> dict[str, Any]:
    return json.loads((folder / part / "config.json").read_text(encoding="utf-8"))
