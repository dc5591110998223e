"""What a run's settings say about the weights that learn. Imports no torch: the estimate asks, too."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Literal

from engine.config import RunConfig
from engine.errors import UserError
from engine.families.family_facts import FamilyFacts
from engine.families.sizes import Learned
from engine.tuning.trainable_facts import AdapterFacts, TrainableFacts

MasterWeights = Literal["whole", "split", "none"]
"""How fp32 master weights are kept: as they are; in two halves, of which the copy that computes is one; not at all."""

UPDATED_TOGETHER = 2**23
"""With ``optim.in_backward``: an update begins when this many weights have their gradients, whole weights at a time."""
WHY_WHOLE = "offloaded ones, several cards and fp32 need that, and only bf16 weights can be split"
LOW_RANK_IS_NOT_SHARDED = "a Control-LoRA (its layers are the base's)"
LORA_IS_NOT_SHARDED = "a LoRA (its layers are the base's)"
SPECTRUM_IS_NOT_SHARDED = "singular values (their layers are the base's)"
BASE_IS_NOT_SHARDED = "the whole base, which is trained without a ControlNet"
LCM_NOT_DRAWN = (
    "Draw with its LoRA: choose the run in Try it, or a ControlNet's run and the exported file under LoRA and "
    "embedding files, with the LCM sampler."
)
WORD_IS_NOT_SHARDED = "a new word (its text encoders are the base's)"
NOT_MEASURED = "Its images are drawn from prompts, without control images that they could be compared with."
BASE_NOT_DRAWN = "Export it, then choose the folder or file as base model, in Try it or for a ControlNet run."
UNLOCKED_IS_NOT_SHARDED = "a base that is trained, too (objective.sd_locked off)"
UNLOCKED_MESSAGE = "The base is trained, too: Try it uses what it learned; exports contain only the ControlNet."


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


def lcm(config: RunConfig) -> TrainableFacts | None:
    """A LoRA with which the base draws in a few steps, alone or under a frozen ControlNet."""
    tuning, model, optim = config.tuning, config.model, config.optim
    with_net = bool(model.controlnet)
    if tuning.what != "lcm":
        return None
    return AdapterFacts(
        "lcm",
        Learned(control=False, rank=tuning.rank, base="factors", adapted=tuning.layers),
        needs_condition_maps=with_net,
        not_sharded=(LORA_IS_NOT_SHARDED,),
        one_card=optim.ema_decay > 0,
        trains="an LCM-LoRA",
        not_drawn=LCM_NOT_DRAWN,
        drawn_by_prompt=not with_net,
        added_to_base=True,
        frozen_net=with_net,
        distilled=True,
        drawn_with=MappingProxyType({"sampler": "lcm", "steps": tuning.lcm_steps, "guidance": 1.0}),
    )


def whole_base(config: RunConfig) -> TrainableFacts | None:
    """Every weight of the base's denoiser, and of its text encoders if wanted."""
    tuning = config.tuning
    if tuning.what != "base":
        return None
    return TrainableFacts(
        "whole_base",
        Learned(control=False, base="everything", text=tuning.text_rate > 0),
        averages_base=True,
        needs_condition_maps=False,
        not_sharded=(BASE_IS_NOT_SHARDED,),
        trains="the whole base" + (" with its text encoders" if tuning.text_rate > 0 else ""),
        not_drawn=BASE_NOT_DRAWN,
        drawn_by_prompt=True,
    )


def svdiff(config: RunConfig) -> TrainableFacts | None:
    """Shifts of the singular values of the denoiser's weights."""
    tuning = config.tuning
    if tuning.what != "svdiff":
        return None
    return AdapterFacts(
        "svdiff",
        Learned(control=False, base="svdiff"),
        needs_condition_maps=False,
        not_sharded=(SPECTRUM_IS_NOT_SHARDED,),
        message="The singular values of the base's weights are computed first.",
        trains="singular values of the base (SVDiff)",
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
    lcm,
    new_word,
    whole_base,
    svdiff,
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
