"""File names that are safe everywhere and that AUTOMATIC1111 reads as the right version."""

from __future__ import annotations

import pytest

from engine.errors import UserError
from engine.export.naming import export_stem, version_read_from


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
    assert export_stem(typed, "sd15") == stem
    assert version_read_from(export_stem(typed, "sd15")) == "sd1"


@pytest.mark.parametrize("name", ["shuffle-mine", "my_Instant_ID", "diffusion_pytorch_model"])
def test_names_that_would_be_misread_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        export_stem(name, "sd15")


def test_a_version_mark_that_wins_over_the_right_one_is_refused() -> None:
    with pytest.raises(UserError, match="another base version"):
        export_stem("mine_2.1", "sdxl")
    assert export_stem("mine", "sdxl") == "mine_sdxl"


def test_versions_are_read_in_the_readers_order() -> None:
    assert version_read_from("foo_sdxl_v2.1") == "sd2"
    assert version_read_from("foo_sd15_xl") == "sd1"
    assert version_read_from("foo") is None
