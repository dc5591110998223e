"""Reads a dataset config: which trainer it is of, what it says, and what of it is not used here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.data.layouts.trainer_configs.files import ENDINGS, UNDERSTOOD, Places, load, without_links
from engine.data.layouts.trainer_configs.model import Config
from engine.data.layouts.trainer_configs.tools import TOOLS, metadata
from engine.errors import UserError

_REPEATS = frozenset({"num_repeats", "repeats", "balancing"})
_CHANGES_CAPTIONS = frozenset({"caption_prefix", "caption_suffix", "trigger_word", "prepend_instance_prompt"})
_REFERENCES = ("dataset_config", "concept_file_name", "data_backend_config", "dataset")
"""Entries of training configs that name the dataset config (kohya, OneTrainer, SimpleTuner, diffusion-pipe)."""


def read_config(path: Path) -> Config | None:
    """What a dataset config says, or a list of captions that kohya's scripts write. None if it is neither.

    Raises UserError if it is damaged.
    """
    return understand(without_links(path.absolute().parent) / path.name, load(path))


def understand(path: Path, content: Any, lists: bool = True) -> Config | None:
    """Like ``read_config``, for a config whose content was loaded.

    ``lists``: also take kohya's metadata, and configs of a whole training, which name the dataset config.
    """
    if isinstance(content, dict) and lists:
        for key in _REFERENCES:
            name = content.get(key)
            if isinstance(name, str) and name.lower().endswith(ENDINGS) and not content.get("concepts"):
                return _refer(path, key, name)
    for tool, fits, read in TOOLS:
        if (lists or read is not metadata) and fits(content):
            config = Config(path, Places(path), tool)
            config.subsets = list(read(content, config))
            config.notes += _notes(config)
            return config
    return None


def refused(path: Path) -> UserError:
    """The error for a file that is no dataset config."""
    return UserError(
        f"{path.name} is not a dataset config that this app understands.",
        f"It understands those of {UNDERSTOOD}.",
        "Choose the folder with your images instead.",
    )


def _refer(path: Path, key: str, name: str) -> Config | None:
    there = Places(path).find(name)
    if there is None or there == path or not there.is_file():
        raise UserError(
            f"The file {name} was not found.",
            f"{path.name} is the config of a training run, and names it as {key}.",
            "Choose that file, or the folder with your images.",
        )
    found = understand(there, load(there), lists=False)
    if found is None:
        raise refused(there)
    found.notes.insert(0, f"{path.name} names {there.name}, which was read.")
    return found


def _notes(config: Config) -> list[str]:
    name, notes = config.path.name, []
    notes += [f"{written} was not found; {place} was used instead." for written, place in config.places.moved.items()]
    if repeats := config.unused & _REPEATS:
        notes.append(
            f"{', '.join(sorted(repeats))} in {name}: not used. In this app each image counts once, unless Class "
            "balance on the Train tab draws small folders more often."
        )
    if changes := config.unused & _CHANGES_CAPTIONS:
        notes.append(f"{', '.join(sorted(changes))} in {name}: not used. Captions > All at once can add such words.")
    if rest := sorted(config.unused - _REPEATS - _CHANGES_CAPTIONS):
        notes.append(f"Not used from {name}: {', '.join(rest)}. Size and batch are set on the Train tab.")
    return notes
