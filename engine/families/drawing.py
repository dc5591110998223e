"""What drawing with a family takes elsewhere: samplers of diffusers, nodes of a ComfyUI workflow. No torch."""

from __future__ import annotations

from dataclasses import dataclass

SAMPLERS = (
    "UniPCMultistepScheduler",
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "LCMScheduler",
)
"""diffusers' samplers for noise schedules."""
FLOW_SAMPLERS = (
    "UniPCMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
"""Those for flow matching (``TransformerFamily.sampling_scheduler``)."""


@dataclass(frozen=True)
class ComfyNodes:
    """Class names and values of nodes in a ComfyUI workflow that differ between families."""

    apply: str = "ControlNetApplyAdvanced"
    """Applies a ControlNet."""
    encodes: bool = False
    """``apply`` has the VAE as an input, since it encodes the control image."""
    latent: str = "EmptyLatentImage"
    clips: tuple[str, ...] = ()
    """Files of the text encoders, which lie beside the base; (): they are in its file."""
    sampler: str = "uni_pc"
    scheduler: str = "normal"
