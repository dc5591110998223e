"""Module names of a denoiser and its control net, for code that handles layers by name. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Layers:
    """Module names, relative to the net. Code that freezes, quantizes, shares or checkpoints layers reads them here."""

    quantized: tuple[str, ...]
    """Prefixes of the denoiser's layers that may be quantized; its first and last layers keep their
    precision."""
    copied: tuple[str, ...]
    """Prefixes of the control net's layers that begin as copies of the denoiser's. Names there: ``origins``."""
    after_control: tuple[str, ...]
    """The denoiser's modules behind the control ("decoder"): they train, too, if the base is not locked."""
    outer_outputs: tuple[str, ...]
    """The control net's output modules except the one into the denoiser's middle (``only_mid_control``)."""
    control_encoder: str
    """The control net's module that reads the control image at full size; "": it reads latents."""
    adapted: Mapping[str, str] = field(default_factory=dict)
    """Layers of the denoiser that a LoRA changes, as a regular expression for each choice of ``tuning.layers``; empty:
    no LoRA is trained for such bases."""
    adapted_prefix: str = ""
    """Before the names of these layers in LoRA files, as kohya's scripts write them; with a dot, as diffusers does."""
    origins: tuple[str, ...] = ()
    """Names of ``copied`` in the denoiser, one for each; empty: the same names."""
    modulation: tuple[str, ...] = ()
    """Ends of the names of layers that turn timestep and pooled text into scale and shift of every token (adaLN)."""

    control_embedder: tuple[str, str] | None = None
    """The control net's layer that reads latents of the control image, and the denoiser's for noisy latents of the same
    shape, as a copy of which it may start; None: there is no such pair."""

    def modulates(self, name: str) -> bool:
        """Whether a layer of the denoiser is one of ``modulation``."""
        return name.endswith(self.modulation)

    def adapted_name(self, name: str) -> str:
        """The name that LoRA files have for a layer: with kohya's prefix, or as diffusers writes it."""
        prefix = self.adapted_prefix
        return prefix + (name if prefix.endswith(".") else name.replace(".", "_"))

    def in_control_net(self, name: str) -> str:
        """The control net's name of a layer or tensor of the denoiser that it copies."""
        return _renamed(name, self.origins, self.copied)

    def in_denoiser(self, name: str) -> str:
        """The inverse of ``in_control_net``."""
        return _renamed(name, self.copied, self.origins)


def _renamed(name: str, before: tuple[str, ...], after: tuple[str, ...]) -> str:
    found = next((n for n, prefix in enumerate(before) if name.startswith(prefix)), None)
    return name if found is None or not after else after[found] + name.removeprefix(before[found])


UNET = Layers(
    quantized=("down_blocks.", "mid_block.", "up_blocks."),
    copied=("conv_in.", "time_embedding.", "add_embedding.", "down_blocks.", "mid_block."),
    after_control=("up_blocks", "conv_norm_out", "conv_out"),
    outer_outputs=("controlnet_down_blocks",),
    control_encoder="controlnet_cond_embedding",
    adapted_prefix="lora_unet_",
    adapted=MappingProxyType(
        {  # as kohya's scripts choose them
            "attention": r"\.attn\d\.to_(q|k|v|out\.0)$",
            "linear": r"\.attentions\.\d+\.",
            "all": r"\.(attentions|resnets|downsamplers|upsamplers)\.\d+\.",
        }
    ),
)
"""diffusers' UNet2DConditionModel and ControlNetModel."""
_ATTENTION = r"(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)$"
JOINT_TRANSFORMER = Layers(
    adapted_prefix="transformer.",
    adapted=MappingProxyType(
        {
            "attention": rf"^transformer_blocks\.\d+\.attn2?\.{_ATTENTION}",
            "linear": r"^transformer_blocks\.\d+\.(attn2?|ff|ff_context)\.",
            "all": r"^transformer_blocks\.",
        }
    ),
    quantized=("transformer_blocks.",),
    copied=("pos_embed.", "time_text_embed.", "context_embedder.", "transformer_blocks."),
    after_control=(),
    outer_outputs=(),
    control_encoder="",
    modulation=(".norm1.linear", ".norm1_context.linear"),
    control_embedder=("pos_embed_input.proj", "pos_embed.proj"),
)
"""diffusers' SD3Transformer2DModel and SD3ControlNetModel."""
TWO_STREAM_TRANSFORMER = Layers(
    adapted_prefix="transformer.",
    adapted=MappingProxyType(
        {
            "attention": rf"^(single_)?transformer_blocks\.\d+\.attn\.{_ATTENTION}",
            "linear": r"^(single_)?transformer_blocks\.\d+\.(attn|ff|ff_context|proj_mlp|proj_out)(\.|$)",
            "all": r"^(single_)?transformer_blocks\.",
        }
    ),
    quantized=("transformer_blocks.", "single_transformer_blocks."),
    copied=(
        "x_embedder.",
        "time_text_embed.",
        "context_embedder.",
        "transformer_blocks.",
        "single_transformer_blocks.",
    ),
    after_control=(),
    outer_outputs=(),
    control_encoder="",
    modulation=(".norm1.linear", ".norm1_context.linear", ".norm.linear"),
)
"""diffusers' FluxTransformer2DModel and FluxControlNetModel."""
SINGLE_STREAM = Layers(
    adapted_prefix="transformer.",
    adapted=MappingProxyType(
        {
            "attention": rf"^(layers|noise_refiner|context_refiner)\.\d+\.attention\.{_ATTENTION}",
            "linear": r"^(layers|noise_refiner|context_refiner)\.\d+\.(attention|feed_forward)\.",
            "all": r"^(layers|noise_refiner|context_refiner)\.",
        }
    ),
    quantized=("layers.", "noise_refiner.", "context_refiner."),
    copied=("control_layers.", "control_noise_refiner."),
    after_control=(),
    outer_outputs=(),
    control_encoder="",
    origins=("layers.", "noise_refiner."),
    modulation=(".adaLN_modulation.0",),
)
"""diffusers' ZImageTransformer2DModel and ZImageControlNetModel."""
