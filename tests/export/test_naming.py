"""File names that are safe everywhere and that AUTOMATIC1111 reads as the right version."""

from __future__ import annotations

import pytest

from engine.errors import UserError
from engine.export.naming import export_stem
from engine.families.facts import SD1, SD2, SDXL, version_of


@pytest.mark.parametrize(
    ("typed", "stem"),
    [
        ("circles", "circles_sd15"),
        ("circles_SD15", "circles_SD15"),
        ("circles.safetensors", "circles_sd15"),
        ("a/b\\c: d?", "a-b-c-d_sd15"),
        ("../../etc/passwd", "etc-passwd_sd15"),
        ("CON", "my-CON_sd15"),
        ("  ", "unnamed_sd15"),
        ("größe", "größe_sd15"),
        ("pixel art xl", "pixel-art-xl_sd15"),
        ("v2.1", "v2.1_sd15"),
    ],
)
def test_what_is_typed_becomes_a_safe_name_of_the_right_version(typed: str, stem: str) -> None:
    assert export_stem(typed, SD1) == stem
    assert version_of(export_stem(typed, SD1)) is SD1


@pytest.mark.parametrize("name", ["shuffle-mine", "my_Instant_ID", "diffusion_pytorch_model"])
def test_names_that_would_be_misread_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        export_stem(name, SD1)


def test_a_version_mark_that_wins_over_the_right_one_is_refused() -> None:
    with pytest.raises(UserError, match="another base version"):
        export_stem("mine_2.1", SDXL)
    assert export_stem("mine", SDXL) == "mine_sdxl"


def test_versions_are_read_in_the_readers_order() -> None:
    assert version_of("foo_sdxl_v2.1") is SD2
    assert version_of("foo_sd15_xl") is SD1
    assert version_of("foo") is None
