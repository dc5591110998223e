"""Faults of the files themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.data.doctor.finding import Finding, Hit, Row, Rules, Summary
from engine.disk.images import HTML_STARTS, opened
from engine.errors import UserError

_LEFT_OUT = "It is left out already. Fetch the file again, or delete it, and read the folder once more."
_WRITES = "Nothing has to be done here; a corrected copy helps only other programs that read this dataset's folder."

EMPTY = Finding(
    "empty_file", "Empty file", "A file of zero bytes holds no image: a download or copy broke off at its start.",
    _LEFT_OUT, "warning", unusable=True,
)  # fmt: skip
WEB_PAGE = Finding(
    "web_page", "Web page under an image's name",
    "The server sent an error page and it was saved as .jpg. Many training scripts stop at the first of these.",
    _LEFT_OUT, "warning", unusable=True,
)  # fmt: skip
TRUNCATED = Finding(
    "truncated", "End of the file is missing",
    "Such an image opens and is grey from some line on; the net would learn the grey part as well.",
    _LEFT_OUT, "warning", unusable=True,
)  # fmt: skip
DAMAGED = Finding(
    "damaged", "Damaged or unknown file", "Its bytes are no image in a format that is known here.",
    _LEFT_OUT, "warning", unusable=True,
)  # fmt: skip
CMYK = Finding(
    "cmyk", "Print colours (CMYK)",
    "The file holds ink, not light: programs turn it into RGB each in its own way, and colours come out wrong or "
    "inverted. Here it is brought to RGB the same way each time.",
    "Look at the colours. Where they are wrong, leave the image out or export it as sRGB from an image editor.",
    "warning", "picture",
)  # fmt: skip
DEEP = Finding(
    "deep", "More than 8 bits a channel",
    "Many programs cut such files off instead of scaling them, so that everything turns white. Here they are scaled.",
    _WRITES, "note", "picture",
)  # fmt: skip
PALETTE = Finding(
    "palette", "Palette image",
    "At most 256 colours: smooth skies have steps and dots in them, and the net learns to draw those.",
    "Look at a few. Leave them out where photographs are wanted; drawings are mostly fine.", "note", "picture",
)  # fmt: skip
ALPHA = Finding(
    "alpha", "Transparent parts",
    "What lies under transparent pixels is arbitrary, often black with coloured fringes. Here they are put on white; "
    "the net then learns white backgrounds.",
    "Leave them out, or keep them if white backgrounds are what you want.", "note", "picture",
)  # fmt: skip
ROTATED = Finding(
    "exif_rotation", "Rotated by a camera's note (EXIF)",
    "The pixels lie on their side and a note tells how to turn them. Programs that ignore the note made maps that do "
    "not fit. Here the note is followed.",
    _WRITES, "note", "picture",
)  # fmt: skip
FINDINGS = (EMPTY, WEB_PAGE, TRUNCATED, DAMAGED, CMYK, DEEP, PALETTE, ALPHA, ROTATED)


def classify(path: Path) -> Finding | None:
    """What is wrong with a file that could not be used; None where it reads well after all, or is not there."""
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError:
        return None
    if not start:
        return EMPTY
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(HTML_STARTS):
        return WEB_PAGE
    try:
        with opened(path) as image:
            image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except UserError as error:
        return TRUNCATED if _ends_early(path, start, error) else DAMAGED
    return None


def _ends_early(path: Path, start: bytes, error: UserError) -> bool:
    """Whether it begins as an image and its end is missing. WebP tells its own length at its start."""
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return int.from_bytes(start[4:8], "little") + 8 > path.stat().st_size
    try:
        with opened(path) as image:
            return image.width > 0 and "missing" in error.why
    except UserError:
        return False


def judge(row: Row, rules: Rules, summary: Summary) -> Iterator[Hit]:
    facts, key = row.image, row.sample.key
    if facts is None:
        return
    if facts.mode == "CMYK":
        yield Hit(CMYK.name, key)
    if facts.bits > 8:
        yield Hit(DEEP.name, key, f"{facts.bits} bits")
    if facts.mode in ("P", "PA"):
        yield Hit(PALETTE.name, key)
    if facts.transparent:
        yield Hit(ALPHA.name, key)
    if facts.orientation != 1:
        yield Hit(ROTATED.name, key)
