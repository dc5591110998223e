"""Everything on the page that takes free words or files, and what is done with it: the other half of routes.py.

All other inputs are choices (refused unless offered), numbers, switches and what the server itself remembers of a page.
A test goes through the inputs of every function of the app: a new field that takes words or files is entered here.
"""

from __future__ import annotations

import re
from typing import Any

CLOSED = frozenset({"Number", "Slider", "Checkbox", "Radio", "CheckboxGroup", "State"})
"""Components that give a number, a switch, one of the choices, or what the server put there."""
PLACE = "a place on this computer, read as the person at the keyboard could; UserError where it is something else"
NAME = "becomes a file's name: only letters, digits and .-_ are left of it (`safe_name`)"
TEXT = "stays text: kept in SQLite or JSON, escaped where it is shown"
IMAGE = "an upload; opened by `engine.disk.images.opened` (size, kind, end of the file)"
UPLOAD = "an upload: only files in `temporary/`, and not larger than an upload may be"
FIELDS = (
    ("dataset-folder", f"{PLACE}; or a Hugging Face id, fetched when Read is pressed"),
    ("import-path", f"{PLACE}; weights as safetensors or with `weights_only=True`"),
    ("import-base|set-model-base|set-model-controlnet", f"{PLACE}; or the name of a base"),
    (r"param-\w+-(model|detector)|captions-model", f"{PLACE}; or a Hugging Face id, fetched by its button"),
    ("param-external-program", "a Python file of the user's, run in a process of its own: it can do what the user can"),
    (r"deliver-\w+-folder", f"{PLACE}; the exported file is copied there"),
    ("dataset-name|export-name|import-name|own-preset-title|Name of the run", NAME),
    ("set-data-dataset", "the name of a dataset; `safe_name`"),
    (r"import-(image|caption|condition)-column|import-(subset|split)", "compared with the names in the file"),
    (r"captions-(containing|search|by|prefix|suffix|trigger|template|table)", TEXT),
    ("try-prompt|try-negative|Negative prompt|compare-(prompts|seeds|strengths)|set-validation-prompts", TEXT),
    ("try-(own|second-net|base-choice|bases-folder)", f"{PLACE}; weights as in `import-path`"),
    ("set-validation-pictures_folder", f"{PLACE}; its images are only read"),
    ("set-validation-clip_model", f"{PLACE}; or a Hugging Face id, fetched by its button"),
    ("Condition maps of yours", UPLOAD),
    ("hub-repository|hub-token", "handed to huggingface.co when Upload is pressed; the token is not kept"),
    ("condition-upload|try-(upload|second-map|drawing|picture|restore)", IMAGE),
)


def name_of(component: Any) -> str:
    """How a field is called in the list: its id on the page, or its label where it has none."""
    return str(component.elem_id or component.label or type(component).__name__)


def takes_anything(component: Any) -> bool:
    """Whether a component lets words or files in that were not offered."""
    kind = type(component).__name__
    if kind == "Dropdown":
        return bool(component.allow_custom_value)
    return kind not in CLOSED


def guard_of(name: str) -> str | None:
    """What is done with a field; None for one that is not in the list."""
    return next((guard for pattern, guard in FIELDS if re.fullmatch(pattern, name)), None)


def table() -> str:
    """The list as docs/security.md shows it."""
    rows = [f"| {', '.join(f'`{part}`' for part in _parts(pattern))} | {guard} |" for pattern, guard in FIELDS]
    return "\n".join(["| field | what is done with it |", "|---|---|", *rows])


def _parts(pattern: str) -> list[str]:
    """A pattern's alternatives, those outside brackets, in a form that people read."""
    parts = re.split(r"\|(?![^(]*\))", pattern)
    return [part.replace(r"\w+", "*").replace("|", " or ") for part in parts]
