"""Images and maps in one folder, told apart by their names: a.jpg and a-condlabel.png (OneTrainer), canny_a.png."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.data.layouts.looks import looks_like_maps
from engine.data.layouts.model import FolderLayout, FoundImage, Part, Reading, image_without_map, key
from engine.data.layouts.unknown_endings import by_contents
from engine.data.layouts.words import (
    IGNORED,
    IMAGE,
    MAP,
    image_bases,
    is_clear_map,
    is_mask,
    map_bases,
    same_name,
)
from engine.machine.units import counted

PLAIN_NAME = "(no ending)"
"""The name of the part with the images whose names do not have such an ending."""


def find(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """The images with their maps; None unless most images have one beside them."""
    return _find(folder, reading, few=False)


def find_few(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """The images where only some have a map beside them: without those maps, unless the user says otherwise."""
    return _find(folder, reading, few=True)


def _find(folder: Path, reading: Reading, few: bool) -> list[FoundImage] | None:
    paths = reading.inventory.images_below(folder)
    by_ending = _by_ending(paths) or _by_type(paths) or by_contents(paths)
    partners = {map for pairs in by_ending.values() for map in pairs.values()}
    images = [path for path in paths if path not in partners]
    if not by_ending:
        return None
    if few != (len({image for pairs in by_ending.values() for image in pairs}) < 0.5 * len(images)):
        return None
    counts = Counter({ending: len(pairs) for ending, pairs in by_ending.items()})
    ranked = sorted(counts, key=lambda ending: (is_mask(ending), not is_clear_map(ending), -counts[ending], ending))
    asked = any(ending in reading.asked for ending in ranked)
    if few and not asked and not any(map(is_clear_map, ranked)):
        return None
    roles = {ending: reading.role(ending, MAP if ending == ranked[0] and not few else IGNORED) for ending in ranked}
    chosen = next((ending for ending in ranked if roles[ending] == MAP), None)
    if not asked:
        _ask(ranked, few, len(partners), reading)
    reading.add(Part(PLAIN_NAME, "ending", IMAGE, len(images), tuple(map(str, images[:3]))))
    for ending in ranked:
        examples = tuple(str(path) for path in list(by_ending[ending].values())[:3])
        reading.add(Part(ending, "ending", roles[ending], counts[ending], examples))
        if ending != chosen and roles[ending] != IMAGE:
            why = f"with {ending} in their names, which were not chosen as the maps"
            reading.leave_out(why, list(by_ending[ending].values()))
        elif ending != chosen:
            images += by_ending[ending].values()
    if chosen is None:
        return [FoundImage(key(path, reading.root), path) for path in sorted(images)]
    return _paired(images, by_ending[chosen], chosen, reading)


def _by_ending(paths: Sequence[Path]) -> dict[str, dict[Path, Path]]:
    """Ending (or beginning) -> image -> its map in the same folder."""
    bases: dict[tuple[Path, str], Path] = {}
    for path in paths:
        for base in image_bases(path.stem):
            bases.setdefault((path.parent, same_name(base)), path)
    found: dict[str, dict[Path, Path]] = {}
    for path in paths:
        for base, ending in map_bases(path.stem):
            image = bases.get((path.parent, same_name(base)))
            if image is not None and image != path:
                found.setdefault(ending.lower(), {})[image] = path
                break
    return found


def _by_type(paths: Sequence[Path]) -> dict[str, dict[Path, Path]]:
    """Pair a.jpg with a.png, if the files of one type look like maps and those of the other do not."""
    types: dict[str, dict[Path, Path]] = {}
    for path in paths:
        types.setdefault(path.suffix.lower(), {})[path.with_suffix("")] = path
    if len(types) != 2:
        return {}
    (one, first), (other, second) = types.items()
    both = first.keys() & second.keys()
    for ending, images, maps in ((other, first, second), (one, second, first)):
        if both and looks_like_maps([maps[name] for name in sorted(both)], [images[name] for name in sorted(both)]):
            return {ending: {images[name]: maps[name] for name in both}}
    return {}


def _ask(ranked: Sequence[str], few: bool, count: int, reading: Reading) -> None:
    if few:
        reading.doubts.append(
            f"{counted(count, 'image is named as a map of another', 'images are named as maps of others')} by "
            f"{', '.join(ranked)}, but most images have no such map: these files were left out, and the others "
            "are read without maps."
        )
    elif len(ranked) > 1:
        reading.doubts.append(
            f"Several endings may mark the condition maps: {', '.join(ranked)}. {ranked[0]} was used."
        )
    elif "masklabel" in ranked[0].lower():
        reading.doubts.append(
            f"The images with {ranked[0]} in their names were used as the condition maps. OneTrainer uses this "
            "name for masks, for training on a part of each image: if they are such masks, set their role to "
            "ignored."
        )
    elif not is_clear_map(ranked[0]):
        reading.doubts.append(f"The images with {ranked[0]} in their names were used as the condition maps.")


def _paired(images: Sequence[Path], maps: Mapping[Path, Path], ending: str, reading: Reading) -> list[FoundImage]:
    """Images with their maps. An image without one becomes a problem."""
    found = []
    for path in images:
        if path in maps:
            found.append(FoundImage(key(path, reading.root), path, condition=maps[path]))
        else:
            reading.problems.append(
                image_without_map(
                    path,
                    f"There is no {path.stem}{ending} next to it.",
                    "Add the map under this name, or read a folder without maps and make all of them in this app.",
                )
            )
    return found


ENDINGS = FolderLayout("endings", "images and condition maps in one folder, distinguished by their names", find)
