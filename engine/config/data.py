"""The images of a run, and how they are cropped."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class DataConfig(Section):
    """The images of the run, and how they are cropped."""

    dataset: str = setting(
        "",
        "Dataset",
        "A dataset of this workspace whose control images have been made.",
        why_fixed="The run was trained on its images, and is measured on those held out from it.",
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
        why_fixed="The images were cropped and encoded at this size, and the run was measured at it.",
    )
    crop: Literal["centre", "random", "smart"] = setting(
        "centre",
        "Crop",
        "Which part of an image is used if its shape does not fit. centre: the middle, the usual choice. random: "
        "several places, another one in each epoch. smart: the part with most detail, for subjects that are seldom in "
        "the middle.",
    )
    crop_variants: int = setting(
        4,
        "Random crops per image",
        "With random crops: how many places of each image are cached, the centre among them. Usual: 4. Each takes disk "
        "space and is encoded once.",
        unit="crops",
        ge=1,
        le=32,
        advanced=True,
    )
    buckets: bool = setting(
        False,
        "Aspect ratio buckets",
        "Sorts wide and tall images into sizes of their own, with about the same area, so that little is cropped. All "
        "images of a batch have one size.",
        affects_speed=True,
    )
    bucket_step: int = setting(
        64,
        "Bucket step",
        "With buckets: their sides are multiples of this. 64 for Stable Diffusion 1, 2 and XL, whose UNet needs it. "
        "Usual for Stable Diffusion 3, FLUX.1 and Z-Image: 16, which crops less; 64 there makes fewer sizes with more "
        "images each, which suits small datasets.",
        unit="px",
        ge=16,
        le=64,
        multiple_of=16,
        advanced=True,
    )
    long_captions: Literal["whole", "cut"] = setting(
        "whole",
        "Long captions",
        "Captions of more than 75 tokens, about 55 words. whole, the usual choice: they are read to the end, in up to "
        "three parts of 75 tokens, as AUTOMATIC1111 and ComfyUI read long prompts. cut: what is beyond 75 tokens is "
        "left out. Where all captions are short there is no difference.",
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
        "diverse, the usual choice: pairs that differ from one another, so that a few stand for the whole dataset. "
        "random: a random sample; with enough images the score is that of an average image.",
        advanced=True,
    )
