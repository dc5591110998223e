"""The samplers and control modes that Try it offers. Light: no torch, no diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from engine.errors import UserError

if TYPE_CHECKING:
    from engine.families.facts import FamilyFacts
    from engine.families.registry import Family


@dataclass(frozen=True)
class Sampler:
    """One of diffusers' schedulers, with settings. ``title`` is also A1111's name for it."""

    name: str
    title: str
    scheduler: str
    hint: str
    options: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS = (
    Sampler("unipc", "UniPC", "UniPCMultistepScheduler", "Good from 15 steps; training previews use it."),
    Sampler("ddim", "DDIM", "DDIMScheduler", "The oldest one; needs about 50 steps.", {"clip_sample": False}),
    Sampler("euler", "Euler", "EulerDiscreteScheduler", "Simple and soft, 20 to 30 steps."),
    Sampler(
        "heun", "Heun", "HeunDiscreteScheduler", "Like Euler with two predictions per step: slower, more accurate."
    ),
    Sampler(
        "euler_a",
        "Euler a",
        "EulerAncestralDiscreteScheduler",
        "Ancestral: adds noise at every step, so more steps give a different image.",
    ),
    Sampler(
        "dpmpp_2m_karras",
        "DPM++ 2M Karras",
        "DPMSolverMultistepScheduler",
        "Sharp from 20 steps.",
        {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"},
    ),
    Sampler(
        "lcm",
        "LCM",
        "LCMScheduler",
        "4 to 8 steps at a CFG scale of 1 to 2; only for LCM bases and with an LCM-LoRA.",
        {"clip_sample": False},
    ),
)
DEFAULT = SAMPLERS[0].name
NEAREST = "euler"
"""Used instead of one that does not suit a base: Euler suits every base, and the others are variants of it."""


@dataclass(frozen=True)
class Balance:
    """A control mode, under the name that AUTOMATIC1111's ControlNet extension gives it."""

    name: str
    title: str
    soft: bool
    """The ControlNet's outputs are scaled down, the outer layers most: see ``soft_weights``."""
    prompt_side_only: bool
    """The ControlNet acts only on the conditional half of classifier-free guidance, so it grows with the CFG scale."""
    hint: str = ""


BALANCES = (
    Balance("balanced", "Balanced", False, False),
    Balance("prompt", "My prompt is more important", True, False),
    Balance("control", "ControlNet is more important", True, True),
)


Named = TypeVar("Named", Sampler, Balance)


def sampler(name: str) -> Sampler:
    """Find one by name or title. Raises UserError if there is none."""
    return _find(name, "sampler", SAMPLERS)


def suiting(facts: FamilyFacts) -> tuple[Sampler, ...]:
    """Those that suit the bases of a family."""
    return tuple(one for one in SAMPLERS if one.scheduler in facts.samplers)


def suited(name: str, facts: FamilyFacts) -> Sampler:
    """The sampler of this name or title, or the nearest that suits the family. Raises UserError if there is none."""
    chosen = sampler(name)
    return chosen if chosen in suiting(facts) else sampler(NEAREST)


def why_unsuited(name: str, facts: FamilyFacts) -> str:
    """A sentence about a sampler that does not suit a family; "" if it does."""
    chosen = sampler(name)
    return "" if chosen in suiting(facts) else f"The sampler {chosen.title} is not made for {facts.title}."


def balance(name: str) -> Balance:
    """Find one by name or title. Raises UserError if there is none."""
    return _find(name, "balance", BALANCES)


def is_soft(chosen: Balance, guided: bool) -> bool:
    """Whether a control mode scales the ControlNet's outputs down.

    "ControlNet is more important" makes up for it by acting on one half of classifier-free guidance. Without guidance
    it would weaken the control, so there it is the same as "Balanced".

    Args:
        guided: there is classifier-free guidance.
    """
    return chosen.soft and (guided or not chosen.prompt_side_only)


def why_no_effect(chosen: Balance, guided: bool) -> str:
    """A sentence about a control mode that is the same as "Balanced" without guidance; "" if it is another."""
    if guided or not chosen.prompt_side_only:
        return ""
    return (
        f"“{chosen.title}” is the same as “{BALANCES[0].title}” here: it acts through classifier-free guidance, and "
        "there is none at a scale of 1, or with a base that reads the scale. Raise the control strength instead."
    )


def _find(name: str, what: str, known: Sequence[Named]) -> Named:
    for one in known:
        if name in (one.name, one.title):
            return one
    raise UserError(
        f"There is no {what} called {name}.",
        "This app does not have it.",
        f"Choose one of: {', '.join(one.name for one in known)}.",
    )


def soft_weights(count: int) -> list[float]:
    """Return the weights of a ControlNet's outputs, outermost layer first: 0.825 ** (count - 1 - i).

    The middle block has 1. For the 13 outputs of SD 1.x this is 0.825 ** (12 - i): lllyasviel/ControlNet
    ``gradio_canny2image.py`` (guess mode), and the control modes in the README of Mikubill/sd-webui-controlnet
    ("layer_weight *= 0.825 ** I").
    """
    return [0.825 ** (count - 1 - number) for number in range(count)]


@contextmanager
def scheduled(family: Family, pipeline: Any, name: str, steps: int) -> Iterator[None]:
    """Within the block the pipeline has this sampler, with the noise schedule and prediction type of the base.

    Afterwards it has its own scheduler again: options of one sampler must not reach the next through the config.
    """
    original = pipeline.scheduler
    pipeline.scheduler = build(family, name, original.config, steps)
    try:
        yield
    finally:
        pipeline.scheduler = original


def build(family: Family, name: str, config: Any, steps: int) -> Any:
    """Build a scheduler of diffusers for ``steps`` steps. Raises UserError if it does not suit the family."""
    chosen = sampler(name)
    if why := why_unsuited(name, family.facts):
        others = ", ".join(one.name for one in suiting(family.facts))
        near = suited(name, family.facts)
        raise UserError(
            "The image cannot be drawn.", why, f"Choose {near.name}, the most similar one, or one of: {others}."
        )
    options = dict(chosen.options)
    if chosen.name == "lcm":  # it takes every n-th of the distilled model's steps, 50 as a rule
        options["original_inference_steps"] = max(50, steps)
    return family.sampling_scheduler(chosen.scheduler, config, options)
