"""Settings of an import, declared once as those of a run are; no part of a run."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from engine.config import Section, describe, setting
from engine.errors import UserError


class ImportConfig(Section):
    """What is taken from a source whose images have to be fetched or unpacked."""

    max_pictures: int = setting(
        0, "At most", "Stop after this many images; 0 takes all.", unit="images", ge=0, le=100_000_000
    )
    min_width: int = setting(
        0,
        "Width at least",
        "Smaller images are left out; of a list that tells sizes, before they are fetched.",
        unit="px",
        ge=0,
        le=16_384,
    )
    min_height: int = setting(0, "Height at least", "As for the width.", unit="px", ge=0, le=16_384)
    max_aspect: float = setting(
        0.0,
        "Longest shape",
        "Longer side divided by shorter: 2 leaves out strips and banners. 0 takes every shape.",
        ge=0,
        le=100,
    )
    respect_robots: bool = setting(
        True,
        "Respect owners who say no to AI",
        "Web servers can mark images as not meant for training (X-Robots-Tag: noai, noimageai or noindex). Such "
        "images are left out and counted.",
    )
    per_host: float = setting(
        4.0,
        "Requests to one server",
        "More is faster for you and a burden for them; some servers lock out whoever asks too often.",
        unit="per second",
        gt=0,
        le=1000,
        advanced=True,
    )
    threads: int = setting(
        16, "Downloads at a time", "More help when servers are slow.", unit="downloads", ge=1, le=128, advanced=True
    )
    max_megabytes: int = setting(
        30, "File size at most", "Larger files are left out.", unit="MB", ge=1, le=2000, advanced=True
    )
    timeout: float = setting(
        20.0, "Give up after", "An image that takes longer is left out.", unit="seconds", gt=0, le=600, advanced=True
    )
    image_column: str = setting("", "Image column", "Empty: found by name and content.", advanced=True)
    caption_column: str = setting("", "Caption column", "Empty: text, caption or prompt.", advanced=True)
    condition_column: str = setting("", "Condition column", "Empty: conditioning_image and the like.", advanced=True)
    subset: str = setting(
        "", "Subset", "Of a Hugging Face dataset that has several (its 'config'); empty: the first.", advanced=True
    )
    split: str = setting("train", "Split", "Of a Hugging Face dataset.", advanced=True)

    def unwanted(self, width: int, height: int) -> str:
        """Why an image of this size (pixels) is left out, as a sentence; empty for one that is taken."""
        if width < self.min_width or height < self.min_height:
            return f"It has {width} x {height} pixels; asked for were {self.min_width} x {self.min_height} at least."
        if self.max_aspect and max(width, height) > self.max_aspect * min(width, height):
            return f"It is too long ({width} x {height}): at most {self.max_aspect:g} : 1 was asked for."
        return ""


def parse_import(values: dict[str, Any]) -> ImportConfig:
    """Checked settings of an import. Raises UserError with everything that is wrong, in words."""
    try:
        return ImportConfig.model_validate(values)
    except ValidationError as error:
        raise UserError("These import settings cannot be used.", describe(error), "Correct these values.") from error
