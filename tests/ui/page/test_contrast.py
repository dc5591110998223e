"""Colours of the theme against their ground, by WCAG 2.2: 3:1 for borders of controls, 4.5:1 for text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ui.page.style import CSS, theme

BORDER, TEXT = 3.0, 4.5
PAIRS = [
    ("checkbox_border_color", "checkbox_background_color", BORDER),  # an empty box, an unselected dot
    ("checkbox_border_color", "checkbox_label_background_fill", BORDER),
    ("checkbox_border_color", "block_background_fill", BORDER),
    ("checkbox_border_color_hover", "checkbox_background_color_hover", BORDER),
    ("checkbox_border_color_hover", "checkbox_label_background_fill_hover", BORDER),
    ("input_shadow", "block_background_fill", BORDER),  # the edge of a field
    ("input_shadow_focus", "block_background_fill", BORDER),
    ("input_placeholder_color", "input_background_fill", TEXT),
    ("block_info_text_color", "block_background_fill", TEXT),
    ("body_text_color_subdued", "body_background_fill", TEXT),
    ("body_text_color", "input_background_fill", TEXT),
    ("block_title_text_color", "block_background_fill", TEXT),
    ("block_label_text_color", "block_label_background_fill", TEXT),
    ("button_primary_text_color", "button_primary_background_fill", TEXT),
    ("button_secondary_text_color", "button_secondary_background_fill", TEXT),
]
WORDS = {"white": "#ffffff", "black": "#000000"}


@pytest.fixture(scope="module")
def colours() -> Any:
    return theme()


def colour(theme: Any, name: str, dark: bool) -> str:
    """The colour that a variable of the theme has in the end, "#rrggbb"."""
    value = (getattr(theme, f"{name}_dark", None) if dark else None) or getattr(theme, name)
    while not re.fullmatch(r"#[0-9a-f]{6}", value := WORDS.get(value, value)):
        other = re.search(r"\*(\w+)", value)
        assert other, f"{name} has no colour: {value}"
        value = colour(theme, other[1], dark)
    return str(value)


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("front", "ground", "least"), PAIRS)
def test_controls_and_text_stand_out_from_their_ground(
    colours: Any, front: str, ground: str, least: float, dark: bool
) -> None:
    found = contrast(colour(colours, front, dark), colour(colours, ground, dark))
    assert found >= least, f"{front} on {ground}: {found:.2f}"


def test_the_border_of_a_box_has_a_width(colours: Any) -> None:
    assert colours.checkbox_border_width == colours.checkbox_border_width_dark == "1px"


@pytest.mark.parametrize("mode", ["root", "dark"])
def test_the_colours_of_our_own_sheets_are_readable(colours: Any, mode: str) -> None:
    """The variables at the top of the sheet, on a page and on a card; text in them is small."""
    rule = re.search(rf"[:.]{mode} {{([^}}]*)}}", CSS)
    assert rule
    ours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", rule[1]))
    grounds = [colour(colours, name, mode == "dark") for name in ("body_background_fill", "background_fill_primary")]
    for name in ("accent", "good", "warn", "bad"):
        assert min(contrast(ours[name], ground) for ground in grounds) >= TEXT, name
