"""The images of a run, and how they are cropped."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class DataConfig(Section):
    """The images of the run, and how they are cropped."""

    dataset: str = setting(
        "",
        "Dataset",
        "A dataset in this workspace that has control images.",
        why_fixed="The run was trained on its images and is scored on the ones held out.",
    )
    resolution: int = setting(
        512,
        "Resolution",
        "Side of the square training images. Usual: 512 for SD 1.5, 768 for SD 2.1, 1024 for SDXL, 128 for the demo "
        "base.",
        unit="px",
        affects_speed=True,
        ge=64,
        le=2048,
        multiple_of=64,
        why_fixed="The images were cropped and encoded at this size, and the run was scored at it.",
    )
    crop: Literal["centre", "random", "smart"] = setting(
        "centre",
        "Crop",
        "Which part of an image is used when its shape does not match. centre, the usual choice: the middle. "
        "random: several positions, a different one in each epoch. smart: the most detailed part, for subjects that "
        "are often off centre.",
    )
    crop_variants: int = setting(
        4,
        "Random crops per image",
        "With random crops: how many crops of each image are cached, including the centre. Usual: 4. Each takes "
        "disk space and is encoded once.",
        unit="crops",
        ge=1,
        le=32,
        advanced=True,
    )
    buckets: bool = setting(
        False,
        "Aspect ratio buckets",
        "Trains wide and tall images at sizes that suit their shape, with about the same area, "
        "so that little is cropped. All images in a batch have the same size.",
        affects_speed=True,
    )
    bucket_step: int = setting(
        64,
        "Bucket step",
        "With buckets: the sides of all sizes are multiples of this. Stable Diffusion 1, 2 and XL need 64. Usual for "
        "Stable Diffusion 3, FLUX.1 and Z-Image: 16, which crops less; 64 makes fewer sizes with more images each, "
        "which suits small datasets.",
        unit="px",
        ge=16,
        le=128,
        multiple_of=16,
        advanced=True,
        only=("transformers",),
    )
    long_captions: Literal["whole", "cut"] = setting(
        "whole",
        "Long captions",
        "How captions of more than 75 tokens (about 55 words) are read. whole, the usual choice: to the end, in up "
        "to three parts of 75 tokens, as AUTOMATIC1111 and ComfyUI read long prompts. cut: everything after the "
        "first 75 tokens is ignored. Makes no difference if all captions are short.",
        advanced=True,
    )
    text_cache: Literal["auto", "half", "int8"] = setting(
        "auto",
        "Encoded captions",
        "How encoded captions are stored on disk. half: 16 bits. int8: 8 bits, about half the space; values change by "
        "less than 1 %. auto, the usual choice: int8 if they would otherwise take more than 8 GB, as 2,000 different "
        "captions for FLUX.1 do; if not, half.",
        advanced=True,
        only=("transformers",),
    )
    balance: Literal["off", "folder", "word", "repeats"] = setting(
        "off",
        "Class balance",
        "How often images of small classes are drawn. off, the usual choice: each image once in each epoch. folder: "
        "every folder equally often, so that images of small folders are repeated. word: the same for captions that "
        "contain one of the class words. repeats: as the names of folders say, 10 times for 10_name, as in kohya's "
        "scripts.",
        advanced=True,
    )
    balance_words: str = setting(
        "",
        "Class words",
        "With class balance by word: words or phrases separated by commas, such as cat, dog. An image belongs to the "
        "first one that its caption contains. Images with none of them are drawn once in each epoch.",
        advanced=True,
    )
    held_out: int = setting(
        16,
        "Held-out images",
        "Pairs that are never trained on: scores and held-out losses are measured on them. Usual: 16 or more.",
        unit="images",
        ge=1,
        le=1024,
    )
    held_out_choice: Literal["diverse", "random"] = setting(
        "diverse",
        "Choice of held-out images",
        "diverse, the usual choice: pairs that differ from one another, so that a few represent the whole dataset. "
        "random: a random sample; with enough pairs, the score is that of an average image.",
        advanced=True,
    )
