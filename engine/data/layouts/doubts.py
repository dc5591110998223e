"""What the user should look at when a folder was recognized: images that look like condition maps, or the reverse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.data.layouts.looks import evenly, is_drawn, looks_like_maps
from engine.data.layouts.model import FoundImage, Part, Reading
from engine.data.layouts.words import IGNORED, IMAGE, is_clear_map, same_name, validation_names, words
from engine.machine.units import counted, plural

SAMPLE = 24
FEW = 0.1  # of the images that are looked at


def ask_about_maps(images: Sequence[FoundImage], reading: Reading) -> None:
    """Add a doubt if images may be condition maps, or if images and maps seem to have changed places."""
    pairs = [(item.image, item.condition) for item in images if item.condition is not None]
    if pairs:
        drawn, photos = zip(*evenly(pairs), strict=True)
        if not reading.doubts and not reading.asked and looks_like_maps(drawn, photos):
            reading.doubts.append(
                f"The images, such as {drawn[0].name}, look like condition maps, and the maps do not: check the pairs."
            )
        return
    if reading.asked:
        return
    if unread := _unread_maps(images, reading):
        reading.doubts.append(unread)
    paths = [item.image for item in images]
    folders = {folder: _is_below_maps(folder, reading.root) for folder in {path.parent for path in paths}}
    called = [path for path in paths if folders[path.parent] or _is_called_a_map(path.stem)]
    if 0 < len(called) < len(paths):
        reading.doubts.append(
            f"{len(called):,} of {counted(len(paths), 'image')} have names that are usual for condition maps, "
            f"such as {called[0].name}. They were read as images because no other images have matching names."
        )
        return
    if called and reading.inventory.archives:
        archive = reading.inventory.archives[0].relative_to(reading.root).as_posix()
        reading.doubts.append(
            f"All images, such as {called[0].relative_to(reading.root).as_posix()}, have names of condition maps, and "
            f"{archive} was not unpacked: if it contains the images, unpack it next to them."
        )
        return
    looks = [(path, look) for path in evenly(paths, SAMPLE) if (look := is_drawn(path)) is not None]
    maps = [path for path, look in looks if look]
    if FEW * len(looks) < len(maps) < len(looks):
        reading.doubts.append(
            f"{len(maps):,} of {counted(len(looks), 'image')} that were checked "
            f"{plural(len(maps), 'is grey or has', 'are grey or have')} few colours, like condition maps, such "
            f"as {maps[0].relative_to(reading.root)}. All were read as images."
        )


def _unread_maps(images: Sequence[FoundImage], reading: Reading) -> str:
    """A sentence on files with the images' names, in formats that are not read, which may be their maps. Or ""."""
    names = {same_name(item.image.stem) for item in images}
    for kind, files in reading.inventory.unread.items():
        partners = [path for path in files if same_name(path.stem) in names]
        if partners and kind != "video" and len(partners) >= 0.5 * len(images):
            where = partners[0].relative_to(reading.root).as_posix()
            return (
                f"{len(partners):,} {kind} files have the same names as images, such as {where}. This app cannot "
                "read them: if they are the condition maps, save them as PNG images."
            )
    return ""


def _is_below_maps(folder: Path, root: Path) -> bool:
    return any(map(is_clear_map, folder.relative_to(root).parts))


def _is_called_a_map(stem: str) -> bool:
    ends = words(stem) if is_clear_map(stem) else []
    return any(map(is_clear_map, (*ends[:1], *ends[-1:])))


def without_validation(images: list[FoundImage], reading: Reading) -> list[FoundImage]:
    """The images without those in folders such as "val" beside one such as "train", unless the user said so."""
    beside: dict[Path, set[str]] = {}
    holders = {item.image.parent for item in images}
    for folder in {above for holder in holders for above in (holder, *holder.parents) if above != reading.root}:
        beside.setdefault(folder.parent, set()).add(folder.name)
    kept = {place / name for place, names in beside.items() for name in validation_names(names)}
    if not kept:
        return images
    found: list[FoundImage] = []
    left: dict[str, list[FoundImage]] = {}
    for item in images:
        inside = next((parent for parent in item.image.parents if parent in kept), None)
        if inside is None or reading.role(inside.name, IGNORED) == IMAGE:
            found.append(item)
        if inside is not None:
            left.setdefault(inside.name, []).append(item)
    for name, items in left.items():
        role = reading.role(name, IGNORED)
        files = [path for item in items for path in (item.image, item.condition) if path is not None]
        reading.parts.pop(name, None)
        reading.add(Part(name, "split", role, len(items), tuple(str(item.image) for item in items[:3])))
        if role != IMAGE:
            reading.leave_out(f"in {name}, which is kept for validation", files)
        if name not in reading.asked:
            reading.doubts.append(f"{name} was left out: it is kept for validation.")
    return found
