"""What a run's settings say about the weights that learn. Imports no torch: the estimate asks, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engine.config import RunConfig
from engine.families.sizes import NetSize, Sizes

MasterWeights = Literal["whole", "split", "none"]
"""How fp32 master weights are kept: as they are; in two halves, of which the copy that computes is one; not at all."""

WHY_WHOLE = "offloaded ones, several cards and fp32 need that, and only bf16 weights can be split"
LOW_RANK_IS_NOT_SHARDED = "a Control-LoRA (its layers are the base's)"
UNLOCKED_IS_NOT_SHARDED = "a base that is trained, too (objective.sd_locked off)"
UNLOCKED_MESSAGE = "The base is trained, too: Try it uses what it learned; exports contain only the ControlNet."


@dataclass(frozen=True)
class TrainableFacts:
    """The kind of trainable that a run's settings ask for."""

    kind: str
    """Its key in ``build.BUILDERS``."""
    rank: int = 0
    """Rank of the low-rank factors; 0: whole weights are trained."""
    base_is_frozen: bool = True
    """No weight of the base is trained, so that it may be quantized."""
    needs_condition_maps: bool = True
    """Each training image needs a condition map. The result is judged by the control gain, and its previews show what
    the control image asked for."""
    not_sharded: tuple[str, ...] = ()
    """Why FSDP and DeepSpeed cannot shard it, each as a noun phrase; empty: they can."""
    message: str = ""
    """What the user is told when training starts; empty: nothing."""
    not_drawn: str = ""
    """Why no images are drawn with it, as a sentence; empty: they are, with its ControlNet and a control image."""

    # A trainable that is not a ControlNet derives a class with its own sizes.

    def trained_beside(self, sizes: Sizes) -> tuple[NetSize, ...]:
        """Sizes of the trained nets beside the base. Each takes master weights, gradients and an optimizer's state."""
        return (sizes.controlnet,)

    def trained_of_base(self, sizes: Sizes) -> tuple[NetSize, ...]:
        """Sizes of the trained parts of the base."""
        return () if self.base_is_frozen else (sizes.decoder,)

    def saved_weights(self, sizes: Sizes) -> int:
        """Numbers in a checkpoint's files of what is trained beside the base, without an average. Low rank is saved
        merged, too."""
        return sizes.controlnet.weights + (sizes.controlnet.trained if self.rank else 0)


def controlnet(config: RunConfig) -> TrainableFacts | None:
    """A whole ControlNet: what a run trains if its settings ask for nothing else."""
    return TrainableFacts("controlnet")


def control_lora(config: RunConfig) -> TrainableFacts | None:
    """A ControlNet whose copied layers are the base's, with low-rank factors beside them."""
    rank = config.model.control_lora_rank
    return TrainableFacts("control_lora", rank, not_sharded=(LOW_RANK_IS_NOT_SHARDED,)) if rank else None


def unlocked_decoder(config: RunConfig) -> TrainableFacts | None:
    """A ControlNet, whole or low rank, and the base's decoder."""
    if config.objective.sd_locked:
        return None
    control = control_lora(config)
    reasons = (*(control.not_sharded if control else ()), UNLOCKED_IS_NOT_SHARDED)
    return TrainableFacts(
        "unlocked_decoder",
        rank=control.rank if control else 0,
        base_is_frozen=False,
        not_sharded=reasons,
        message=UNLOCKED_MESSAGE,
    )


CASES: list[Callable[[RunConfig], TrainableFacts | None]] = [unlocked_decoder, control_lora, controlnet]
"""Each returns the facts of its trainable if the settings ask for it. The first that does counts."""


def facts_of(config: RunConfig) -> TrainableFacts:
    """The facts of the trainable that these settings ask for. The engine asks here instead of reading the settings.

    Besides the cases only the validators in ``engine.config``, which exclude combinations, and the keys of measured
    trials read them.
    """
    return next(facts for case in CASES if (facts := case(config)) is not None)


def master_weights_of(config: RunConfig, precision: str, processes: int = 1) -> MasterWeights:
    """How a run keeps its master weights: as its settings say, where that is possible.

    Several processes, weights in RAM and fp32 need them whole, and fp16 is no half of fp32 (``WHY_WHOLE``).

    Args:
        precision: "fp32", "fp16" or "bf16", which may differ from the settings' on an old card.
    """
    wanted = config.optim.master_weights
    needs_whole = config.optim.offload or processes > 1 or precision == "fp32"
    return "whole" if needs_whole or (wanted == "split" and precision != "bf16") else wanted
