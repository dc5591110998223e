"""What a run trains: a ControlNet, or the base itself."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from engine.config.setting import Section, setting

MOST_VECTORS = 16


class TuningConfig(Section):
    """What is trained."""

    what: Literal["controlnet", "lora", "word", "base"] = setting(
        "controlnet",
        "What is trained",
        "controlnet: a net that makes images follow condition maps. lora: a small file that teaches the base a style "
        "or a subject from images and captions; it needs no condition maps. word: a new word for what the base can "
        "draw already (Textual Inversion), a file of a few kilobytes. base: the base itself learns from such images, "
        "every weight of its denoiser; needs the most memory. Words and whole bases: Stable Diffusion 1.x, 2.x and XL.",
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
        only=("lora",),
    )
    layers: Literal["attention", "linear", "all"] = setting(
        "all",
        "LoRA layers",
        "attention: the smallest file; reuses what the base can already draw. linear: all layers of the transformer "
        "blocks, as in most LoRA files. all: convolutions as well (LoCon, C3Lier), in transformer bases the "
        "modulation; needed for shapes that the base has never seen.",
        affects_speed=True,
        why_fixed="The trained weights belong to these layers.",
        only=("lora",),
    )
    text_rate: float = setting(
        0.0,
        "Learning rate of the text encoder",
        "Trains the LoRA on the text encoders as well. It helps most with faces and names, and overfits first. Usual: "
        "a tenth to a half of the learning rate; it follows the same schedule. 0: the text encoders stay as they are.",
        ge=0,
        le=1,
        affects_speed="on or off",
        why_fixed="The trained weights belong to these layers.",
        only=("lora",),
    )
    word: str = setting(
        "",
        "New word",
        "The word to be learned, in lower case, as you will write it in prompts. It becomes the name of the exported "
        "file. It must be no word of the base's vocabulary: my-mug, not mug. Captions without it get it in front.",
        max_length=40,
        why_fixed="The trained vectors belong to this word.",
        only=("word",),
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

    @field_validator("word")
    @classmethod
    def _is_one_word(cls, word: str) -> str:
        if word and not re.fullmatch(r"[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?", word):
            raise ValueError(
                "use lower-case letters a to z, digits, - and _ only, with a letter or digit at both ends: the word is "
                "a file name in every program, and prompts are read in lower case"
            )
        return word
