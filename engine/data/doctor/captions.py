"""Problems of captions. ``engine.data.captions`` cleans them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.data import captions
from engine.data.doctor.finding import Finding, Hit, Rules, SampleFacts, Summary
from engine.data.layouts.captions import text_beside
from engine.data.layouts.inventory import TEXTS
from engine.data.layouts.texts import caption_in
from engine.data.samples import Sample

MIN_REPEATS, MIN_REPEATED_FRACTION = 10, 0.03  # a repeated caption has at least so many images of the dataset
_MOJIBAKE = re.compile("[ÂÃâÐÑð][\u0080-\u00bf\u0152-\u0178\u2013-\u2122ˆ˜ƒ]")
_CLEAN = "Correct: cleans the caption for this dataset. Your caption file stays as it is."

MISSING = Finding(
    "caption_missing",
    "No caption",
    "Images without captions teach the net to follow the map alone. A few of them are useful, but if no image "
    "has a caption, the net ignores prompts.",
    "Write or generate captions on this tab, or leave the image out.",
    "note",
)
EMPTY = Finding(
    "caption_empty",
    "Empty caption file",
    "The file exists but is empty: a captioning program failed on this image.",
    "Caption it again, or leave the image out.",
    "warning",
)
REPEATED = Finding(
    "caption_repeated",
    "The same caption many times",
    'Text that is used for very different images has no meaning: "image", "untitled", the name of a shop. The net '
    "learns to ignore it.",
    "Replace it on this tab, with better captions or with none.",
    "warning",
)
MARKUP = Finding(
    "caption_markup",
    "HTML in the caption",
    "Tags and entities such as <b> or &amp; count as words and use up some of the 77 tokens of a prompt.",
    _CLEAN,
    "warning",
    "caption",
)
URL = Finding(
    "caption_url",
    "Web address in the caption",
    "A web address becomes dozens of meaningless tokens, which push the real words out of the prompt.",
    _CLEAN,
    "warning",
    "caption",
)
ENCODING = Finding(
    "caption_encoding",
    "Wrong letters in the caption",
    "The text was read in the wrong encoding (cafÃ© for café), so its words differ from those that people write "
    "in prompts.",
    _CLEAN + " Lost letters (�) are removed.",
    "warning",
    "caption",
)
BACKSLASH = Finding(
    "caption_backslash",
    "Backslashes in the caption",
    "They are left over from another program's notation for brackets or line breaks, and are read as part of the text.",
    _CLEAN,
    "note",
    "caption",
)
FINDINGS = (MISSING, EMPTY, REPEATED, MARKUP, URL, ENCODING, BACKSLASH)


def judge(row: SampleFacts, rules: Rules, summary: Summary) -> Iterator[Hit]:
    """The findings about the caption of one sample."""
    sample, text = row.sample, row.sample.caption
    if not text.strip():
        yield Hit((EMPTY if _has_empty_text(sample) else MISSING).name, sample.key)
        return
    shown = text if len(text) <= 120 else text[:119] + "…"
    if captions.clean(text, urls=False, control=False, backslashes=False) != " ".join(text.split()):
        yield Hit(MARKUP.name, sample.key, shown)
    if captions.clean(text, markup=False, control=False, backslashes=False) != " ".join(text.split()):
        yield Hit(URL.name, sample.key, shown)
    if repaired(text) != text:
        yield Hit(ENCODING.name, sample.key, shown)
    if "\\" in text:
        yield Hit(BACKSLASH.name, sample.key, shown)


def _has_empty_text(sample: Sample) -> bool:
    """Whether a caption file lies beside the image or its map and holds nothing. One with labels is no caption."""
    for path in filter(None, (sample.image, sample.condition)):
        if (text := text_beside(path)) is not None and text.suffix.lower() in TEXTS:
            try:
                return not caption_in(text)[0]
            except OSError:
                return False
    return False


def corrected(text: str) -> str:
    """The corrected caption."""
    return captions.clean(repaired(text))


def repaired(text: str) -> str:
    """Repairs UTF-8 that was read as Windows-1252, once or twice, and removes lost characters."""
    for _ in range(2):
        if not _MOJIBAKE.search(text):
            break
        try:
            text = b"".join(_byte(character) for character in text).decode("utf-8")
        except ValueError:
            break
    return " ".join(text.replace("\ufffd", "").split()) if "\ufffd" in text else text


def _byte(character: str) -> bytes:
    """The byte of a character in Windows-1252. Programs read its five undefined bytes as Latin-1."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def is_repeated(count: int, total: int) -> bool:
    """Whether a caption of ``count`` of ``total`` images is a finding."""
    return count >= max(MIN_REPEATS, MIN_REPEATED_FRACTION * total)
