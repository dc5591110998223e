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
SHIFTED_SAMPLERS = tuple(name for name in FLOW_SAMPLERS if name != "HeunDiscreteScheduler")
"""Those whose shift can depend on the size of the image."""


@dataclass(frozen=True)
class ComfyNodes:
    """Class names and values of nodes in a ComfyUI workflow that differ between families."""

    apply: str = "ControlNetApplyAdvanced"
    """Applies a ControlNet."""
    encodes: bool = False
    """``apply`` is given the VAE, with which it encodes the control image."""
    latent: str = "EmptyLatentImage"
    loader: str = "TripleCLIPLoader"
    """Loads ``clips``."""
    loader_type: str = ""
    """A value by which ``loader`` is told the kind of base; "": it needs none."""
    clips: tuple[str, ...] = ()
    """Files of the text encoders, which lie beside the base; (): they are in its file."""
    vae: str = ""
    """File of the VAE, which lies beside the base; "": it is in its file."""
    base_name: str = "ckpt_name"
    """What the node that loads the base calls its file."""
    patches_model: bool = False
    """The net is loaded as a patch of the model, which ``apply`` changes; otherwise as a ControlNet."""
    sampler: str = "uni_pc"
    scheduler: str = "normal"
    guidance: str = ""
    """Gives the guidance scale to a base that reads it as an input; "": it is the sampler's."""

    @property
    def folder(self) -> str:
        """Where the program looks for such nets, in its folder ``models``."""
        return "model_patches" if self.patches_model else "controlnet"
