"""What a run's settings say about the weights that learn. Imports no torch: the estimate asks, too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engine.config import RunConfig
from engine.errors import UserError
from engine.families.family_facts import FamilyFacts
from engine.families.sizes import Learned, NetSize, Sizes

MasterWeights = Literal["whole", "split", "none"]
"""How fp32 master weights are kept: as they are; in two halves, of which the copy that computes is one; not at all."""

Exported = Literal["control net", "adapter", "base"]
"""A net beside the base, a small file that is added to it, or the base itself."""

UPDATED_TOGETHER = 2**23
"""With ``optim.in_backward``: an update begins when this many weights have their gradients, whole weights at a time."""
WHY_WHOLE = "offloaded ones, several cards and fp32 need that, and only bf16 weights can be split"
LOW_RANK_IS_NOT_SHARDED = "a Control-LoRA (its layers are the base's)"
LORA_IS_NOT_SHARDED = "a LoRA (its layers are the base's)"
BASE_IS_NOT_SHARDED = "the whole base, which is trained without a ControlNet"
WORD_IS_NOT_SHARDED = "a new word (its text encoders are the base's)"
NOT_MEASURED = "Its images are drawn from prompts, without control images that they could be compared with."
BASE_NOT_DRAWN = "Export it, then choose the folder or file as base model, in Try it or for a ControlNet run."
UNLOCKED_IS_NOT_SHARDED = "a base that is trained, too (objective.sd_locked off)"
UNLOCKED_MESSAGE = "The base is trained, too: Try it uses what it learned; exports contain only the ControlNet."


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

    @property
    def exported_as(self) -> Exported:
        """What an export of it is; it decides the formats."""
        other: Exported = "base" if self.learned.base == "everything" else "control net"
        return "adapter" if self.added_to_base else other

    @property
    def has_previews(self) -> bool:
        """Images are drawn while it trains."""
        return self.drawn_by_prompt or not self.not_drawn

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
        return self.learned.base in ("nothing", "factors")

    # What memory and disk it takes. A trainable of which ``Learned`` does not tell it derives a class of its own.

    def trained_beside(self, sizes: Sizes) -> tuple[NetSize, ...]:
        """Sizes of the trained nets beside the base. Each takes master weights, gradients and an optimizer's state."""
        return (sizes.controlnet,) if self.learned.control else ()

    def trained_of_base(self, sizes: Sizes) -> tuple[NetSize, ...]:
        """Sizes of the trained parts of the base, which take the same."""
        parts = {"nothing": (), "factors": (), "decoder": (sizes.decoder,), "everything": (sizes.denoiser,)}
        return parts[self.learned.base]

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
    """A net of low-rank factors, or of a word's vectors, which the family's counting returns in the place of a control
    net."""

    def trained_beside(self, sizes: Sizes) -> tuple[NetSize, ...]:
        return (sizes.controlnet,)

    def built_in_ram(self, sizes: Sizes, from_file: bool) -> int:
        return sizes.controlnet.weights

    def averaged_weights(self, sizes: Sizes) -> int:
        return sizes.controlnet.weights


def lora(config: RunConfig) -> TrainableFacts | None:
    """Low-rank factors beside the base's own layers."""
    tuning = config.tuning
    if tuning.what not in ("lora", "subject"):
        return None
    return AdapterFacts(
        "lora",
        Learned(control=False, rank=tuning.rank, base="factors", adapted=tuning.layers, text=tuning.text_rate > 0),
        needs_condition_maps=False,
        not_sharded=(LORA_IS_NOT_SHARDED,),
        trains="a LoRA" if tuning.what == "lora" else "a subject (a LoRA)",
        not_drawn=NOT_MEASURED,
        drawn_by_prompt=True,
        added_to_base=True,
    )


def whole_base(config: RunConfig) -> TrainableFacts | None:
    """Every weight of the base's denoiser."""
    tuning = config.tuning
    if tuning.what != "base":
        return None
    return TrainableFacts(
        "whole_base",
        Learned(control=False, base="everything"),
        averages_base=True,
        needs_condition_maps=False,
        not_sharded=(BASE_IS_NOT_SHARDED,),
        trains="the whole base",
        not_drawn=BASE_NOT_DRAWN,
        drawn_by_prompt=True,
    )


def new_word(config: RunConfig) -> TrainableFacts | None:
    """The vectors of a new word."""
    tuning = config.tuning
    if tuning.what != "word":
        return None
    return AdapterFacts(
        "new_word",
        Learned(control=False, text=True, vectors=tuning.vectors),
        needs_condition_maps=False,
        not_sharded=(WORD_IS_NOT_SHARDED,),
        one_card=True,
        trains="a new word",
        not_drawn=NOT_MEASURED,
        drawn_by_prompt=True,
        added_to_base=True,
    )


def controlnet(config: RunConfig) -> TrainableFacts | None:
    """A whole ControlNet: what a run trains if its settings ask for nothing else."""
    return TrainableFacts("controlnet", Learned(blocks=config.model.control_blocks))


def control_lora(config: RunConfig) -> TrainableFacts | None:
    """A ControlNet whose copied layers are the base's, with low-rank factors beside them."""
    rank = config.model.control_lora_rank
    if not rank:
        return None
    reasons = (LOW_RANK_IS_NOT_SHARDED,)
    return TrainableFacts(
        "control_lora",
        Learned(rank=rank, blocks=config.model.control_blocks),
        not_sharded=reasons,
        trains="a Control-LoRA",
    )


def is_over_start(config: RunConfig, facts: FamilyFacts) -> bool:
    """Whether low-rank factors are on top of the weights of the ControlNet that a run starts from, not of the base's.

    Args:
        facts: of the base's family.
    """
    model = config.model
    if not model.control_lora_rank or not model.controlnet or model.low_rank_over == "base":
        return False
    return model.low_rank_over == "start" or "control_lora" not in facts.control_files.formats


def unlocked_decoder(config: RunConfig) -> TrainableFacts | None:
    """A ControlNet, whole or low rank, and the base's decoder."""
    if config.objective.sd_locked:
        return None
    control = control_lora(config)
    reasons = (*(control.not_sharded if control else ()), UNLOCKED_IS_NOT_SHARDED)
    return TrainableFacts(
        "unlocked_decoder",
        Learned(rank=control.rank if control else 0, blocks=config.model.control_blocks, base="decoder"),
        not_sharded=reasons,
        message=UNLOCKED_MESSAGE,
        trains=f"{control.trains if control else 'a ControlNet'} and the base's decoder",
    )


CASES: list[Callable[[RunConfig], TrainableFacts | None]] = [
    lora,
    new_word,
    whole_base,
    unlocked_decoder,
    control_lora,
    controlnet,
]
"""Each returns the facts of its trainable if the settings ask for it. The first that does counts."""


def facts_of(config: RunConfig) -> TrainableFacts:
    """The facts of the trainable that these settings ask for. The engine asks here instead of reading the settings.

    Besides the cases only the validators in ``engine.config``, which exclude combinations, and the keys of measured
    trials read them.
    """
    return next(facts for case in CASES if (facts := case(config)) is not None)


def trains_alike(one: RunConfig, other: RunConfig) -> bool:
    """Whether two runs train the same kind of net. A Control-LoRA's rank may differ."""
    return facts_of(one).kind == facts_of(other).kind


def require_drawn(config: RunConfig, run: str) -> None:
    """Refuse a run whose images cannot be drawn from control images.

    Args:
        run: its name.

    Raises:
        UserError: says what the run trains.
    """
    if why := facts_of(config).why_not_drawn:
        raise UserError(f"{run} cannot be used here.", why, "Choose a run that trains a ControlNet.")


def master_weights_of(config: RunConfig, precision: str, processes: int = 1) -> MasterWeights:
    """How a run keeps its master weights: as its settings say, where that is possible.

    Several processes, weights in RAM and fp32 need them whole, and fp16 is no half of fp32 (``WHY_WHOLE``).

    Args:
        precision: "fp32", "fp16" or "bf16", which may differ from the settings' on an old card.
    """
    wanted = config.optim.master_weights
    needs_whole = config.optim.offload or processes > 1 or precision == "fp32"
    return "whole" if needs_whole or (wanted == "split" and precision != "bf16") else wanted
