"""Advice of the engine in the words of the command line: commands in place of tabs and buttons."""

from __future__ import annotations

import re

COMMANDS = (
    (r"[Mm]ake the condition maps on the Conditions tab", "make the condition maps with extract NAME --type TYPE"),
    (
        r"\(?Resume with other settings, on the Train tab; or python -m engine\.cli (resume [^)]*)\)?",
        r"(\1)",
    ),
    (
        r"\(?Resume with other settings, on the Train tab\)?",
        "(resume RUN --set NAME=VALUE)",
    ),
    (r"Press “Download the model” on the Conditions tab", "Add --download to extract"),
    (r"or download one: Get a base model, on the Train tab", "or download one: bases get NAME (bases list shows them)"),
    (r"Get a base model, on the Train tab, downloads one", "The command bases get NAME downloads one (bases list)"),
    (r"Download them on the Conditions tab", "Download them with extract --download"),
    (
        r"choose My own program on the Conditions tab, enter it there, and press [^.]*",
        "make the maps with extract --type external",
    ),
    (r"[Ll]ook at it on the Conditions tab", "Look at it in the window"),
    (r"on the (?:Conditions|next) tab", "with the command extract"),
    (r"On the Conditions tab", "With the command extract"),
    (r"on the Dataset tab", "with the command import"),
    (r"on the Train tab", "with the command train"),
    (r"on the Try it tab", "with the command sample"),
    (r"on the Export tab", "with the command export"),
)
"""What the engine says about the window, as a pattern -> the same on the command line. The first that fits counts."""


def for_command_line(text: str) -> str:
    """Return a sentence about what to do with commands in place of the window's tabs and buttons."""
    for pattern, words in COMMANDS:
        text = re.sub(pattern, words, text)
    return text
