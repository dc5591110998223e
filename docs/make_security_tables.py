"""Writes the two tables of docs/security.md: the addresses, and the fields for free text or files.

    python -m docs.make_security_tables

The addresses come from ui/server/routes.py, which guards them. The fields are listed here. A test goes through the
inputs of every function of the app, so a new field that takes text or files has to be entered below.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ui.server.routes import ROUTES

PAGE = Path(__file__).with_name("security.md")
CLOSED = frozenset({"Number", "Slider", "Checkbox", "Radio", "CheckboxGroup", "State"})
"""Components that give a number, a switch, one of the offered choices, or a value that the server put there."""
PLACE = "a path on this computer, read with the user's own rights; UserError if it is something else"
NAME = "becomes a file name: `safe_name` keeps only letters, digits and .-_"
TEXT = "stays text: kept in SQLite or JSON, escaped where it is shown"
IMAGE = "an upload, opened by `engine.disk.images.opened` (size, file type, end of the file)"
UPLOAD = "an upload: only files in `temporary/`, within the size limit of uploads"
FIELDS = (
    ("dataset-folder", f"{PLACE}; or a Hugging Face id, downloaded when Read is pressed"),
    ("import-path", f"{PLACE}; weights as safetensors or with `weights_only=True`"),
    ("import-base|merged-base-base|set-model-base|set-model-controlnet", f"{PLACE}; or the name of a base"),
    ("bases-folder", f"{PLACE}; only the headers and configs of models are read"),
    (r"param-\w+-(model|detector)|captions-model", f"{PLACE}; or a Hugging Face id, downloaded by its button"),
    ("param-external-program", "a Python file of the user's, run in a separate process with the user's rights"),
    (r"deliver-\w+-folder", f"{PLACE}; the exported file is copied there"),
    ("dataset-name|export-name|import-name|merged-base-name|own-preset-title|Name of the run", NAME),
    ("set-tuning-word", "letters, digits, - and _ only, at most 40: it becomes a file name"),
    ("set-tuning-begun_as|set-tuning-class_prompt", TEXT),
    ("set-data-dataset", "the name of a dataset; `safe_name`"),
    ("sharing-(data_source|data_licence|people|known_faults)", "stays text: kept in JSON, escaped in the model card"),
    ("set-data-balance_words", "words, split at commas; compared with captions as plain text"),
    (r"import-(image|caption|condition)-column|import-(subset|split)", "compared with the names in the file"),
    ("import-roles", "folders and roles, split at commas; compared with the folders found and the known roles"),
    (r"captions-(containing|search|by|prefix|suffix|trigger|template|table)", TEXT),
    ("try-(prompt|negative)|compare-(prompts|negative|seeds|strengths)|set-validation-(prompts|other_captions)", TEXT),
    ("try-(own|second-net|base-choice|bases-folder)", f"{PLACE}; weights as in `import-path`"),
    (
        "set-model-ingredients|try-ingredients|merged-base-files|transfer-files",
        f"one per line, with a weight: {PLACE}; weights as in `import-path`",
    ),
    ("set-validation-pictures_folder", f"{PLACE}; its images are only read"),
    ("set-validation-clip_model", f"{PLACE}; or a Hugging Face id, downloaded by its button"),
    ("compare-own", UPLOAD),
    ("hub-repository|hub-token", "sent to huggingface.co when Upload is pressed; the token is not kept"),
    ("condition-upload|try-(upload|second-map|drawing|picture|restore)", IMAGE),
)


def name_of(component: Any) -> str:
    """Return the name of a field in the list: its element id, or its label if it has none."""
    return str(component.elem_id or component.label or type(component).__name__)


def takes_anything(component: Any) -> bool:
    """Return whether a component accepts text or files that were not offered as choices."""
    kind = type(component).__name__
    if kind == "Dropdown":
        return bool(component.allow_custom_value)
    return kind not in CLOSED


def guard_of(name: str) -> str | None:
    """Return what is done with a field, or None if it is not in the list."""
    return next((guard for pattern, guard in FIELDS if re.fullmatch(pattern, name)), None)


def routes_table() -> str:
    rows = [f"| {' '.join(r.methods)} | `{r.path}` | {r.what} | {r.guard} |" for r in ROUTES]
    return "\n".join(["| | address | for | guard |", "|---|---|---|---|", *rows])


def fields_table() -> str:
    rows = [f"| {', '.join(f'`{part}`' for part in _parts(pattern))} | {guard} |" for pattern, guard in FIELDS]
    return "\n".join(["| field | what is done with it |", "|---|---|", *rows])


def _parts(pattern: str) -> list[str]:
    """Split a pattern at its alternatives outside brackets, for people to read."""
    parts = re.split(r"\|(?![^(]*\))", pattern)
    return [part.replace(r"\w+", "*").replace("|", " or ") for part in parts]


def between(text: str, mark: str, table: str) -> str:
    """Return ``text`` with everything between the two comments of a mark replaced."""
    start, end = f"<!-- {mark} -->\n", f"\n<!-- end of {mark} -->"
    return re.sub(f"{re.escape(start)}.*?{re.escape(end)}", lambda _: start + table + end, text, flags=re.DOTALL)


def main() -> None:
    text = between(PAGE.read_text(encoding="utf-8"), "addresses", routes_table())
    text = between(text, "fields", fields_table())
    temporary = PAGE.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(PAGE)


if __name__ == "__main__":
    main()
