"""Where bases that were merged with LoRA and embedding files are kept.

    cache/bases/NAME-KEY/       a base in diffusers layout; KEY is a hash of all that it was made of
    cache/bases/NAME-KEY/recipe.json

A merged base can be made again from its base and files. Without them it is used as long as it is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.workspace.base_reference import Ingredient, key_of, sha256_of

RECIPE = "recipe.json"
FOLDERS = ("loras", "Lora", "lora", "embeddings", "")
"""Folders of the workspace's models folder in which ingredients are looked for by name."""
ENDINGS = ("", ".safetensors", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class Recipe:
    """What a merged base is made of."""

    base: str
    """Where the base is."""
    ingredients: tuple[tuple[Path, float], ...]
    """Files and weights, in the order in which they are merged."""
    folder: Path
    """Where the merged base is, once it has been made."""

    @property
    def made(self) -> bool:
        return (self.folder / RECIPE).is_file()

    @property
    def used(self) -> list[dict[str, Any]]:
        """File, weight and sha256 of each ingredient, also if the files are gone since the base was merged."""
        return list(read_recipe(self.folder).get("ingredients") or self.described()["ingredients"])

    def described(self) -> dict[str, Any]:
        """Contents of ``RECIPE``."""
        used = [{"file": str(path), "weight": weight, "sha256": sha256_of(path)} for path, weight in self.ingredients]
        return {"base": self.base, "ingredients": used}


def recipe(cache: Path, models: Path, base: str, ingredients: Sequence[Ingredient]) -> Recipe:
    """The recipe of a base with ingredients.

    Args:
        cache: the folder of merged bases.
        models: the workspace's models folder.
        base: where the base is.

    Raises:
        UserError: a file is not there, and no merged base was made with it before.
    """
    found = [(_find(models, one), one) for one in ingredients]
    missing = [one.file for path, one in found if path is None]
    if missing:
        if (kept := _kept(cache, base, ingredients)) is not None:
            return kept
        raise UserError(
            f"The file {missing[0]} was not found.",
            "It is to be merged into the base, but it is neither the path of a file nor the name of one in "
            f"{models / 'loras'} or {models / 'embeddings'}.",
            "Put it there, enter its full path, or remove it from the list of LoRA and embedding files.",
        )
    used = tuple((path, one.weight) for path, one in found if path is not None)
    key = key_of(base, [(sha256_of(path), weight) for path, weight in used])
    name = "+".join([Path(base).stem if Path(base).is_file() else Path(base).name, *(path.stem for path, _ in used)])
    safe = "".join(letter if letter.isalnum() or letter in "._+-" else "-" for letter in name)[:80]
    return Recipe(base, used, cache / f"{safe}-{key}")


def _find(models: Path, ingredient: Ingredient) -> Path | None:
    """The file of an ingredient; None if there is none."""
    given = Path(ingredient.file).expanduser()
    places = [given] if given.is_absolute() else [given, *(models / folder / given for folder in FOLDERS)]
    for place in places:
        for ending in ENDINGS:
            path = place.with_name(place.name + ending) if place.name else place
            if path.is_file():
                return path.resolve()
    return None


def _kept(cache: Path, base: str, ingredients: Sequence[Ingredient]) -> Recipe | None:
    """The merged base that was made of files with these names and weights; None if there is none, or more than one."""
    wanted = [(Path(one.file).stem.lower(), one.weight) for one in ingredients]
    found = []
    for path in cache.glob(f"*/{RECIPE}"):
        try:
            made = json.loads(path.read_text(encoding="utf-8"))
            used = [(Path(one["file"]), float(one["weight"])) for one in made["ingredients"]]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # damaged: it is made again where its files are there
        if made["base"] == base and [(file.stem.lower(), weight) for file, weight in used] == wanted:
            found.append(Recipe(base, tuple(used), path.parent))
    return found[0] if len(found) == 1 else None


def read_recipe(folder: Path) -> dict[str, Any]:
    """What a base was merged from; empty if it is no merged base."""
    try:
        return dict(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
