"""Settings of an import, declared like those of a run, but not part of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError, field_validator

from engine.config import Section, describe, setting
from engine.data.layouts.words import ROLES
from engine.errors import UserError


class ImportConfig(Section):
    """Settings for sources whose images are downloaded or unpacked."""

    max_pictures: int = setting(
        0, "Maximum number", "Stop after this many images. 0 imports all.", unit="images", ge=0, le=100_000_000
    )
    min_width: int = setting(
        0,
        "Minimum width",
        "Smaller images are skipped; if the list has sizes, they are not even downloaded.",
        unit="px",
        ge=0,
        le=16_384,
    )
    min_height: int = setting(0, "Minimum height", "The same for the height.", unit="px", ge=0, le=16_384)
    max_aspect: float = setting(
        0.0,
        "Maximum aspect ratio",
        "Longer side divided by shorter side: 2 skips strips and banners. 0 allows all.",
        ge=0,
        le=100,
    )
    respect_robots: bool = setting(
        True,
        "Skip images whose owners do not allow AI training",
        "Web servers can mark images as not to be used for training (X-Robots-Tag: noai, noimageai or noindex). "
        "Such images are skipped and counted.",
    )
    per_host: float = setting(
        4.0,
        "Requests per server",
        "More is faster but puts more load on the server. Some servers block clients that ask too often.",
        unit="per second",
        gt=0,
        le=1000,
        advanced=True,
    )
    threads: int = setting(
        16, "Parallel downloads", "More helps if servers are slow.", unit="downloads", ge=1, le=128, advanced=True
    )
    max_megabytes: int = setting(
        30, "Maximum file size", "Larger files are skipped.", unit="MB", ge=1, le=2000, advanced=True
    )
    timeout: float = setting(
        20.0, "Timeout", "Images that take longer are skipped.", unit="seconds", gt=0, le=600, advanced=True
    )
    roles: str = setting(
        "",
        "Roles",
        "For folders: what a subfolder, a column of a list or an ending of file names contains, as NAME=ROLE, "
        "separated by commas. Roles: image, map, caption, weight (of an image's loss; for columns), ignored. Empty: "
        "recognized by names and contents.",
        advanced=True,
    )
    image_column: str = setting("", "Image column", "Empty: recognized by its name and content.", advanced=True)
    caption_column: str = setting("", "Caption column", "Empty: text, caption or prompt.", advanced=True)
    condition_column: str = setting("", "Condition column", "Empty: conditioning_image or similar.", advanced=True)
    subset: str = setting(
        "", "Subset", "For Hugging Face datasets with several subsets ('configs'). Empty: the first.", advanced=True
    )
    split: str = setting("train", "Split", "For Hugging Face datasets. Usually train.", advanced=True)

    @field_validator("roles")
    @classmethod
    def _known_roles(cls, text: str) -> str:
        return text_of_roles(roles_in(text))

    @property
    def asked(self) -> dict[str, str]:
        """The roles that the user gave to parts of a folder, by the parts' names."""
        return roles_in(self.roles)

    def unwanted(self, width: int, height: int) -> str:
        """Why an image of this size (pixels) is skipped. Empty if it is not."""
        if width < self.min_width or height < self.min_height:
            return f"It has {width} x {height} pixels; the minimum is {self.min_width} x {self.min_height}."
        if self.max_aspect and max(width, height) > self.max_aspect * min(width, height):
            return f"Its aspect ratio is too large ({width} x {height}); the maximum is {self.max_aspect:g} : 1."
        return ""


def roles_in(text: str) -> dict[str, str]:
    """The roles in a text such as "mask=map, photos=image". Raises ValueError for another role."""
    found = {}
    for entry in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        name, equals, role = (word.strip() for word in entry.rpartition("="))
        if not name or role.lower() not in ROLES:
            raise ValueError(f"{entry!r} should be NAME=ROLE, with one of the roles {', '.join(ROLES)}")
        found[name] = role.lower()
    return found


def text_of_roles(roles: Mapping[str, str]) -> str:
    """The opposite of ``roles_in``."""
    return ", ".join(f"{name}={role}" for name, role in roles.items())


def parse_import(values: dict[str, Any]) -> ImportConfig:
    """Validates the settings of an import. Raises UserError that lists all problems."""
    try:
        return ImportConfig.model_validate(values)
    except ValidationError as error:
        raise UserError("These import settings are invalid.", describe(error), "Correct these values.") from error
