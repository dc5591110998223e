"""Problems of the images' content."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.data.doctor.finding import Finding, Hit, Rules, SampleFacts, Summary

MAX_ASPECT = 3.0
MIN_SPREAD = 12  # grey values; photographs of fog and snow have 40 and more
MAX_BLUR = 2.0  # pixels at 512 px; sharp photographs have 0 to 1.6, the same blurred by 4 px 2.3 to 4
GREY_MINORITY = 0.5
_NAMED_GREY = re.compile(r"\b(?:black|white|gr[ae]y|silver|monochrome|greyscale|grayscale|b&w)\b", re.IGNORECASE)

TOO_SMALL = Finding(
    "too_small",
    "Smaller than the training resolution",
    "It is enlarged, so the net learns to draw soft images.",
    "Train at a lower resolution, find a larger copy, or leave it out.",
    "warning",
)
ASPECT = Finding(
    "extreme_aspect",
    "Very long or very tall",
    "The crop keeps only a small part of it, usually not the part that the caption describes.",
    "Cut it into parts with an image editor, or leave it out.",
    "warning",
)
CONSTANT = Finding(
    "constant",
    "Nearly one colour",
    "There is nothing in it that a map could show. Placeholders for missing images often look like this.",
    "Leave it out.",
    "serious",
)
GREY = Finding(
    "grey_in_colour",
    "Black and white among colour images",
    "The net learns to draw images without colour for some prompts, and colours become weaker overall.",
    "Leave it out, or say in its caption that it is black and white.",
    "warning",
)
BLURRED = Finding(
    "blurred",
    "Blurred",
    "Even its sharpest edges are several pixels wide. The net learns softness, and its edge maps are empty.",
    "Look at a few, then leave them out.",
    "warning",
)
FINDINGS = (TOO_SMALL, ASPECT, CONSTANT, GREY, BLURRED)


def judge(row: SampleFacts, rules: Rules, summary: Summary) -> Iterator[Hit]:
    """The findings about the content and the size of one image; none if it could not be read."""
    sample, facts = row.sample, row.image
    if facts is None:
        return
    short, long = sorted((sample.width, sample.height))
    if short < rules.resolution:
        yield Hit(TOO_SMALL.name, sample.key, f"{sample.width} x {sample.height} px; {rules.resolution} px needed")
    if long > MAX_ASPECT * short:
        kept = f"the square crop keeps {short / long:.0%}"
        yield Hit(ASPECT.name, sample.key, f"{sample.width} x {sample.height}, {kept}")
    if facts.spread < MIN_SPREAD:
        yield Hit(CONSTANT.name, sample.key, f"{facts.spread} of 255 grey values")
        return  # its colour and sharpness are meaningless
    named = _NAMED_GREY.search(sample.caption)
    if facts.grey and not named and summary.grey < GREY_MINORITY * summary.pictures:
        yield Hit(GREY.name, sample.key)
    if facts.blur > MAX_BLUR:
        yield Hit(BLURRED.name, sample.key, f"edges about {facts.blur:.1f} px wide at 512 px")
