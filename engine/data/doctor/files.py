"""Problems of the files themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from engine.data.doctor.finding import Finding, Hit, Rules, SampleFacts, Summary
from engine.disk.images import HTML_STARTS, opened
from engine.errors import UserError

_LEFT_OUT = "It is not used. Download the file again or delete it, then read the folder again."
_WRITES = "There is nothing to do here. A corrected copy only helps other programs that read this dataset's folder."

EMPTY = Finding(
    "empty_file",
    "Empty file",
    "The file has zero bytes: a download or copy was interrupted at its start.",
    _LEFT_OUT,
    "warning",
    unusable=True,
)
WEB_PAGE = Finding(
    "web_page",
    "Web page with an image's name",
    "The server sent an error page, which was saved as .jpg. Many training scripts fail on such a file.",
    _LEFT_OUT,
    "warning",
    unusable=True,
)
TRUNCATED = Finding(
    "truncated",
    "End of the file is missing",
    "The image opens, but it is grey below a certain line. The net would learn the grey part, too.",
    _LEFT_OUT,
    "warning",
    unusable=True,
)
DAMAGED = Finding(
    "damaged",
    "Damaged or unknown file",
    "The file is not an image in a supported format.",
    _LEFT_OUT,
    "warning",
    unusable=True,
)
CMYK = Finding(
    "cmyk",
    "Print colours (CMYK)",
    "The file describes ink instead of light. Programs convert it to RGB in different ways, so colours can be "
    "wrong or inverted. This app always converts it in the same way.",
    "Look at the colours. If they are wrong, leave the image out or export it as sRGB from an image editor.",
    "warning",
    "picture",
)
DEEP = Finding(
    "deep",
    "More than 8 bits per channel",
    "Many programs clip such files instead of scaling them, so the image becomes white. This app scales them.",
    _WRITES,
    "note",
    "picture",
)
PALETTE = Finding(
    "palette",
    "Palette image",
    "It has at most 256 colours: smooth skies show bands and dots, which the net learns to draw.",
    "Look at a few. Leave photographs out; drawings are usually fine.",
    "note",
    "picture",
)
ALPHA = Finding(
    "alpha",
    "Transparent parts",
    "The colour of transparent pixels is arbitrary, often black with coloured fringes. This app fills "
    "them with white, or with black or grey where that would hide what is visible, so the net learns plain "
    "backgrounds.",
    "Leave them out, or keep them if you want plain backgrounds.",
    "note",
    "picture",
)
ROTATED = Finding(
    "exif_rotation",
    "Rotated by a camera's metadata (EXIF)",
    "The pixels are stored sideways, and the metadata say how to rotate them. Programs that ignore the metadata "
    "make maps that do not fit. This app follows them.",
    _WRITES,
    "note",
    "picture",
)
FINDINGS = (EMPTY, WEB_PAGE, TRUNCATED, DAMAGED, CMYK, DEEP, PALETTE, ALPHA, ROTATED)


def classify(path: Path) -> Finding | None:
    """The finding for a file that could not be used. None if it is readable after all, or does not exist."""
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
    """Whether it starts like an image and its end is missing. WebP files state their length at the start."""
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return int.from_bytes(start[4:8], "little") + 8 > path.stat().st_size
    try:
        with opened(path) as image:
            return image.width > 0 and "missing" in error.why
    except UserError:
        return False


def judge(row: SampleFacts, rules: Rules, summary: Summary) -> Iterator[Hit]:
    """The findings about the file of one image; none if it could not be read."""
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
