"""What is known of one kind of trainable without torch: what it needs, what it takes, what it is exported as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.families.sizes import Learned, NetSize, Sizes

Exported = Literal["control net", "adapter", "base"]
"""A net beside the base, a small file that is added to it, or the base itself."""


@dataclass(frozen=True)
class TrainableFacts:
    """The kind of trainable that a run's settings ask for."""

    kind: str
    """Its key in ``build.BUILDERS``."""
    learned: Learned = Learned()
    """What is trained, for the estimate."""
    averages_base: bool = False
    """An EMA covers the trained weights of the base, too."""
    needs_condition_maps: bool = True
    """Each training image needs a condition map. The result is judged by the control gain, and its previews show what
    the control image asked for."""
    not_sharded: tuple[str, ...] = ()
    """Why FSDP and DeepSpeed cannot shard it, each as a noun phrase; empty: they can."""
    one_card: bool = False
    """It cannot be trained by several processes."""
    message: str = ""
    """What the user is told when training starts; empty: nothing."""
    trains: str = "a ControlNet"
    """What is trained, as a noun phrase for people; checkpoints say it, too."""
    not_drawn: str = ""
    """Why no images are drawn with it, as a sentence; empty: they are, with its ControlNet and a control image."""

    drawn_by_prompt: bool = False
    """Its previews are drawn from captions and prompts alone, without control images."""
    added_to_base: bool = False
    """Its checkpoints hold a file that is added to the base, so that Try it can draw with them (runs/adapters.py)."""

    frozen_net: bool = False
    """Each step also computes with a ControlNet that stays as it is (``model.controlnet``)."""
    distilled: bool = False
    """It learns from the untrained base to draw in fewer steps. There are no loss checks; its previews are compared
    with those of the untrained base at the usual number of steps."""
    drawn_with: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a drawing (inference/settings.py) that differ from those for other runs on its base."""

    @property
    def exported_as(self) -> Exported:
        """What an export of it is; it decides the formats."""
        other: Exported = "base" if self.learned.base in ("everything", "svdiff") else "control net"
        return "adapter" if self.added_to_base else other

    @property
    def has_previews(self) -> bool:
        """Images are drawn while it trains."""
        return self.drawn_by_prompt or self.frozen_net or not self.not_drawn

    @property
    def why_not_drawn(self) -> str:
        """A sentence on what is trained and why no images can be drawn with it; empty if they can."""
        return f"It trains {self.trains}. {self.not_drawn}" if self.not_drawn else ""

    @property
    def rank(self) -> int:
        """Rank of the low-rank factors; 0: whole weights are trained."""
        return self.learned.rank

    @property
    def base_is_frozen(self) -> bool:
        """None of the base's own weights is trained, so that it may be quantized."""
        return self.learned.base in ("nothing", "factors", "svdiff")

    # What memory and disk it takes. A trainable of which ``Learned`` does not tell it derives a class of its own.

    def trained_beside(self, sizes: Sizes) -> tuple[NetSize, ...]:
        """Sizes of the trained nets beside the base. Each takes master weights, gradients and an optimizer's state."""
        return (sizes.controlnet,) if self.learned.control else ()

    def trained_of_base(self, sizes: Sizes) -> tuple[NetSize, ...]:
        """Sizes of the trained parts of the base, which take the same."""
        parts = {"decoder": (sizes.decoder,), "everything": (sizes.denoiser,)}
        return parts.get(self.learned.base, ())

    def built_in_ram(self, sizes: Sizes, from_file: bool) -> int:
        """Number of fp32 values of the net that is built in RAM before it moves to the device.

        Args:
            from_file: it starts from another net. A new Control-LoRA is never in RAM as a whole net.
        """
        if not self.learned.control:
            return sizes.denoiser.weights
        return sizes.controlnet.trained if self.rank and not from_file else sizes.controlnet.weights

    def bytes_when_loaded(self, bytes_each: int) -> int:
        """Bytes of each weight of the base as it is loaded: fp32 where master weights begin as its copy.

        Args:
            bytes_each: in the run's precision.
        """
        return bytes_each if self.base_is_frozen else 4

    def averaged_weights(self, sizes: Sizes) -> int:
        """Number of values in a checkpoint's averaged files. Low-rank weights are saved merged, too."""
        net = sizes.controlnet
        control = net.weights + net.tables + (net.trained if self.rank else 0)
        return control + (self._of_base(sizes) if self.averages_base else 0)

    def saved_weights(self, sizes: Sizes) -> int:
        """Number of values in a checkpoint's files, without the averaged ones."""
        return self.averaged_weights(sizes) + (0 if self.averages_base else self._of_base(sizes))

    def _of_base(self, sizes: Sizes) -> int:
        return sum(part.trained for part in self.trained_of_base(sizes))

    def checkpointed(self, scope: str) -> tuple[bool, bool]:
        """Whether gradient checkpointing covers the control net, and the denoiser.

        Args:
            scope: as ``Trainable.use_gradient_checkpointing`` takes it.
        """
        control = scope != "none" and self.learned.control
        return control, scope == "both" or (scope != "none" and not self.learned.control)


class AdapterFacts(TrainableFacts):
    """A net of low-rank factors, of a word's vectors or of shifts, which the family's counting returns in the place of
    a control net."""

    def trained_beside(self, sizes: Sizes) -> tuple[NetSize, ...]:
        return (sizes.controlnet,)

    def built_in_ram(self, sizes: Sizes, from_file: bool) -> int:
        return sizes.controlnet.weights

    def averaged_weights(self, sizes: Sizes) -> int:
        return sizes.controlnet.weights
