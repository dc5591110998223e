"""What a run trains: a ControlNet, or the base itself."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from engine.config.setting import Section, setting

MOST_VECTORS = 16


class TuningConfig(Section):
    """What is trained."""

    what: Literal["controlnet", "lora", "subject", "word", "base", "svdiff", "lcm"] = setting(
        "controlnet",
        "What is trained",
        "controlnet: a net that makes images follow condition maps. The others teach the base from images and "
        "captions, without condition maps. lora: a small file with a style or a kind of image. subject: a LoRA for one "
        "subject, from 3 to 30 images, with a word for it and preservation of everything else (DreamBooth). word: a "
        "new word for what the base can draw already (Textual Inversion), a file of a few kilobytes. base: every "
        "weight of its denoiser; needs the most memory. svdiff: only the singular values of these weights (SVDiff), "
        "for experts. lcm: a LoRA with which the base draws in 2 to 8 steps (LCM-LoRA); it teaches nothing new. word, "
        "base, svdiff and lcm: Stable Diffusion 1.x, 2.x and XL.",
        affects_speed=True,
        why_fixed="Weights that were trained for one do not fit the other.",
    )
    rank: int = setting(
        16,
        "LoRA rank",
        "Rank (dim) of the LoRA's matrices. Alpha is set to the same number, so that every program uses the file at "
        "full strength. Usual: 8 to 32. For tiny bases such as 'demo': 8.",
        ge=1,
        le=256,
        affects_speed=True,
        why_fixed="The trained weights have the shape of this rank.",
        only=("factors",),
    )
    layers: Literal["attention", "linear", "all"] = setting(
        "all",
        "LoRA layers",
        "attention: the smallest file; reuses what the base can already draw. linear: all layers of the transformer "
        "blocks, as in most LoRA files. all: convolutions as well (LoCon, C3Lier), in transformer bases the "
        "modulation; needed for shapes that the base has never seen.",
        affects_speed=True,
        why_fixed="The trained weights belong to these layers.",
        only=("factors",),
    )
    text_rate: float = setting(
        0.0,
        "Learning rate of the text encoder",
        "Trains the text encoders as well (of a whole base all their weights). It helps most with faces and names, and "
        "overfits first. Usual: a tenth to a half of the learning rate; it follows the same schedule. 0: the text "
        "encoders stay as they are.",
        ge=0,
        le=1,
        affects_speed="on or off",
        why_fixed="The trained weights belong to these layers.",
        only=("text",),
    )
    lcm_steps: int = setting(
        4,
        "Steps to draw in",
        "Of previews, and what Try it begins with. Training is the same for any number. Usual: 2 to 8.",
        unit="steps",
        ge=1,
        le=16,
        may_change="course",
        only=("lcm",),
    )
    guidance_low: float = setting(
        7.5,
        "Guidance (CFG) from",
        "The scale whose images the LoRA imitates; it then draws without guidance. Usual: the one you draw with, 7.5.",
        ge=1,
        le=30,
        why_fixed="What was learned is an average over this range.",
        only=("lcm",),
    )
    guidance_high: float = setting(
        7.5,
        "Guidance (CFG) to",
        "Usual: the same. If higher, each image draws a scale between the two.",
        ge=1,
        le=30,
        why_fixed="What was learned is an average over this range.",
        only=("lcm",),
    )
    word: str = setting(
        "",
        "New word",
        "The word to be learned, in lower case, as you will write it in prompts. It becomes the name of an exported "
        "embedding. It must be no word of the base's vocabulary: my-mug, not mug. Captions without it get it in front.",
        max_length=40,
        why_fixed="What was learned belongs to this word.",
        only=("named",),
    )
    begun_as: str = setting(
        "",
        "Begins as",
        "A word or two that the base knows and that come closest: mug. The new word means the same at first.",
        max_length=80,
        why_fixed="It matters only at the start of a run.",
        only=("word",),
    )
    vectors: int = setting(
        1,
        "Vectors of the word",
        "How many tokens the word takes up in a prompt. More hold more detail, but are harder to combine with other "
        "words. Usual: 1 to 8.",
        ge=1,
        le=MOST_VECTORS,
        affects_speed=True,
        why_fixed="The trained vectors are as many.",
        only=("word",),
    )

    preserve: Literal["auto", "none", "answers", "pictures"] = setting(
        "auto",
        "Preserve what the base knows",
        "Each step also trains on what the base should not forget. answers: the untrained base's own predictions for "
        "the class prompts; nothing has to be drawn. pictures: images of the class prompts that the untrained base "
        "draws once before training. Both double the time of a step. auto: answers for a subject, none otherwise.",
        affects_speed=True,
        why_fixed="The loss of the run would mean something else.",
        only=("preserved",),
    )
    class_prompt: str = setting(
        "",
        "Class prompts",
        "What the subject is, without its word, and what else the base should not forget; one prompt per line: a mug. "
        "Empty, with answers: the captions without the word.",
        max_length=8_000,
        lines=2,
        why_fixed="Class images were drawn from them.",
        only=("preserving",),
    )
    class_images: int = setting(
        100,
        "Class images",
        "How many images the untrained base draws of the class prompts, with preserve = pictures. Usual: 100 to 300.",
        unit="images",
        ge=2,
        le=5_000,
        advanced=True,
        why_fixed="They were drawn when the run began.",
        only=("drawing",),
    )
    preserve_weight: float = setting(
        1.0,
        "Weight of preservation",
        "How much it counts beside the images themselves, on average over a step (prior loss weight). Usual: 1. "
        "kohya's scripts mix both kinds in one set, so their weight means something else.",
        ge=0,
        le=100,
        may_change="course",
        only=("preserving",),
    )

    @property
    def preserved_by(self) -> Literal["none", "answers", "pictures"]:
        """How the run preserves what the base knows."""
        if self.what not in ("lora", "subject", "base", "svdiff"):
            return "none"
        if self.preserve != "auto":
            return self.preserve
        return "answers" if self.what == "subject" else "none"

    @property
    def caption_word(self) -> str:
        """The word that each caption gets; empty: captions stay as they are."""
        return self.word if self.what in ("word", "subject") else ""

    @property
    def class_prompts(self) -> tuple[str, ...]:
        """One prompt for each line that has one."""
        return tuple(dict.fromkeys(line.strip() for line in self.class_prompt.splitlines() if line.strip()))

    @field_validator("word")
    @classmethod
    def _is_one_word(cls, word: str) -> str:
        if word and not re.fullmatch(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?", word):
            raise ValueError(
                "use lower-case letters a to z, digits, - and _ only, with a letter or digit at both ends: the word is "
                "a file name in every program, and prompts are read in lower case"
            )
        return word
