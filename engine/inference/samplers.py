"""Samplers that Try it offers, and how much the control weighs against the prompt. Light: no diffusers until used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from engine.errors import UserError


@dataclass(frozen=True)
class Sampler:
    """One of diffusers' schedulers. ``title`` is the name that A1111 has for it, too."""

    name: str
    title: str
    scheduler: str
    hint: str
    options: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS = (
    Sampler("unipc", "UniPC", "UniPCMultistepScheduler", "Good from 15 steps on; the previews of a run use it."),
    Sampler("ddim", "DDIM", "DDIMScheduler", "The classic; wants about 50 steps.", {"clip_sample": False}),
    Sampler("euler", "Euler", "EulerDiscreteScheduler", "Simple and soft, 20 to 30 steps."),
    Sampler(
        "euler_a", "Euler a", "EulerAncestralDiscreteScheduler", "Adds noise on the way: more steps, other images."
    ),
    Sampler(
        "dpmpp_2m_karras", "DPM++ 2M Karras", "DPMSolverMultistepScheduler", "Sharp from 20 steps on.",
        {"use_karras_sigmas": True, "algorithm_type": "dpmsolver++"},
    ),
    Sampler(
        "lcm", "LCM", "LCMScheduler", "4 to 8 steps at a guidance of 1 to 2; only for bases that were made for it.",
        {"clip_sample": False},
    ),
)  # fmt: skip
DEFAULT = SAMPLERS[0].name


@dataclass(frozen=True)
class Balance:
    """Who has the say, under the names of AUTOMATIC1111's ControlNet extension."""

    name: str
    title: str
    soft: bool
    """The net's outputs are weakened towards the outer layers: see ``soft_weights``."""
    prompt_side_only: bool
    """The net speaks only where the prompt is followed, not where it is not: its pull grows with the guidance."""


BALANCES = (
    Balance("balanced", "Balanced", False, False),
    Balance("prompt", "My prompt is more important", True, False),
    Balance("control", "ControlNet is more important", True, True),
)


Named = TypeVar("Named", Sampler, Balance)


def sampler(name: str) -> Sampler:
    """Raises UserError where there is none of that name."""
    return _called(name, "sampler", SAMPLERS)


def balance(name: str) -> Balance:
    """Raises UserError where there is none of that name."""
    return _called(name, "balance", BALANCES)


def _called(name: str, what: str, there: Sequence[Named]) -> Named:
    for one in there:
        if name in (one.name, one.title):
            return one
    raise UserError(
        f"There is no {what} called {name}.", "This app does not have it.",
        f"Choose one of: {', '.join(one.name for one in there)}.",
    )  # fmt: skip


def soft_weights(count: int) -> list[float]:
    """Weights of a net's outputs, outermost layer first: 0.825 ** (count - 1 - i), 1 at the middle.

    For the 13 outputs of SD 1.x this is 0.825 ** (12 - i): lllyasviel/ControlNet ``gradio_canny2image.py`` (guess
    mode), and the control modes in the README of Mikubill/sd-webui-controlnet ("layer_weight *= 0.825 ** I").
    """
    return [0.825 ** (count - 1 - number) for number in range(count)]


@contextmanager
def scheduled(pipeline: Any, name: str, steps: int) -> Iterator[None]:
    """Within the block the pipeline draws with this sampler; noise schedule and prediction are the base's.

    The scheduler it had is put back, so that options of one sampler never reach the next through the config.
    """
    original = pipeline.scheduler
    pipeline.scheduler = build(name, original.config, steps)
    try:
        yield
    finally:
        pipeline.scheduler = original


def build(name: str, config: Any, steps: int) -> Any:
    """A fresh scheduler of diffusers for one drawing."""
    import diffusers

    chosen = sampler(name)
    options = dict(chosen.options)
    if chosen.name == "lcm":  # it takes every n-th of the steps of the model it was distilled with, 50 as a rule
        options["original_inference_steps"] = max(50, steps)
    return getattr(diffusers, chosen.scheduler).from_config(config, **options)
