"""The contents of the queue's files: a waiting job, and the result of one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

EntryState = Literal["waiting", "running"]
EntryOutcome = Literal["completed", "stopped", "cancelled", "failed"]
OUTCOMES: dict[str, str] = {"completed": "done", "stopped": "stopped", "cancelled": "cancelled", "failed": "failed"}
"""The outcomes as words for people."""
UNREADABLE = "unreadable"
"""The kind of an entry whose file is damaged. It fails when its turn comes, and the queue continues."""


@dataclass(frozen=True)
class Entry:
    """A job in the queue. Never changed once it is written: only its file is renamed."""

    id: str
    kind: str
    """The name of a ``QueuedJob`` (engine/queue/kinds.py)."""
    title: str
    settings: dict[str, Any]
    """Plain values, as JSON holds them."""
    added: str
    """Local time, "2026-05-01 22:10"."""
    seconds: float = 0.0
    """How long it is expected to take. 0: not known."""
    position: int = 0
    """Its place: smaller ones come first. Stands in the file's name."""
    state: EntryState = "waiting"


@dataclass(frozen=True)
class Result:
    """The result of an entry."""

    id: str
    kind: str
    title: str
    outcome: EntryOutcome
    words: str
    """What was made, or why it failed."""
    seconds: float
    """How long it took, since it was last started."""
    ended: str
    """Local time."""


def write_entry(entry: Entry) -> str:
    """The text of an entry's file."""
    about = asdict(entry)
    del about["position"], about["state"]  # the file's name tells
    return json.dumps(about, indent=1, ensure_ascii=False)


def read_entry(path: Path, id: str, position: int, state: EntryState) -> Entry:
    """Read an entry. A file that cannot be read becomes an entry of the kind UNREADABLE.

    Raises:
        FileNotFoundError: another process has removed or renamed it.
    """
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return Entry(
            id,
            str(about["kind"]),
            str(about["title"]),
            dict(about["settings"]),
            str(about["added"]),
            float(about.get("seconds", 0)),
            position,
            state,
        )
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return Entry(id, UNREADABLE, f"Damaged entry ({path.name})", {}, "", 0.0, position, state)


def write_result(result: Result) -> str:
    """The text of a result's file."""
    return json.dumps(asdict(result), indent=1, ensure_ascii=False)


def read_result(path: Path) -> Result | None:
    """Read a result. None if its file is gone or damaged."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["outcome"] not in OUTCOMES:
            return None
        return Result(**{**about, "seconds": float(about["seconds"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
