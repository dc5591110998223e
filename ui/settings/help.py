"""Pages of docs/ in the window: the answers to common problems, where the problem panel points to."""

from __future__ import annotations

import re

from engine.workspace.paths import APP_FOLDER

TROUBLESHOOTING = APP_FOLDER / "docs" / "troubleshooting.md"
LINK = re.compile(r"\[([^\]]+)\]\(([\w-]+\.md)\)")


def troubleshooting() -> str:
    """Markdown without its title; links to other pages of docs/ as words, since a page of the window has none."""
    try:
        text = TROUBLESHOOTING.read_text(encoding="utf-8")
    except OSError as error:
        return f"{TROUBLESHOOTING} cannot be read: {error.strerror or error}."
    return LINK.sub(r"\1 (docs/\2)", text.partition("\n")[2].strip())
