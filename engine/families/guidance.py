"""Guidance rescale: keeps classifier-free guidance from raising an image's contrast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def rescale(guided: torch.Tensor, with_prompt: torch.Tensor, factor: float) -> torch.Tensor:
    """The guided prediction with a standard deviation nearer to that of the prediction for the prompt alone.

    phi * guided * std(with_prompt) / std(guided) + (1 - phi) * guided, for each image. Source: Lin et al. 2023, "Common
    Diffusion Noise Schedules and Sample Steps Are Flawed", arXiv 2305.08891, section 3.4, equations 15 and 16.

    Args:
        guided: (B, ...), after classifier-free guidance.
        with_prompt: (B, ...), its half with the prompt.
        factor: phi, 0..1: 0 changes nothing.
    """
    over = list(range(1, guided.ndim))
    ratio = with_prompt.float().std(over, keepdim=True) / guided.float().std(over, keepdim=True)
    return (guided.float() * (factor * ratio + (1 - factor))).to(guided.dtype)


@contextmanager
def rescaled(pipeline: Any, denoiser: Any, factor: float) -> Iterator[None]:
    """Within the block the pipeline's predictions are rescaled before its sampler takes them; 0 changes nothing.

    diffusers' ControlNet pipelines have no such option. So the sampler of the pipeline, which is in place already,
    rescales what it is given, by the half with the prompt in the denoiser's last prediction.
    """
    if not factor:
        yield
        return
    if hasattr(pipeline, "rescale_factor"):  # ``FlowPipeline`` does it itself
        pipeline.rescale_factor = factor
        try:
            yield
        finally:
            del pipeline.rescale_factor  # the class has its own
        return
    scheduler, last = pipeline.scheduler, {}
    step = scheduler.step

    def keep(_net: Any, _given: Any, output: Any) -> None:
        last["predicted"] = output[0]

    def rescaled_step(predicted: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        both = last.pop("predicted")
        if len(both) == 2 * len(predicted):  # else there was no guidance
            predicted = rescale(predicted, both.chunk(2)[1], factor)
        return step(predicted, *arguments, **named)

    hook = denoiser.register_forward_hook(keep)
    scheduler.step = rescaled_step
    try:
        yield
    finally:
        del scheduler.step  # the class has its own
        hook.remove()
