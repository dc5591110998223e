"""What the files of a family's control nets look like: tensor names, configs, what they share with a base. No torch.

A family whose nets have other names brings a ``ControlFiles`` of its own, in its facts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from engine.errors import UserError

T = TypeVar("T")
LORA_MARK = "lora_controlnet"
"""A tensor that only a Control-LoRA's file has."""
DIFFERENCE_MARK = "difference"
"""A tensor of files from the oldest trainers, whose copied layers hold differences to the base's weights."""
MODE = "_control_mode"
"""Entry of a union net's config: the kind of control images that it is used with, as a number. diffusers would
warn of an entry that begins otherwise."""
RGB = 3
OTHER_MODELS = (  # prefix of a tensor's name, and what a file with such names is
    ("model.diffusion_model.", "a complete Stable Diffusion model"),
    ("lora_unet_", "a LoRA"),
    ("lllite_", "a ControlNet-LLLite, a small net that only some programs support"),
    ("adapter.", "a T2I adapter"),
    ("ip_adapter", "an IP-Adapter"),
    ("image_proj", "an IP-Adapter"),
    ("up_blocks.", "the UNet of a base model"),
    ("first_stage_model.", "a Stable Diffusion model"),
    ("encoder.", "a VAE"),
)


class ControlFiles(ABC):
    """The files of one kind of control net. The methods that are not abstract suit one that is known by diffusers'
    names alone."""

    trigger: str
    """A tensor that every file with diffusers' names has, and that no other kind of net has."""
    config_mark: str
    """An entry that the config of every such net has."""
    same_as_base: Mapping[str, str]
    """Entries of its config that have to equal the denoiser's, and what they are for people."""
    own_entries: tuple[str, ...] = ()
    """Entries of its config in which a net may differ from a new one for the same base."""
    may_read_rgb: bool = False
    """Some of them read RGB control images where the family's read latents."""
    union_marks: tuple[str, ...] = ()
    """Beginnings of names that only a net for several kinds of control images has."""
    formats: tuple[str, ...] = ("single_file", "diffusers")
    """The export formats that exist for such nets."""
    programs: tuple[str, ...] = ("ComfyUI",)
    """The programs that read such files, besides diffusers."""

    @abstractmethod
    def control_channels(self, config: Mapping[str, Any]) -> int:
        """Channels of the control image that a net of this config reads."""

    @abstractmethod
    def config_from_shapes(self, shapes: Mapping[str, Sequence[int]], name: str) -> dict[str, Any]:
        """The entries of a net's config that the shapes of its tensors show.

        Args:
            shapes: by diffusers names.
            name: of the file, for the error.

        Raises:
            UserError: layers are missing.
        """

    def blocks(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Blocks of a transformer that a net of this config copies, and those of its second kind; 0: it is none."""
        return 0, 0

    def modes(self, config: Mapping[str, Any]) -> int:
        """Kinds of control images that a union net of this config tells apart by a number; 0: it does not."""
        return 0

    def why_misread(self, shapes: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> str:
        """Why these programs would read another net from a file with diffusers' names, as a clause; "": they do not.

        Args:
            shapes: in the file, by name.
            config: the net's.
        """
        return ""

    def recognize(self, names: Collection[str]) -> str:
        """The export format of a file with tensors of these names; empty: it is no such net."""
        return "single_file" if self.trigger in names else ""

    def holds_difference(self, names: Collection[str]) -> bool:
        """Whether a file's copied layers hold differences to the base's weights."""
        return False

    def is_of_rgb(self, config: Mapping[str, Any]) -> bool:
        """Whether a net of this config is one of those (``may_read_rgb``)."""
        return self.may_read_rgb and self.control_channels(config) == RGB

    def names_in_file(self, tensors: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of a net of this config under the names that the programs look for in a single file."""
        return tensors

    def plain_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The shapes in such a file by diffusers names."""
        return dict(shapes)

    def plain_names(self, format: str, tensors: Mapping[str, T]) -> dict[str, T]:
        """The tensors of a file under diffusers names, without marks. Those of a Control-LoRA keep the file's names:
        which layers they belong to depends on the net's config (``lora_names``)."""
        return dict(tensors)

    def lora_names(self, tensors: Mapping[str, T], config: Mapping[str, Any]) -> dict[str, T]:
        """The tensors of a Control-LoRA under diffusers names, which end in .up and .down for factors.

        Args:
            config: of a net for the base.

        Raises:
            UserError: a name belongs to no layer of such a net.
        """
        raise UserError(
            "This Control-LoRA cannot be read.",
            "This kind of net has no Control-LoRAs.",
            "Choose a complete ControlNet.",
        )


def incomplete(name: str, error: Exception) -> UserError:
    """The error about a file that lacks tensors."""
    return UserError(
        f"{name} is incomplete.", f"It lacks parts of a ControlNet ({error}).", "Copy or download it again."
    )
