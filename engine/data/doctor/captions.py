"""Faults of the captions. Cleaning is done by ``engine.data.captions``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.data import captions
from engine.data.doctor.finding import Finding, Hit, Row, Rules, Summary
from engine.data.layouts.model import caption_file

OFTEN, OFTEN_SHARE = 10, 0.03  # a caption that this many images, and this share of the set, have in common
_MOJIBAKE = re.compile("[ÂÃâÐÑð][\u0080-\u00bf\u0152-\u0178\u2013-\u2122ˆ˜ƒ]")
_CLEAN = "Correct: the caption is cleaned for this dataset; your caption file stays as it is."

MISSING = Finding(
    "caption_missing", "No caption",
    "Images without words teach the net to follow the map alone. Some of these are useful, all of them make it deaf "
    "to prompts.",
    "Write or generate captions on this tab, or leave the image out.", "note",
)  # fmt: skip
EMPTY = Finding(
    "caption_empty", "Empty caption file", "The file is there and says nothing: a captioning program failed on it.",
    "Caption it again, or leave the image out.", "warning",
)  # fmt: skip
REPEATED = Finding(
    "caption_repeated", "The same caption many times",
    "Words that stand for very different images mean nothing: \"image\", \"untitled\", a shop's name. The net "
    "ignores the prompt where it reads them.",
    "Replace them on this tab, by a better caption or by none.", "warning",
)  # fmt: skip
MARKUP = Finding(
    "caption_markup", "HTML in the caption",
    "Tags and entities such as <b> or &amp; are read as words and use up the 77 tokens that a prompt has.",
    _CLEAN, "warning", "caption",
)  # fmt: skip
URL = Finding(
    "caption_url", "Web address in the caption",
    "An address is cut into dozens of tokens of no meaning and pushes the real words out of the prompt.",
    _CLEAN, "warning", "caption",
)  # fmt: skip
ENCODING = Finding(
    "caption_encoding", "Broken letters in the caption",
    "Text that was read in the wrong encoding (cafÃ© for café): the words are others than those that people type.",
    _CLEAN + " What was lost for good (\ufffd) is taken out.", "warning", "caption",
)  # fmt: skip
BACKSLASH = Finding(
    "caption_backslash", "Backslashes in the caption",
    "Left over from another program's way of writing brackets or line breaks; they are read as signs of their own.",
    _CLEAN, "note", "caption",
)  # fmt: skip
FINDINGS = (MISSING, EMPTY, REPEATED, MARKUP, URL, ENCODING, BACKSLASH)


def judge(row: Row, rules: Rules, summary: Summary) -> Iterator[Hit]:
    sample, text = row.sample, row.sample.caption
    if not text.strip():
        yield Hit((EMPTY if caption_file(sample.image) else MISSING).name, sample.key)
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


def corrected(text: str) -> str:
    """The caption that a corrected sample has."""
    return captions.clean(repaired(text))


def repaired(text: str) -> str:
    """UTF-8 that was read as Windows-1252 (once or twice) put right, lost characters taken out; else unchanged."""
    for _ in range(2):
        if not _MOJIBAKE.search(text):
            break
        try:
            text = b"".join(_byte(character) for character in text).decode("utf-8")
        except ValueError:
            break
    return " ".join(text.replace("\ufffd", "").split()) if "\ufffd" in text else text


def _byte(character: str) -> bytes:
    """Windows-1252 leaves five bytes undefined; programs read those as Latin-1."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")


def often(count: int, total: int) -> bool:
    """Whether a caption that ``count`` of ``total`` images share is a finding."""
    return count >= max(OFTEN, OFTEN_SHARE * total)
