"""Opens the dataset configs of other trainers (TOML, JSON, YAML), and finds the folders that they name."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from engine.disk.syntax import fault
from engine.disk.text import read_text
from engine.disk.typed_path import typed_path
from engine.errors import UserError

TOML, YAML = (".toml",), (".yaml", ".yml")
ENDINGS = (*TOML, ".json", *YAML)
UNDERSTOOD = (
    "kohya's sd-scripts (a .toml or .json with datasets and subsets, or its metadata .json), OneTrainer "
    "(concepts.json), SimpleTuner (multidatabackend.json), musubi-tuner (.toml with image_directory), ai-toolkit "
    "(.yaml with folder_path) and diffusion-pipe (.toml with directory)"
)
_LARGEST = {".json": 256 << 20}  # bytes; a list of captions may be long
_LARGEST_OTHER = 1 << 20
_ABOVE = 2  # folders above the config that relative paths may start from: it often lies in config/ of the program


def is_config(path: Path) -> bool:
    """Whether the path is a file that may be a dataset config, by its name."""
    try:
        return path.suffix.lower() in ENDINGS and path.is_file()
    except OSError:
        return False


def load(path: Path) -> Any:
    """The content of a config. Raises UserError if it cannot be read."""
    ending = path.suffix.lower()
    try:
        if path.stat().st_size > _LARGEST.get(ending, _LARGEST_OTHER):
            raise _TooLarge
        text = read_text(path).text
        return _parse(text, ending)
    except OSError as error:
        why = f"The system says: {error.strerror or error}."
    except _TooLarge:
        why = "It is far too large for a dataset config."
    except (ValueError, RecursionError) as error:
        why = f"Its {ending[1:].upper()} is broken: {_said(error, text)}."
        if ending in TOML and "\\" in text:
            why += " Paths with \\ must be in single quotes, or be written with /."
    raise UserError(f"{path.name} cannot be read.", why, "Correct it, or choose the folder with the images instead.")


class _TooLarge(Exception):
    pass


def _said(error: Exception, text: str) -> str:
    """The mistake in words. An error of YAML comes as the cause of a ValueError."""
    return fault(error.__cause__ if isinstance(error.__cause__, Exception) else error, text)


def _parse(text: str, ending: str) -> Any:
    """Raises ValueError (also as one of its subclasses) or RecursionError."""
    if ending in TOML:
        return tomllib.loads(text)
    if ending not in YAML:
        try:
            return json.loads(text)
        except ValueError:
            if (plain := _without_comments(text)) == text:
                raise
            return json.loads(plain)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


_OF_JSON = re.compile(r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/|,(?=\s*[}\]])', re.DOTALL)
"""A text in quotation marks, which stays; or a comment, or a comma in front of a closing bracket."""


def _without_comments(text: str) -> str:
    """Hand-written JSON without its comments and trailing commas."""
    for _ in range(2):  # a comment may stand between the comma and the bracket
        text = _OF_JSON.sub(lambda match: match[1] or "", text)
    return text


def as_tables(value: Any, name: str, config: Path) -> Iterator[dict[str, Any]]:
    """The entries of a list of tables; a single table counts as a list of one. Raises UserError for anything else."""
    entries = [value] if isinstance(value, dict) else [] if value is None else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise wrong_type(config, name, value, "a list of tables")
    yield from entries


def text_of(entry: Mapping[str, Any], key: str, config: Path) -> str:
    """The text of an entry, "" if there is none. Raises UserError for another type."""
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise wrong_type(config, key, value, "a text")
    return (value or "").strip()


def texts_of(entry: Mapping[str, Any], key: str, config: Path) -> list[str]:
    """One text, or several, of an entry. Raises UserError for another type."""
    value = entry.get(key)
    if not isinstance(value, list):
        return [text] if (text := text_of(entry, key, config)) else []
    if not all(isinstance(one, str) for one in value):
        raise wrong_type(config, key, value, "a text or a list of texts")
    return [one.strip() for one in value if one.strip()]


def wrong_type(config: Path, key: str, value: Any, wanted: str) -> UserError:
    """The error for an entry of another type than its program writes."""
    return UserError(
        f"{key} in {config.name} is not {wanted}.",
        f"It is {json.dumps(value, default=str)[:60]}.",
        "Correct it, or choose the folder with the images instead.",
    )


class Places:
    """Finds the files and folders that a config names, also if it was made on another machine."""

    def __init__(self, config: Path) -> None:
        self._folder = config.parent
        self.moved: dict[str, Path] = {}
        """What was found in another place than the one written, by what is written."""

    def find(self, written: str) -> Path | None:
        """The file or folder of a path in the config, without ``..`` and links. None if it is not here.

        Relative paths start at the config, or at a folder above it. Of a path that does not exist here, the ends are
        looked for beside the config, the longest first: for /home/me/data/dogs this is data/dogs, then dogs.
        """
        form = typed_path(written).replace("\\", "/")
        for start in (self._folder, *self._folder.parents[:_ABOVE]):
            if form and (found := _existing(start / form)):
                return found
        parts = [part for part in PurePosixPath(form).parts if part not in ("/", "//", "..", ".") and ":" not in part]
        for start in (self._folder, self._folder.parent):
            for first in range(len(parts)):
                if found := _existing(start.joinpath(*parts[first:])):
                    self.moved[written] = found
                    return found
        return None


def without_links(path: Path) -> Path:
    """The absolute path of something that exists. Links, which a search for images skips, are followed.

    Other paths stay as they are: resolving one on a network drive of Windows changes it as well.
    """
    plain = Path(os.path.normpath(path.absolute()))
    return path.resolve() if any(place.is_symlink() for place in (plain, *plain.parents)) else plain


def _existing(path: Path) -> Path | None:
    try:
        usable = path.is_dir() or path.is_file()  # no device or pipe, which may have no end
        return without_links(path) if usable else None
    except (OSError, ValueError):  # a name that the system does not take, such as one that is too long
        return None
