"""Presets: partial settings in presets/*.toml, merged in layers. Each value remembers which layer it came from."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from engine.config import RunConfig, field_of, fields, parse
from engine.config.migrate import migrated
from engine.disk.syntax import fault
from engine.errors import UserError
from engine.families.facts import NAMES

PRESETS_FOLDER = Path(__file__).resolve().parents[2] / "presets"
BASES_FILE = "bases.toml"
"""In the same folder, but no preset: the bases that are offered (engine/bases/catalog.py)."""
DATASETS_FILE = "datasets.toml"
"""In the same folder, but no preset: the sets of images that are offered (engine/data/dataset_catalog.py)."""


CONTROLNET = "controlnet"
LIKE_A_LORA = "subject"
"""Such runs have the settings of a LoRA."""
OTHER_KINDS = tuple(
    what for what in get_args(fields("tuning")["what"].annotation) if what not in (CONTROLNET, LIKE_A_LORA)
)
"""What can be trained besides a ControlNet, which is the usual case of a preset."""


@dataclass(frozen=True)
class Preset:
    """One preset file: title and hint for the page, the smallest card it is for, and partial settings."""

    name: str
    title: str
    hint: str
    min_vram_gib: float
    values: dict[str, Any]
    families: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings that differ for bases of a family, by the family's name."""
    trained: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Settings that differ where something else than a ControlNet is trained: by ``tuning.what``, then by the family's
    name; under "" those for all families."""
    based_on: Preset | None = None
    """The preset whose settings these override. Only in the user's presets (engine/config/user_presets.py)."""

    def layers(self, family: str = "", what: str = CONTROLNET) -> list[tuple[str, dict[str, Any]]]:
        """Layers for ``resolve``: these settings, and over them those for a family of bases and for what is trained.

        Args:
            what: the run's ``tuning.what``. A subject is a LoRA, with its settings.
        """
        what = "lora" if what == LIKE_A_LORA else what
        below = [] if self.based_on is None else self.based_on.layers(family, what)
        trained = self.trained.get(what, {})
        names = {
            "": self.values,
            f", for {family}": self.families.get(family),
            f", for {what}": trained.get(""),
            f", for {what} and {family}": trained.get(family) if family else None,
        }
        own = {name: values for name, values in names.items() if values is not None}
        if what != CONTROLNET:
            own = {name: _without_control(values) for name, values in own.items()}
        return [*below, *((f"preset {self.name}{name}", values) for name, values in own.items())]

    @property
    def what(self) -> str:
        """What the preset trains unless the user says otherwise."""
        chosen = [values["tuning"]["what"] for _, values in self.layers() if "what" in values.get("tuning", {})]
        return str(chosen[-1]) if chosen else CONTROLNET

    def base(self) -> str:
        """The base model that the preset names, else the default one."""
        chosen = [values["model"]["base"] for _, values in self.layers() if "base" in values.get("model", {})]
        return str(chosen[-1]) if chosen else RunConfig().model.base


def _without_control(values: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that have a meaning for ControlNets alone."""
    return unflatten({dotted: value for dotted, value in flatten(values).items() if not _is_of_controlnets(dotted)})


def _is_of_controlnets(dotted: str) -> bool:
    field = field_of(dotted)
    return field is not None and "controlnet" in (field.json_schema_extra or {}).get("only", ())


def read_toml(path: Path) -> dict[str, Any]:
    """Contents of a TOML file. Raises UserError if it cannot be read."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # Windows' editors write a byte order mark
        return tomllib.loads(text)
    except FileNotFoundError as error:
        raise UserError(f"{path} cannot be read.", "The file does not exist.", "Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"{path} cannot be read.", f"It is not valid TOML: {fault(error, text)}.", _toml_advice(path)
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} cannot be read.", f"It is not UTF-8 text: {fault(error)}.", "Save it as UTF-8."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read.", f"{error.strerror or error}.", "Check its permissions.") from error


def _toml_advice(path: Path) -> str:
    """Advice about a file that is not valid TOML. Names the two most common mistakes."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    if re.search(r'=\s*"[^"\n]*\\[^"\n]*"', text):
        return "Write Windows paths in single quotes: base = 'C:\\models\\base.safetensors'."
    if re.search(r"=\s*\d+,\d+", text):
        return "Write decimals with a point: learning_rate = 0.00001."
    return "Correct that line."


def load_preset(path: Path, known: Mapping[str, Preset] | None = None) -> Preset:
    """Load a preset from its file.

    Args:
        known: the presets that it may be based on, by name.

    Raises:
        UserError: the file is no TOML, has a setting that does not exist, or is based on an unknown preset.
    """
    values = read_toml(path)
    about = values.pop("preset", {})
    families = {name: values.pop(name) for name in NAMES if name in values}
    trained = {
        what: {
            family: table.pop(what)
            for family, table in (("", values), *families.items())
            if isinstance(table, dict) and what in table
        }
        for what in OTHER_KINDS
    }
    tables = (about, *families.values(), *(table for by_family in trained.values() for table in by_family.values()))
    if not all(isinstance(table, dict) for table in tables):
        sections = ", ".join(("preset", *OTHER_KINDS, *NAMES[:-1]))
        raise UserError(
            f"{path} cannot be used.",
            f"{sections} and {NAMES[-1]} are sections.",
            f"Write [preset], or [{NAMES[-1]}.train].",
        )
    below, smallest = about.get("based_on"), about.get("min_vram_gib", 0)
    if below is not None and below not in (known or {}):
        raise UserError(
            f"{path} cannot be used.",
            f"It is based on the preset {below}, which does not exist.",
            f"Write one of these as based_on: {', '.join(known or {})}.",
        )
    if not isinstance(smallest, int | float):
        raise UserError(f"{path} cannot be used.", f"min_vram_gib is {smallest!r}.", "Write a number.")
    preset = Preset(
        name=path.stem,
        title=str(about.get("title", path.stem)),
        hint=str(about.get("hint", "")),
        min_vram_gib=float(smallest),
        values=values,
        families=families,
        trained=trained,
        based_on=(known or {})[below] if below is not None else None,
    )
    if preset.based_on is None:
        cases = itertools.product(("", *NAMES), (CONTROLNET, *OTHER_KINDS))
    else:  # the rest of that preset may contradict these settings, which counts only for runs that would have both
        own_kinds = {preset.what, *(what for what, by_family in trained.items() if by_family)}
        cases = itertools.product(("", *families), sorted(own_kinds))
    for family, what in cases:
        merged: dict[str, Any] = {}
        for _, layer in preset.layers(family, what):
            merged |= flatten(migrated(layer, f"The preset {path.name}"))
        parse(unflatten(merged), f"The preset {path.name}")
    return preset


def all_presets(folder: Path = PRESETS_FOLDER) -> list[Preset]:
    """All presets, smallest card first."""
    files = [path for path in folder.glob("*.toml") if path.name not in (BASES_FILE, DATASETS_FILE)]
    return sorted((load_preset(path) for path in files), key=lambda p: (p.min_vram_gib, p.name))


def suggest(vram_gib: float | None, folder: Path = PRESETS_FOLDER) -> Preset:
    """The largest preset that fits a card with ``vram_gib`` GiB of memory (None: no card)."""
    # Cards report a little less than their name says (an "8 GB" card has 7.6 to 8.0 GiB).
    room = 0.0 if vram_gib is None else vram_gib * 1.08
    fitting = [p for p in all_presets(folder) if p.min_vram_gib <= room]
    return fitting[-1]


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"steps": 5}} -> {"train.steps": 5}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """{"train.steps": 5} -> {"train": {"steps": 5}}."""
    nested: dict[str, Any] = {}
    for dotted, value in flat.items():
        *parents, last = dotted.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return nested


def resolve(*layers: tuple[str, dict[str, Any]]) -> tuple[RunConfig, dict[str, str]]:
    """Merge partial settings over the defaults. Later layers win.

    Args:
        layers: (origin, nested values), for example ``("preset 8gb", {...}), ("you", {...})``.

    Returns:
        The config, and for each dotted name the origin of its value ("default" if no layer sets it).
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = dict.fromkeys(flatten(RunConfig().model_dump()), "default")
    for origin, values in layers:
        for dotted, value in flatten(migrated(values, origin)).items():
            merged[dotted] = value
            origins[dotted] = origin
    return parse(unflatten(merged)), origins
