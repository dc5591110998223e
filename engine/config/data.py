"""Which images a run sees, and how they are cut."""

from __future__ import annotations

from typing import Literal

from engine.config.setting import Section, setting


class DataConfig(Section):
    """Which images, and how they are cut."""

    dataset: str = setting("", "Dataset", "Name of a dataset of this workspace, with its condition maps made.")
    resolution: int = setting(
        512,
        "Resolution",
        "Side of the square that the net sees. SD 1.5 was made for 512; the demo base for 128.",
        unit="px",
        ge=64,
        le=2048,
        multiple_of=64,
        affects_speed=True,
    )
    crop: Literal["centre", "random", "smart"] = setting(
        "centre",
        "Crop",
        "Which part of an image is kept where its shape does not fit. centre: the middle. random: several places, "
        "another in each round. smart: where most happens, for subjects that are seldom in the middle.",
    )
    crop_variants: int = setting(
        4,
        "Crops of each image",
        "With random crops: how many places are prepared, the middle among them. Each needs its disk space and "
        "preparation once.",
        unit="crops",
        ge=1,
        le=32,
        advanced=True,
    )
    buckets: bool = setting(
        False,
        "Keep the images' shapes",
        "Sorts wide and tall images into sizes of their own (multiples of 64 px with about the same area), so that "
        "little is cut off. Each batch has one shape.",
    )
    held_out: int = setting(
        16,
        "Held-out images",
        "Pairs that are never trained on; the score is measured on them.",
        unit="images",
        ge=1,
        le=1024,
    )
    held_out_choice: Literal["diverse", "random"] = setting(
        "diverse",
        "Which are held out",
        "diverse: few pairs that differ much, so that they stand for the whole set. random: as they come; the score is "
        "then that of an average image, if there are enough of them.",
        advanced=True,
    )
