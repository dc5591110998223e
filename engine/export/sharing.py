"""What a model card says about training data before others use the net: the author's answers, and what was measured.

Both are kept with the run (``sharing.json``). What nobody answered or measured is said to be open, never guessed.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.machine.units import counted

FILE = "sharing.json"
README = "README.md"
MARK = "made_with: ControlNet Studio"
"""Marks a model card that this app wrote."""
LONGEST = 1000
"""Characters of an answer."""
RARE = 0.01
"""Share of the captions below which a word counts as rare."""
BEGIN, END = "<!-- training data: {} -->", "<!-- end of training data -->"
_SECTION = re.compile(r"<!-- training data: (\S*) -->.*?" + END, re.DOTALL)


@dataclass(frozen=True)
class Question:
    """A question to the author of a net."""

    name: str
    """In sharing.json; on the command line with - in place of _."""
    title: str
    """On the Export tab and in the model card."""
    info: str


QUESTIONS = (
    Question("data_source", "Where the training images come from", "For example: my own photographs; or a set's name."),
    Question("data_licence", "Licence of the training images", "What it allows, and whether their authors agreed."),
    Question("people", "People in the images", "Whether any can be recognized, and whether they agreed."),
    Question("known_faults", "Known faults", "What it does badly, and what it should not be used for."),
)


@dataclass(frozen=True)
class Copy:
    """A drawn image that nearly equals a training image. ``distance``: bits of 64 in which their hashes differ."""

    image: int
    """Number of the drawn image, from 0."""
    key: str
    """Of the training image. Shown to the author, not written into the card."""
    distance: int


@dataclass(frozen=True)
class DataCheck:
    """What was measured for one checkpoint."""

    step: int
    """Of the drawn images."""
    drawn: int
    """Drawn images that were compared with the training images."""
    copies: tuple[Copy, ...]
    originals: int
    """Originals of the same pairs that nearly equal a training image: how repetitive the dataset is."""
    looked_at: int
    of: int
    """Training images: compared, and in all."""
    captioned: int
    """Training images with a caption."""
    words: tuple[tuple[str, int], ...]
    """The most common words, and in how many captions they are."""
    distinct: int
    rare: int
    """Distinct words of the captions, and those in less than ``RARE`` of them."""
    folders: tuple[int, ...] = ()
    """Images in each folder, if the images lie in several."""
    balance: str = "off"
    """The run's class balance."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataCheck:
        """The opposite of ``dataclasses.asdict``, from JSON."""
        copies = tuple(Copy(**one) for one in values["copies"])
        words = tuple((str(word), int(count)) for word, count in values["words"])
        return cls(**{**values, "copies": copies, "words": words, "folders": tuple(values["folders"])})


@dataclass(frozen=True)
class Sharing:
    """Answers by ``Question.name``, and checks by the name of the checkpoint's folder."""

    answers: Mapping[str, str] = field(default_factory=dict)
    checks: Mapping[str, DataCheck] = field(default_factory=dict)


def read_sharing(run_folder: Path) -> Sharing:
    """What is known about a run. Nothing, if the file is missing or damaged: the questions can be answered again."""
    try:
        found = json.loads((run_folder / FILE).read_text(encoding="utf-8"))
        answers = {one.name: str(found["answers"].get(one.name, "")) for one in QUESTIONS}
        return Sharing(answers, {name: DataCheck.from_dict(one) for name, one in found["checks"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Sharing()


def save_answers(run_folder: Path, answers: Mapping[str, str]) -> Sharing:
    """Keep answers with the run, in addition to earlier ones, and write them into its exports' cards.

    Raises:
        UserError: an answer is too long or no text, and nothing is changed; or a file cannot be written.
    """
    for one in QUESTIONS:
        if any("\ud800" <= character <= "\udfff" for character in answers.get(one.name, "")):
            raise UserError(
                "The answers were not saved.",
                f"“{one.title}” contains bytes that are no text in UTF-8.",
                "Type it again, or set the terminal to UTF-8.",
            )
        if len(answers.get(one.name, "")) > LONGEST:
            raise UserError(
                "The answers were not saved.",
                f"“{one.title}” has {len(answers[one.name]):,} characters; at most {LONGEST:,} fit.",
                "Shorten it, or give an address where more is written.",
            )
    known = read_sharing(run_folder)
    return _save(run_folder, Sharing({**known.answers, **answers}, known.checks))


def save_check(run_folder: Path, name: str, check: DataCheck) -> Sharing:
    """Keep what was measured for a checkpoint with the run, and write it into its exports' cards.

    Args:
        name: of the checkpoint's folder.
    """
    known = read_sharing(run_folder)
    return _save(run_folder, Sharing(known.answers, {**known.checks, name: check}))


def _save(run_folder: Path, sharing: Sharing) -> Sharing:
    try:
        atomic_write_text(run_folder / FILE, json.dumps(asdict(sharing), indent=2, ensure_ascii=False))
        for readme in (run_folder / "exports").glob(f"*/{README}"):
            text = readme.read_text(encoding="utf-8", errors="replace")
            if MARK in text:
                atomic_write_text(readme, with_section(text, sharing))
    except OSError as error:
        raise UserError(
            "The model cards could not be brought up to date.",
            f"{run_folder}: {error.strerror or error}.",
            "Free some space, and check that the folder can be written.",
        ) from error
    return sharing


def with_section(card: str, sharing: Sharing) -> str:
    """A model card with its section about the training data brought up to date; one that has none gets it at its end.

    A card of an earlier version does not say of which checkpoint it is, so that nothing measured is written into it.
    """
    found = _SECTION.search(card)
    if found is None:
        return card.rstrip("\n") + "\n\n" + "\n".join(section(sharing, ""))
    new = "\n".join(section(sharing, found[1])).rstrip("\n")
    return card[: found.start()] + new + card[found.end() :]


def checkpoint_of(card: str) -> str:
    """The name of the checkpoint's folder that a model card's section is about; "": it does not say."""
    found = _SECTION.search(card)
    return found[1] if found else ""


def section(sharing: Sharing, checkpoint: str) -> list[str]:
    """The lines of the model card. ``checkpoint``: the name of its folder."""
    stated = [f"- **{title}**: {_escaped(text) or '*not answered*'}" for title, text in answered(sharing)]
    measured = [
        f"- **{title}**: {_escaped(text) or '*not measured*'}" for title, text in found_out(sharing, checkpoint)
    ]
    return [
        BEGIN.format(checkpoint),
        "## Training data",
        "",
        "Answered by the author:",
        "",
        *stated,
        "",
        "Measured:",
        "",
        *measured,
        END,
        "",
    ]


def answered(sharing: Sharing) -> list[tuple[str, str]]:
    """Each question's title with its answer in one line; "": it is open."""
    return [(one.title, " ".join(sharing.answers.get(one.name, "").split())) for one in QUESTIONS]


def found_out(sharing: Sharing, checkpoint: str) -> list[tuple[str, str]]:
    """Title and text of what is measured for a checkpoint; "": it was not measured."""
    check = sharing.checks.get(checkpoint)
    return [
        ("Near copies of training images", copies_text(check) if check else ""),
        ("Words in the captions", words_text(check) if check else ""),
    ]


def left_open(sharing: Sharing, checkpoint: str) -> list[str]:
    """Titles of what the model card of a checkpoint leaves open."""
    return [title for title, text in [*answered(sharing), *found_out(sharing, checkpoint)] if not text]


def copies_text(check: DataCheck) -> str:
    """How many drawn images nearly equal a training image, for people."""
    if not check.drawn:
        return "the run has drawn no images of held-out captions or control images that could be compared."
    part = "" if check.looked_at == check.of else f" of {check.of:,}"
    return (
        f"{len(check.copies)} of {counted(check.drawn, 'image')} drawn at step {check.step:,} (held-out originals that "
        f"do: {check.originals}). Compared by perceptual hash with {check.looked_at:,}{part} training images."
    )


def words_text(check: DataCheck) -> str:
    """The most common words of the captions and the sizes of the folders, for people."""
    if check.captioned:
        shares = ", ".join(f"{word} {count:,} ({count / check.captioned:.0%})" for word, count in check.words)
        text = f"in {counted(check.captioned, 'caption')}, most often: {shares or 'none'}."
        text += f" Of {counted(check.distinct, 'word')}, {check.rare:,} are in less than {RARE:.0%} of the captions."
    else:
        text = "the training images have no captions."
    if check.folders:
        text += (
            f" The images lie in {counted(len(check.folders), 'folder')}: {max(check.folders):,} in the largest, "
            f"{min(check.folders):,} in the smallest."
        )
    if check.balance != "off":
        text += f" Training evened out the classes (class balance: {check.balance})."
    return text


def _escaped(text: str) -> str:
    """Text of people as text, where Markdown would take it for tags or comments."""
    return html.escape(text, quote=False)
