"""Preview images, scores and loss checks during training."""

from __future__ import annotations

import math

from engine.config.setting import Section, setting

CHECK_SHARE = 0.03
"""Largest share of the time that loss checks take where preview images are not limited."""
MOST_OWN = 16
"""Images of the user's own in one set of previews."""


MOST_OTHERS = 64
OTHERS = (
    "a portrait of a smiling woman",
    "a dog lying on the grass",
    "a city street at night",
    "a bowl of fruit on a wooden table",
    "mountains behind a lake",
    "an old car in front of a house",
    "a bird on a branch",
    "a watercolor painting of flowers",
)
"""Captions of other things than what most people teach a base."""


class ValidationConfig(Section):
    """Preview images, scores and loss checks during training."""

    every: int = setting(
        500, "Preview every", "How often preview images are drawn and scored. 0: never.", unit="steps", ge=0
    )
    pictures: int = setting(
        4, "Preview images", "How many held-out pairs are drawn each time.", unit="images", ge=1, le=64
    )
    sampling_steps: int = setting(
        20, "Sampling steps", "Denoising steps per preview image. Usual: 20.", unit="steps", ge=1, le=200
    )
    guidance_scale: float = setting(
        7.5,
        "Guidance (CFG) scale",
        "How closely preview images follow the prompt. Usual: 7.5.",
        ge=1,
        le=30,
        advanced=True,
    )
    strength: float = setting(
        1.0,
        "Control strength",
        "How closely preview images follow the control image. Usual: 1.",
        ge=0,
        le=2,
        advanced=True,
        only=("net",),
    )
    probes: int = setting(
        2,
        "Empty and wrong prompts",
        "This many images are also drawn with an empty prompt, and as many with a prompt that contradicts the "
        "image. They show what the control image does on its own and against the prompt. They do not count towards "
        "the scores.",
        unit="images each",
        ge=0,
        le=8,
        only=("controlnet",),
    )
    probe_steps: int = setting(
        0,
        "Sampling steps for these",
        "Denoising steps for images with empty and wrong prompts, which need not be beautiful. Usual: 12. 0: as "
        "many as for preview images.",
        unit="steps",
        ge=0,
        le=200,
        advanced=True,
        only=("controlnet",),
    )
    time_share: float = setting(
        0.0,
        "Time for previews and checks",
        "Preview images and loss checks take at most this share of the time, half each. If drawing takes too long, "
        "the next sets are skipped, so Preview every and Loss check every are the shortest intervals. The images of "
        "the last step are always drawn. Usual: 3. 0: images are drawn at every interval, and only loss checks are "
        "limited, to 3 %.",
        unit="%",
        ge=0,
        le=100,
        advanced=True,
    )
    prompts: str = setting(
        "",
        "Your prompts",
        "One per line. Each is drawn with one of your control images, or with a held-out one. They do not count "
        "towards the scores.",
        max_length=8_000,
        lines=3,
    )
    pictures_folder: str = setting(
        "",
        "Your images",
        "A folder with up to 16 images of your own. Their control images are made as for training. To give an image "
        "a prompt, put it in a text file of the same name.",
        max_length=1_000,
    )
    pictures_are_maps: bool = setting(
        False,
        "These are already control images",
        "Your images are used as they are.",
    )
    clip_model: str = setting(
        "",
        "CLIP model",
        "For the CLIP score and the distance between sets of images in the full evaluation: a folder, a name in the "
        "models folder, or a Hugging Face id (used only if it is already on this computer). Empty: clip, if the "
        "models folder has it.",
        max_length=1_000,
        advanced=True,
    )
    check_every: int = setting(
        50,
        "Loss check every",
        "How often losses are measured on held-out pairs, without drawing images. They show whether the net follows "
        "its control images, and whether it does as well on pairs that it has not seen. Done less often if it would "
        "take over 3 % of the time. 0: never; there is then no verdict.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    check_pairs: int = setting(
        8,
        "Pairs per loss check",
        "How many held-out pairs each loss check measures, and as many training pairs.",
        unit="pairs",
        ge=2,
        le=64,
        advanced=True,
    )
    other_captions: str = setting(
        "",
        "Captions of other things",
        "One per line, up to 64. The drift is how much the base changes for these. They should not name what the "
        "images teach. Empty: eight usual captions, such as 'a city street at night'. For the demo base: captions of "
        "its own shapes, such as 'red circle with blue background'.",
        max_length=8_000,
        lines=3,
        advanced=True,
        only=("teaching",),
    )
    listens_by: int = setting(
        40_000,
        "Should follow control by",
        "A net starts to follow its control images suddenly. If it has not done so after this many images, the "
        "verdict says that something is wrong.",
        unit="images",
        ge=100,
        advanced=True,
        only=("controlnet",),
    )
    stop_when_flat: bool = setting(
        False,
        "Early stopping",
        "Ends the run (saved, so that it can be resumed) when neither the held-out loss nor the control gain has "
        "changed for a long time.",
        advanced=True,
    )
    tensorboard: bool = setting(
        True,
        "TensorBoard files",
        "Also writes losses and scores into the run's folder in TensorBoard's format (tensorboard --logdir runs).",
        advanced=True,
    )
    wandb: bool = setting(
        False,
        "Weights & Biases",
        "Also sends losses and scores over the internet to your Weights & Biases account. Needs its package: pip "
        "install wandb, then wandb login.",
        advanced=True,
    )

    @property
    def own_prompts(self) -> tuple[str, ...]:
        """The user's prompts."""
        return tuple(line.strip() for line in self.prompts.splitlines() if line.strip())

    @property
    def captions_of_others(self) -> tuple[str, ...]:
        """Captions for which the drift of a base is measured."""
        own = tuple(dict.fromkeys(line.strip() for line in self.other_captions.splitlines() if line.strip()))
        return own[:MOST_OTHERS] or OTHERS

    @property
    def images_each_time(self) -> int:
        """How many images one set has, without those of the user's folder, which is not read here."""
        return self.pictures + 2 * min(self.probes, self.pictures) + min(MOST_OWN, len(self.own_prompts))

    @property
    def share_of_checks(self) -> float:
        """Largest share of the time for loss checks."""
        return self.time_share / 100 / (2 if self.every else 1) or CHECK_SHARE

    @property
    def share_of_previews(self) -> float:
        """Largest share of the time for preview images; infinity: no limit."""
        return self.time_share / 100 / (2 if self.check_every else 1) or math.inf
