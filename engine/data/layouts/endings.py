"""Images and maps in one folder, told apart by the end of their names: a.jpg and a-condlabel.png (OneTrainer)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from engine.data.layouts.model import FolderLayout, FoundImage, Part, Reading, image_without_map, key
from engine.data.layouts.words import IGNORED, IMAGE, MAP, is_clear_map, is_mask, map_endings, same_name

PLAIN_NAME = "(no ending)"
"""The name of the part with the images whose names have no such ending."""


def find(folder: Path, reading: Reading) -> list[FoundImage] | None:
    """The images with their maps; None unless most names with such an ending belong to an image beside them."""
    paths = reading.inventory.images_below(folder)
    bases = {same_name(path.relative_to(folder)): path for path in paths}
    by_ending: dict[str, dict[Path, Path]] = {}  # ending -> image -> map
    for path in paths:
        for base, ending in map_endings(path.stem):
            image = bases.get(same_name((path.relative_to(folder).parent / base).as_posix()))
            if image is not None and image != path:
                by_ending.setdefault(ending.lower(), {})[image] = path
                break
    partners = {map for pairs in by_ending.values() for map in pairs.values()}
    images = [path for path in paths if path not in partners]
    if not by_ending or len({image for pairs in by_ending.values() for image in pairs}) < 0.5 * len(images):
        return None
    counts = Counter({ending: len(pairs) for ending, pairs in by_ending.items()})
    ranked = sorted(counts, key=lambda ending: (is_mask(ending), not is_clear_map(ending), -counts[ending], ending))
    roles = {ending: reading.role(ending, MAP if ending == ranked[0] else IGNORED) for ending in ranked}
    chosen = next((ending for ending in ranked if roles[ending] == MAP), None)
    if len(ranked) > 1 and not any(ending in reading.asked for ending in ranked):
        reading.doubts.append(
            f"Several endings may mark the condition maps: {', '.join(ranked)}. {ranked[0]} was taken."
        )
    reading.add(Part(PLAIN_NAME, "ending", IMAGE, len(images), tuple(map(str, images[:3]))))
    for ending in ranked:
        examples = tuple(str(path) for path in list(by_ending[ending].values())[:3])
        reading.add(Part(ending, "ending", roles[ending], counts[ending], examples))
        if ending != chosen and roles[ending] != IMAGE:
            reading.leave_out(
                f"ending in {ending}, which were not chosen as the maps", list(by_ending[ending].values())
            )
        elif ending != chosen:
            images += by_ending[ending].values()
    if chosen is None:
        return [FoundImage(key(path, reading.root), path) for path in sorted(images)]
    maps, found = by_ending[chosen], []
    for path in images:
        if path in maps:
            found.append(FoundImage(key(path, reading.root), path, condition=maps[path]))
        else:
            reading.problems.append(
                image_without_map(
                    path,
                    f"There is no {path.stem}{chosen} beside it.",
                    "Add the map under this name, or read a folder without maps and make all of them here.",
                )
            )
    return found


ENDINGS = FolderLayout("endings", "images and condition maps side by side, told apart by their names", find)
