"""Images, scores and checks while training."""

from __future__ import annotations

from engine.config.setting import Section, setting

MOST_OWN = 16
"""Images of the user's own in one set."""


class ValidationConfig(Section):
    """Images and scores while training."""

    every: int = setting(500, "Images every", "How often images are made and scored; 0: never.", unit="steps", ge=0)
    pictures: int = setting(4, "Images", "How many held-out pairs are drawn each time.", unit="images", ge=1, le=64)
    sampling_steps: int = setting(20, "Sampling steps", "Denoising steps for each image.", unit="steps", ge=1, le=200)
    guidance_scale: float = setting(
        7.5, "Guidance scale", "How strictly images follow the prompt.", ge=1, le=30, advanced=True
    )
    strength: float = setting(
        1.0, "Control strength", "How strictly images follow the control image.", ge=0, le=2, advanced=True
    )
    probes: int = setting(
        2,
        "Odd prompts",
        "As many images are also drawn without a prompt, and with a prompt that contradicts the image: they show "
        "what the map does alone, and against the words. Scored apart.",
        unit="images each",
        ge=0,
        le=8,
    )
    prompts: str = setting(
        "",
        "Your prompts",
        "One a line. Each is drawn with one of your images' maps, or a held-out one; scored apart.",
        max_length=8_000,
        lines=3,
    )
    pictures_folder: str = setting(
        "",
        "Your images",
        "A folder with up to 16 images of your own; their maps are made as for the training. A prompt may lie beside "
        "each as a text file of its name.",
        max_length=1_000,
    )
    pictures_are_maps: bool = setting(
        False,
        "They are maps already",
        "Your images are finished control images: nothing is extracted from them.",
    )
    clip_model: str = setting(
        "",
        "CLIP model",
        "For the thorough evaluation's CLIP score and distance of image sets: a folder, or a name in the models "
        "folder or on Hugging Face (used only if it is on this disk). Empty: clip, if there is one.",
        max_length=1_000,
        advanced=True,
    )
    check_every: int = setting(
        50,
        "Check every",
        "How often is measured, without drawing anything, whether the net listens to its map and does as well on "
        "held-out pairs. Done more seldom where it would take over 3 % of the time; 0: never, and no verdict.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    check_pairs: int = setting(
        8,
        "Pairs checked",
        "How many held-out pairs, and as many training pairs, each check measures.",
        unit="pairs",
        ge=2,
        le=64,
        advanced=True,
    )
    listens_by: int = setting(
        40_000,
        "Patience",
        "A net begins to listen suddenly. After this many images without that, something is taken to be wrong.",
        unit="images",
        ge=100,
        advanced=True,
    )
    stop_when_flat: bool = setting(
        False,
        "Stop when it no longer improves",
        "Ends the run by itself (saved, to be resumed if you like) when neither the held-out loss nor the control gain "
        "has moved for a long while.",
        advanced=True,
    )
    tensorboard: bool = setting(
        True,
        "TensorBoard files",
        "Figures of the run are also written into its folder in TensorBoard's format (tensorboard --logdir runs).",
        advanced=True,
    )
    wandb: bool = setting(
        False,
        "Weights & Biases",
        "Also sends the figures to Weights & Biases, over the internet and into your account there. Needs its package: "
        "pip install wandb, then wandb login.",
        advanced=True,
    )

    @property
    def own_prompts(self) -> tuple[str, ...]:
        """The user's prompts, one a line."""
        return tuple(line.strip() for line in self.prompts.splitlines() if line.strip())

    @property
    def images_each_time(self) -> int:
        """How many are drawn in one set, but for those of the user's folder, which is not looked into."""
        return self.pictures + 2 * min(self.probes, self.pictures) + min(MOST_OWN, len(self.own_prompts))
