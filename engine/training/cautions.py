"""What a person should know before a run starts: all rules in their order, and those about settings. docs/training.md.

Pure functions of the settings and of facts that ``start_facts`` reads. Imports no torch.
"""

from __future__ import annotations

from dataclasses import replace

from engine.config import RunConfig
from engine.estimate.advice import MOST_PASSES, MOST_PER_STEP, rounded
from engine.evaluation.causes import LOW_RATE
from engine.machine.units import counted, format_bytes, format_duration
from engine.training.advisor import advice_for
from engine.training.caution import LEVELS, Caution, Remedy, Rule, StartFacts
from engine.training.image_cautions import (
    LOW_RANK_RATE,
    class_balance,
    dataset_check,
    demo_base,
    faulty_maps,
    lost_lines,
    missing_captions,
    missing_maps,
    number_of_images,
    small_images,
    unknown_images,
    without_optional_text,
)
from engine.training.teaching_cautions import begins_as, images_to_teach, missing_word, nothing_preserved
from engine.tuning.facts import facts_of

USUAL_RATE, UNLOCKED_RATE, WHOLE_BASE_RATE = 1e-5, 2e-6, 5e-6
"""Of a whole ControlNet (Zhang et al. 2023); with the base's decoder trained, too (the original code's advice); of a
whole base (between the 1e-6 and 1e-5 of diffusers' examples for Stable Diffusion XL and 1.x)."""
SPECTRUM_RATE = 1e-3
"""Of singular values (Han et al. 2023, arXiv 2303.11305)."""
WORD_RATE = 2e-3
"""Of a new word's vectors (Gal et al. 2022, 5e-3; diffusers' script, 2e-3)."""
TOO_LOW, TOO_HIGH, FAR_TOO_HIGH = LOW_RATE / USUAL_RATE, 10, 100
"""Times the usual learning rate. The lower bound is the verdict's ``LOW_RATE``, a fifth of the usual one."""
DISK_SHARE = 0.8
"""Of the free space, above which a run's largest need is close."""
LONG_WAIT = 12 * 3600.0
"""A wait of more than a night until the first sign, in seconds."""


def cautions(config: RunConfig, facts: StartFacts) -> tuple[Caution, ...]:
    """All cautions for a run, the red ones first, then in the order of ``RULES``."""
    controlled = facts_of(config).needs_condition_maps
    rules = [rule for rule in RULES if controlled or rule not in ABOUT_CONTROL]
    found = [(rule.__name__, rule(config, facts)) for rule in rules]
    named = [replace(caution, rule=name) for name, caution in found if caution is not None]
    return tuple(sorted(named, key=lambda caution: LEVELS.index(caution.level)))


def resolution(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The base was made for another size."""
    side, chosen = facts.base_side, config.data.resolution
    if not side or side == chosen:
        return None
    return Caution(
        "yellow",
        f"The base was made for {side} px, and the resolution is {chosen} px.",
        "A base draws best at the size it was made for, and what is trained works best at the size of the training.",
        f"Set the resolution to {side} px.",
        Remedy(f"Set {side} px", {"data.resolution": side}) if side % 64 == 0 and 64 <= side <= 2048 else None,
    )


def usual_rate(config: RunConfig, facts: StartFacts) -> float:
    """The usual learning rate for what is trained; 0: none is known."""
    if facts.on_demo_base:
        return facts.demo_rate
    if facts.toy:
        return 0.0
    trained = facts_of(config)
    if trained.learned.vectors:
        return WORD_RATE
    if trained.learned.base == "svdiff":
        return SPECTRUM_RATE
    if not trained.base_is_frozen:
        return UNLOCKED_RATE if trained.learned.control else WHOLE_BASE_RATE
    return LOW_RANK_RATE if trained.rank else USUAL_RATE


def learning_rate(config: RunConfig, facts: StartFacts) -> Caution | None:
    """Far from the usual one: below a fifth of it, or from ``TOO_HIGH`` times it on; red from ``FAR_TOO_HIGH`` on."""
    usual, rate = usual_rate(config, facts), config.optim.learning_rate
    times = rate / usual if usual else 1.0
    if TOO_LOW <= times < TOO_HIGH * (1 - 1e-9):  # rounding: 1e-4 / 1e-5 is below 10
        return None
    remedy = Remedy(f"Set {number(usual)}", {"optim.learning_rate": usual})
    try_this = f"Set it to {number(usual)}."
    if times < 1:
        why = "It would show no effect for many hours."
        return Caution("yellow", f"The learning rate, {number(rate)}, is very low.", why, try_this, remedy)
    far = times >= FAR_TOO_HIGH * (1 - 1e-9)
    return Caution(
        "red" if far else "yellow",
        f"The learning rate, {number(rate)}, is about {counted(round(times), 'time')} the usual value.",
        "A rate this high damages the weights."
        if far
        else "Colours may be distorted, and the net may get worse instead of better.",
        try_this,
        remedy,
        anyway="Train with this learning rate anyway" if far else "",
    )


def batch(config: RunConfig, facts: StartFacts) -> Caution | None:
    """One image a step, more than ``MOST_PER_STEP``, or more than there are."""
    per_step = config.images_per_step
    if per_step == 1 and not facts.toy and facts_of(config).needs_condition_maps:
        return Caution(
            "yellow",
            "Each step sees a single image.",
            "With so few, steps contradict each other, and the net learns late or not at all; 4 images are usual.",
            "Set gradient accumulation to 4: it needs no more memory.",
            Remedy("Set 4", {"train.accumulation": 4}),
        )
    if per_step > MOST_PER_STEP or 0 < facts.images < per_step:
        return Caution(
            "yellow",
            f"Each step sees {counted(per_step, 'image')}"
            + (f" of {facts.images:,}." if facts.images < per_step else "."),
            "A batch this large takes long and teaches little more than a small one; 4 to 32 images are usual.",
            "Lower batch size or gradient accumulation.",
        )
    return None


def too_short(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The run ends before a new net begins to follow, at best (engine/estimate/sudden_convergence.py)."""
    advice = advice_for(config, facts)
    if facts.toy or config.model.controlnet or advice is None or advice.follows is None:
        return None
    if config.train.steps >= advice.follows.low:
        return None
    shown = config.train.steps * config.images_per_step
    low, high = rounded(advice.follows.low), rounded(advice.follows.high)
    steps = counted(advice.steps, "step")
    return Caution(
        "yellow",
        f"The run is short: {counted(config.train.steps, 'step shows', 'steps show')} {counted(shown, 'image')}.",
        f"A net like this begins to follow its control images after about {low:,} to {counted(high, 'step')}.",
        f"Train {steps}.",
        Remedy(f"Set {steps}", {"train.steps": advice.steps}),
    )


def noisy_timesteps(config: RunConfig, facts: StartFacts) -> Caution | None:
    """A distillation that sees few clean images. Measured in docs/fewer-steps.md."""
    if not facts_of(config).distilled or config.objective.timestep_sampling != "cubic":
        return None
    return Caution(
        "yellow",
        "Timestep sampling is cubic: most timesteps are noisy ones.",
        "What an LCM-LoRA learns starts from the clean ones. With few of them its images lose contrast and shape.",
        "Set it to uniform.",
        Remedy("Set uniform", {"objective.timestep_sampling": "uniform"}),
    )


def too_often(config: RunConfig, facts: StartFacts) -> Caution | None:
    """Each image is shown more than ``MOST_PASSES`` times."""
    if not facts.images:
        return None
    passes = config.train.steps * config.images_per_step / facts.images
    if passes <= MOST_PASSES:
        return None
    return Caution(
        "yellow",
        f"The run shows each image {counted(round(passes), 'time')}.",
        "A net that sees the same few images this often memorizes them.",
        "Add images, or train fewer steps.",
        look="dataset",
    )


def disk(config: RunConfig, facts: StartFacts) -> Caution | None:
    """The run may take more than ``DISK_SHARE`` of the free space."""
    if facts.disk_needed <= DISK_SHARE * facts.disk_free:
        return None
    kept = config.train.keep_checkpoints
    return Caution(
        "yellow",
        f"The run takes up to {format_bytes(facts.disk_needed)} of disk, and {format_bytes(facts.disk_free)} are free.",
        "When the disk is full, training waits until space is freed.",
        "Free some space, or keep fewer checkpoints.",
        Remedy("Keep 2 checkpoints", {"train.keep_checkpoints": 2}) if kept == 0 or kept > 2 else None,
    )


def first_sign(config: RunConfig, facts: StartFacts) -> Caution | None:
    """A new net begins to follow after ``LONG_WAIT`` or more at best. Otherwise the advice says when."""
    advice = advice_for(config, facts)
    if facts.toy or config.model.controlnet or advice is None or advice.follows is None or not facts.seconds_per_image:
        return None
    soonest, latest = (steps * advice.seconds_per_step for steps in (advice.follows.low, advice.follows.high))
    if soonest < LONG_WAIT:
        return None
    source = "as measured on this machine" if facts.measured else "by a rough estimate"
    return Caution(
        "yellow",
        f"The net should begin to follow after {format_duration(soonest)} to {format_duration(latest)}, {source}.",
        "That is a long time." if facts.on_card else "That is a long time: no graphics card is in use.",
        "Choose a smaller base, or a lower resolution."
        if facts.on_card
        else "Train on a computer with a graphics card, or try the demo, which takes minutes.",
    )


RULES: tuple[Rule, ...] = (
    demo_base,
    without_optional_text,
    unknown_images,
    number_of_images,
    images_to_teach,
    nothing_preserved,
    small_images,
    missing_maps,
    faulty_maps,
    lost_lines,
    dataset_check,
    class_balance,
    missing_captions,
    missing_word,
    begins_as,
    resolution,
    learning_rate,
    batch,
    noisy_timesteps,
    too_short,
    too_often,
    disk,
    first_sign,
)
"""In the order of the page."""
ABOUT_CONTROL: tuple[Rule, ...] = (
    unknown_images,
    number_of_images,
    missing_maps,
    faulty_maps,
    lost_lines,
    too_short,
    first_sign,
)
"""They apply to nets that learn to follow control images. Other runs are not judged by them."""


WITH_REMEDY = tuple(
    rule.__name__
    for rule in (
        number_of_images,
        nothing_preserved,
        begins_as,
        resolution,
        learning_rate,
        batch,
        noisy_timesteps,
        too_short,
        disk,
    )
)
"""Names of the rules that offer other settings."""


def number(value: float) -> str:
    """A learning rate as people write it: 1e-5."""
    return f"{value:g}".replace("e-0", "e-")
