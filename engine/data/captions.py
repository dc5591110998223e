"""Functions on captions: clean, add text, search and replace, make from file names and templates. All pure."""

from __future__ import annotations

import html
import re
import unicodedata
from pathlib import PurePosixPath

from engine.data.pattern_size import check_size
from engine.errors import UserError

PATTERN_SECONDS = 0.5
"""Longest time that a regular expression may take on one caption."""
CAPTIONS_AT_ONCE = 32
"""Number of captions that the text encoders process in one batch."""

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"]*[^\s<>\".,;:!?)\]}']", re.IGNORECASE)
_TAG = re.compile(  # known names only: <sks> and <lora:x:1> are there on purpose
    r"</?(?:a|b|blockquote|br|center|code|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|small|span|strong|sub|sup|table|td|tr"
    r"|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_CODE = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|</?(?:script|style)\b[^<>]*>", re.IGNORECASE | re.DOTALL)
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]")
_WRITTEN_BREAK = re.compile(r"\\[nrt](?![a-z])")  # two characters, as in "a cat\n"
_INVISIBLE = frozenset(
    "\u00ad\u200b\u200e\u200f\u2060\ufeff\ufffd\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_CAMERA = re.compile(r"(?:img|dsc[nf]?|dscf|pxl|mvi|image|photo|picture|screenshot|untitled)?[\s\d]*", re.IGNORECASE)
_HASH = re.compile(r"(?=[0-9a-f]*\d)[0-9a-f]{16,}|[0-9a-f]{8}(?:[ -][0-9a-f]{4}){3}[ -][0-9a-f]{12}", re.IGNORECASE)
_COPY = re.compile(r"\s*\(\d+\)$|(?<=\D)[\s._-]+\d+$")
_FIELD = re.compile(r"\{([^{}]*)\}")


def clean(text: str, *, markup: bool = True, urls: bool = True, control: bool = True, backslashes: bool = True) -> str:
    """Removes what got into a caption by accident, and turns spaces and line breaks into single spaces.

    ``markup``: HTML entities, also when escaped twice, common tags, and scripts and styles with what they contain.
    ``urls``: web addresses. ``control``: control and invisible characters, except joiners, which emoji and some scripts
    need. ``backslashes``: "\\(" becomes "(", a literal "\\n" becomes a space.
    """
    if markup:
        for _ in range(3):
            if (plain := html.unescape(text)) == text:
                break
            text = plain
        text = _TAG.sub(" ", _CODE.sub(" ", text))
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
    """Adds text before and after a caption, unless it already starts or ends with it."""
    prefix, suffix, text = prefix.strip(), suffix.strip(), text.strip()
    if prefix and not re.match(rf"{re.escape(prefix)}(?!\w)", text, re.IGNORECASE):
        text = separator.join(part for part in (prefix, text) if part)
    if suffix and not re.search(rf"(?<!\w){re.escape(suffix)}$", text, re.IGNORECASE):
        text = separator.join(part for part in (text, suffix) if part)
    return text


def add_trigger(text: str, trigger: str, separator: str = ", ") -> str:
    """Adds the trigger word in front, unless the caption already contains it as a whole word."""
    trigger = trigger.strip()
    return text if not trigger or has_word(text, trigger) else add(text, prefix=trigger, separator=separator)


def has_word(text: str, word: str) -> bool:
    """Whether a caption contains a word, as a whole word in upper or lower case."""
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def replace(
    text: str, search: str, by: str, *, regex: bool = False, match_case: bool = True, whole_words: bool = False
) -> str:
    """Searches and replaces. ``regex``: with regular expressions, and \\1 in ``by``.

    Raises UserError for an empty search, an invalid expression, one that is too large (``check_size``), or one that
    takes longer than ``PATTERN_SECONDS``.
    """
    if not search:
        raise UserError("There is nothing to search for.", "The search field is empty.", "Enter the text to replace.")
    import regex as patterns  # unlike re, it has a time limit and lets other threads run meanwhile

    pattern = search if regex else re.escape(search)
    if whole_words:
        pattern = rf"(?<!\w)(?:{pattern})(?!\w)"
    flags = patterns.VERSION0 | (0 if match_case else patterns.IGNORECASE)
    if regex:
        check_size(search, pattern, int(flags))
    try:
        new = by if regex else lambda _: by
        return str(patterns.sub(pattern, new, text, flags=flags, timeout=PATTERN_SECONDS, concurrent=True))
    except TimeoutError as error:
        raise too_slow(search, f"It takes longer than {PATTERN_SECONDS:g} s on one caption: {text[:60]}") from error
    except (patterns.error, IndexError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{search[:60]!r}{' …' if len(search) > 60 else ''} cannot be searched for.",
            f"It is not a valid regular expression ({error}).",
            "Correct it, or turn regular expressions off.",
        ) from error


def too_slow(search: str, why: str) -> UserError:
    """The error for a regular expression that takes too long."""
    return UserError(
        f"The search for {search!r} was stopped.",
        f"{why}.",
        "Simplify it: alternatives inside a repetition, as in (a|aa)+, can match in a huge number of ways. "
        "Nothing was changed.",
    )


def from_file_name(key: str) -> str:
    """Makes a caption from a file name: "red_fox-03.jpg" gives "red fox". Empty for names given by a camera or program.

    ``key``: a sample's key, or any path with forward slashes.
    """
    words = PurePosixPath(key).stem
    while (shorter := _COPY.sub("", words)) != words:
        words = shorter
    words = " ".join(re.sub(r"[_\-.+]+", " ", words).split())
    return "" if _CAMERA.fullmatch(words) or _HASH.fullmatch(words) else words


def from_template(template: str, key: str, caption: str = "") -> str:
    """Fills in a template for one sample: {caption}, {name} (from the file name), {folder} (from the folder's name).

    Raises UserError for any other field.
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
                f"The template has an unknown field, {match[0]}.",
                f"The known fields are {known}.",
                "Correct the template.",
            )
        return fields[match[1]]

    return " ".join(_FIELD.sub(fill, template).split()).strip(" ,")


def meaning(share: float) -> str:
    """Tells the user what a fraction of empty captions means for training."""
    if share == 0:
        return (
            "Every image has a caption. During training, prompt dropout hides some of them, so that the net also "
            "learns from the map alone."
        )
    words = f"{max(share, 0.01):.0%} of the captions are empty"
    if share == 1:
        return f"{words}: the net learns to follow the map without a prompt, and prompts work as in the base model."
    if share <= 0.5:
        return f"{words}: from these, in addition to prompt dropout, the net learns to follow the map without a prompt."
    return f"{words}: most steps have no prompt. Add captions, or set prompt dropout to 0."
