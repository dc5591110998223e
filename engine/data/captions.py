"""Captions: cleaning, adding words, search and replace, captions from names and templates. Pure functions on text."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from engine.errors import UserError

CAPTIONS_AT_ONCE = 32
"""Number of captions that the text encoders process in one batch."""

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]}']", re.IGNORECASE)
_TAG = re.compile(  # by name: <sks> and <lora:x:1> are words that somebody put there on purpose
    r"</?(?:a|b|blockquote|br|center|code|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|small|span|strong|sub|sup|table|td|tr"
    r"|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]")
_WRITTEN_BREAK = re.compile(r"\\[nrt](?![a-z])")  # the two characters, as in "a cat\n"
_INVISIBLE = frozenset(
    "\u00ad\u200b\u200e\u200f\u2060\ufeff\ufffd\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_CAMERA = re.compile(r"(?:img|dsc[nf]?|dscf|pxl|mvi|image|photo|picture|screenshot|untitled)?[\s\d]*", re.IGNORECASE)
_HASH = re.compile(r"(?=[0-9a-f]*\d)[0-9a-f]{16,}|[0-9a-f]{8}(?:[ -][0-9a-f]{4}){3}[ -][0-9a-f]{12}", re.IGNORECASE)
_COPY = re.compile(r"\s*\(\d+\)$|(?<=\D)[\s._-]+\d+$")
_FIELD = re.compile(r"\{([^{}]*)\}")


def clean(text: str, *, markup: bool = True, urls: bool = True, control: bool = True, backslashes: bool = True) -> str:
    """A caption without what got into it by accident; spaces and line breaks become single spaces.

    ``markup``: &amp;amp; and the like, also when escaped twice, and common HTML tags. ``urls``: web addresses.
    ``control``: control and invisible characters (joiners stay: emoji and some scripts need them). ``backslashes``:
    "\\(" becomes "(", a written "\\n" a space.
    """
    if markup:
        for _ in range(3):
            if (plain := html.unescape(text)) == text:
                break
            text = plain
        text = _TAG.sub(" ", text)
    if urls:
        text = _EMPTY_BRACKETS.sub("", without) if (without := _URL.sub("", text)) != text else text
    if control:
        text = "".join(_visible(character) for character in text)
    if backslashes:
        text = _WRITTEN_BREAK.sub(" ", text)
        text = re.sub(r"\\+(?=\w)", " ", text).replace("\\", "")
    return " ".join(text.split())


def _visible(character: str) -> str:
    if character in _INVISIBLE:
        return ""
    if unicodedata.category(character) in ("Cc", "Cs"):
        return " " if character.isspace() else ""
    return character


def add(text: str, prefix: str = "", suffix: str = "", separator: str = ", ") -> str:
    """Words before and after a caption. What it starts or ends with already is not added a second time."""
    prefix, suffix, text = prefix.strip(), suffix.strip(), text.strip()
    if prefix and not re.match(rf"{re.escape(prefix)}(?!\w)", text, re.IGNORECASE):
        text = separator.join(part for part in (prefix, text) if part)
    if suffix and not re.search(rf"(?<!\w){re.escape(suffix)}$", text, re.IGNORECASE):
        text = separator.join(part for part in (text, suffix) if part)
    return text


def add_trigger(text: str, trigger: str, separator: str = ", ") -> str:
    """The trigger word in front, unless the caption has it anywhere as a word of its own."""
    trigger = trigger.strip()
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", text, re.IGNORECASE):
        return text
    return add(text, prefix=trigger, separator=separator)


def replace(
    text: str, search: str, by: str, *, regex: bool = False, match_case: bool = True, whole_words: bool = False
) -> str:
    """Search and replace; ``regex``: Python's regular expressions, and \\1 in ``by``.

    Raises UserError for nothing to search for, or an expression that is none.
    """
    if not search:
        raise UserError("There is nothing to search for.", "The search field is empty.", "Type what to replace.")
    pattern = search if regex else re.escape(search)
    if whole_words:
        pattern = rf"(?<!\w)(?:{pattern})(?!\w)"
    try:
        return re.sub(pattern, by if regex else lambda _: by, text, flags=0 if match_case else re.IGNORECASE)
    except (re.error, IndexError) as error:
        raise UserError(
            f"{search!r} cannot be searched for.",
            f"As a regular expression it is not valid ({error}).",
            "Correct it, or turn regular expressions off.",
        ) from error


def from_file_name(key: str) -> str:
    """Words of a file's name: "red_fox-03.jpg" gives "red fox". Empty for names that a camera or a computer gave.

    ``key``: a sample's key, or any path with forward slashes.
    """
    words = PurePosixPath(key).stem
    while (shorter := _COPY.sub("", words)) != words:
        words = shorter
    words = " ".join(re.sub(r"[_\-.+]+", " ", words).split())
    return "" if _CAMERA.fullmatch(words) or _HASH.fullmatch(words) else words


def from_template(template: str, key: str, caption: str = "") -> str:
    """A template filled in for one sample: {caption}, {name} (words of the file's name), {folder} (of its folder's).

    Raises UserError for another word in braces.
    """
    path = PurePosixPath(key)
    fields = {
        "caption": caption.strip(),
        "name": from_file_name(key),
        "folder": " ".join(re.sub(r"[_\-]+", " ", path.parent.name).split()),
    }

    def fill(match: re.Match[str]) -> str:
        if match[1] not in fields:
            known = ", ".join(f"{{{field}}}" for field in fields)
            raise UserError(
                f"The template has an unknown word, {match[0]}.", f"Known are {known}.", "Correct the template."
            )
        return fields[match[1]]

    return " ".join(_FIELD.sub(fill, template).split()).strip(" ,")


def empty_share(captions: Iterable[str]) -> float:
    """Share of captions that are empty, 0 to 1; 0 where there are none at all."""
    empty = total = 0
    for caption in captions:
        total += 1
        empty += not caption.strip()
    return empty / total if total else 0.0


def meaning(share: float) -> str:
    """What a share of empty captions does to training, in a sentence for the window."""
    if share == 0:
        return "Every image has a caption. Prompt dropout hides some in training, so that the map alone counts too."
    words = f"{max(share, 0.01):.0%} of the captions are empty"
    if share == 1:
        return f"{words}: the net learns to read the map alone, and prompts keep what the base makes of them."
    if share <= 0.5:
        return f"{words}: at these the net learns to read the map alone; prompt dropout comes on top of it."
    return f"{words}: most steps have no prompt. Add captions, or set prompt dropout to 0."
