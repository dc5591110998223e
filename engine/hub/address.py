"""What an address on the Hugging Face hub names: pasted from a browser, from a clone command, or as hf://."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ADDRESS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/|git@hf\.co:|hf://|hf:)"
    r"(?P<kind>datasets/|models/|spaces/)?"
    r"(?P<id>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}?)(?:\.git)?(?:@[\w.-]+)?"
    r"(?:/(?:blob|resolve|raw)/[^/]+/(?P<file>[^?#]+)|/[^?#]*)?(?:[?#].*)?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Named:
    """What an address names."""

    kind: str
    """"model", "dataset" or "space"."""
    id: str
    """owner/name."""
    file: str = ""
    """The path of a single file in it. Empty: the repository, or a folder of it."""


def named_by(address: str) -> Named | None:
    """What an address on the hub names. None: it is no such address."""
    match = _ADDRESS.fullmatch(address.strip())
    if match is None:
        return None
    kind = {"datasets/": "dataset", "spaces/": "space"}.get((match["kind"] or "").lower(), "model")
    return Named(kind, match["id"], match["file"] or "")
