"""Reads text files in whatever encoding they have: a byte order mark is obeyed, other encodings are recognized."""

from __future__ import annotations

import codecs
import unicodedata
from dataclasses import dataclass
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LIKELY = ["gb18030", "cp949", "big5", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1250"]
_SAMPLE = 65_536  # bytes that are looked at to recognize an encoding


@dataclass(frozen=True)
class Text:
    """The content of a text file, without a byte order mark, its lines separated by a newline character."""

    text: str
    encoding: str
    sure: bool
    """False: the encoding was guessed from the bytes, so letters outside ASCII may be wrong."""


def read_text(path: Path, most: int | None = None) -> Text:
    """Reads a text file, at most its first ``most`` bytes. Raises OSError; never an error about its encoding."""
    with path.open("rb") as file:
        data = file.read(-1 if most is None else most)
    return decode(data, cut=len(data) == most)


def decode(data: bytes, cut: bool = False) -> Text:
    """Decodes the bytes of a text file. ``cut``: the last character may be incomplete, and is left out then."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _text(data[len(mark) :].decode(encoding, "replace"), encoding, True)
    if data.strip(b"\0") and data.count(0) > len(data) // 5:
        even = data[1::2].count(0) >= data[::2].count(0)
        encoding = "utf-16-le" if even else "utf-16-be"
        return _text(data.decode(encoding, "replace"), encoding, False)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if cut and error.start >= len(data) - 3:
            return _text(data[: error.start].decode("utf-8"), "utf-8", True)
    else:
        if _chinese_by_chance(data, text):
            return _text(data.decode("gb18030"), "gb18030", False)
        return _text(text, "utf-8", True)
    encoding = _guess(data[:_SAMPLE])
    return _text(data.decode(encoding, "replace"), encoding, False)


def _guess(data: bytes) -> str:
    """The most likely encoding of bytes that are not UTF-8 and have no mark."""
    if _accents_only(data):
        return "cp1252"
    for encoding in ("cp932", "euc_jp"):
        if _kana_share(data.decode(encoding, "ignore")) > 0.2:
            return encoding
    from charset_normalizer import from_bytes

    found = from_bytes(data, cp_isolation=_LIKELY).best() or from_bytes(data).best()
    return found.encoding if found is not None else "cp1252"


def _chinese_by_chance(data: bytes, text: str) -> bool:
    """Whether valid UTF-8 is more likely GB 18030: short Chinese words may read as letters of several alphabets."""
    foreign = {unicodedata.name(letter, "").split(" ")[0] for letter in text if letter > "\x7f"}
    if len(foreign) < 3 or max(text) > "\u07ff" or any(letter.isascii() and letter.isalpha() for letter in text):
        return False
    try:
        other = [letter for letter in data.decode("gb18030") if letter > "\x7f"]
    except UnicodeDecodeError:
        return False
    return all("\u4e00" <= letter <= "\u9fff" for letter in other)


def _kana_share(text: str) -> float:
    wide = [letter for letter in text if letter > "\x7f"]
    return sum("\u3040" <= letter <= "\u30ff" for letter in wide) / max(1, len(wide))


def _accents_only(data: bytes) -> bool:
    """Whether bytes above 127 are rare and mostly single, as accents are in Western text."""
    high = [byte > 127 for byte in data]
    beside = sum(here and after for here, after in zip(high, high[1:], strict=False))
    return sum(high) <= 0.25 * len(high) and beside <= 0.2 * sum(high)


def _text(text: str, encoding: str, sure: bool) -> Text:
    return Text(text.replace("\r\n", "\n").replace("\r", "\n"), encoding, sure)
