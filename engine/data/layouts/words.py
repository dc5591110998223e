"""Roles that names suggest: of folders, of columns of a list, of endings such as -condlabel, of splits."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import PurePath

from engine.disk.image_formats import EXTENSIONS

IMAGE, MAP, CAPTION, WEIGHT, IGNORED = "image", "map", "caption", "weight", "ignored"
ROLES = (IMAGE, MAP, CAPTION, WEIGHT, IGNORED)
"""What a folder, a column or an ending can be; only a column can be the images' loss weights."""

IMAGE_COLUMNS = (
    "file_name", "image_file_name", "edited_image", "output_image", "ground_truth_image", "image_path", "image_file",
    "image", "img_path", "img", "images", "filename", "target", "target_image", "target_path", "ground_truth", "gt",
    "output", "path", "file", "filepath", "file_path", "jpg", "png", "webp", "picture", "pixel_values",
)  # fmt: skip
MAP_COLUMNS = (
    "conditioning_image_file_name", "conditioning_image", "conditioning_image_path", "control_image_file_name",
    "control_file_name", "control_image", "control_path", "condition_image", "condition", "conditioning", "control",
    "source", "source_image", "hint", "conditioning_images", "original_image", "input_image", "input",
    "semantic_segmentation",
)  # fmt: skip
CAPTION_COLUMNS = (
    "text", "caption", "prompt", "captions", "texts", "prompts", "top_caption", "description", "alt_text", "alttext",
    "long_caption", "short_caption", "blip_caption", "caption_llava", "positive", "tags", "tag_string",
    "conversations", "messages",
)  # fmt: skip
"""Usual names of the columns of lists and tables, in lower case, the most likely first. An edited image comes before
"image", which is what it was made of. Masks are not listed: one is a map only where there is no other (``is_mask``)."""

WEIGHT_COLUMNS = ("loss_weight",)
"""Names of columns with a loss weight for each image. "weight" alone may be that of what the image shows."""

LABEL_COLUMNS = ("label", "labels", "annotation", "annotations", "label_map", "labelmap")
"""Columns that are maps where they hold images, as those of segmentation do. Elsewhere they hold numbers or words."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MASKS = _words("mask masks masklabel matte mattes")
_CLEAR_MAPS = _words(
    "condition conditions conditional conditioning cond conds condlabel control controls controlnet ctrl hint hints "
    "edge edges contour contours outline outlines canny depth depths zoe midas disparity hed pidi softedge softedges "
    "lineart mlsd "
    "scribble scribbles sketch sketches seg segs segmentation segmentations segmap semantic semantics normalbae "
    "normalmap pose poses openpose dwpose densepose skeleton skeletons landmark landmarks"
)
_POSSIBLE_MAPS = _words(
    "guide guides line lines normal normals map maps source sources src input inputs original originals orig before "
    "layout layouts"
)
_IMAGES = _words(
    "image images img imgs target targets tgt gt groundtruth truth photo photos picture pictures pic pics rgb output "
    "outputs edited after jpg jpeg png webp file files frame frames"
)
_CAPTIONS = _words(
    "caption captions text texts txt prompt prompts description descriptions tag tags instruction instructions "
    "annotation annotations"
)
_VALIDATION = frozenset({"val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing"})
_TRAINING = frozenset({"train", "training", "trainset"})


def words(name: str) -> list[str]:
    """The words of a name, in lower case: "conditioning_images", "ControlImage" and "x-depth2" have two each."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_]+", name)]


def role_of(name: str) -> str:
    """IMAGE, MAP or CAPTION if the name says so, else "". "conditioning_images" is a map, "image_caption" a caption."""
    found = words(name)
    parts = {*found, *("".join(two) for two in zip(found, found[1:], strict=False))}
    if parts & _CAPTIONS:
        return CAPTION
    if parts & (_CLEAR_MAPS | _POSSIBLE_MAPS | _MASKS):
        return MAP
    return IMAGE if parts & _IMAGES else ""


def is_clear_map(name: str) -> bool:
    """Whether the name hardly means anything else than a condition map. "source" and "normal" may."""
    found = words(name)
    return bool({*found, *("".join(two) for two in zip(found, found[1:], strict=False))} & (_CLEAR_MAPS | _MASKS))


def is_mask(name: str) -> bool:
    """Whether the name is that of a mask, which is a map only where there is no other one."""
    return bool(_MASKS & set(words(name)))


def validation_names(names: Iterable[str]) -> set[str]:
    """Those names that are kept for validation or tests, if another one is the same but for "train"."""
    parted = {name: _without_split(name) for name in names}
    training = {rest for split, rest in parted.values() if split == "train"}
    return {name for name, (split, rest) in parted.items() if split == "validation" and rest in training}


def role_in(kept: set[str], name: str) -> str:
    """The likely role of a part: ignored if it is kept for validation."""
    return IGNORED if name in kept else IMAGE


def _without_split(name: str) -> tuple[str, tuple[str, ...]]:
    """("train" or "validation" or "", the name's other words). "testA" and "train_A" have the same other words."""
    found = words(name)
    splits = ["train" if word in _TRAINING else "validation" for word in found if word in _TRAINING | _VALIDATION]
    return (splits[0] if len(splits) == 1 else ""), tuple(w for w in found if w not in _TRAINING | _VALIDATION)


def is_validation(name: str) -> bool:
    """Whether the name is that of a part which is kept for validation or tests."""
    return name.lower() in _VALIDATION


def is_split(name: str) -> bool:
    """Whether the name is that of a part for training, validation or tests."""
    return name.lower() in _TRAINING | _VALIDATION


def same_name(path: PurePath | str) -> str:
    """A path without its ending, in the form in which equal looking names are equal (Unicode's NFC, no case)."""
    text = path if isinstance(path, str) else path.with_suffix("").as_posix()
    return unicodedata.normalize("NFC", text).casefold()


def caption_endings(stem: str) -> list[str]:
    """Names of images that a text's name belongs to: "a" for "a_caption" and "a-prompt"."""
    match = re.fullmatch(r"(.+?)[-_. ]+([^\W\d_]+)", stem)
    return [match[1]] if match and match[2].lower() in _CAPTIONS else []


_SOME_MAP = re.compile("|".join(sorted(_CLEAR_MAPS | _POSSIBLE_MAPS | _MASKS)), re.IGNORECASE)
_SOME_IMAGE = re.compile("|".join(sorted(_IMAGES)), re.IGNORECASE)
"""Parts of names without which these need not be taken apart, which takes longer."""


def map_bases(stem: str) -> Iterator[tuple[str, str]]:
    """Ways to part the name of a map into an image's name and the rest, the shortest rest first.

    ("a", "-condlabel"), ("1", "canny_"), ("", "depth") for a name that is nothing else, ("1", ".jpg") for 1.jpg.png.
    """
    if "." in stem and (inner := PurePath(stem)).suffix.lower() in EXTENSIONS and inner.stem:
        yield inner.stem, inner.suffix
    if not _SOME_MAP.search(stem):
        return
    cuts = list(re.finditer(r"[-_. ]+", stem))
    for cut in reversed(cuts):
        if cut.start() and _is_mark(stem[cut.start() :]):
            yield stem[: cut.start()], stem[cut.start() :]
    for cut in cuts:
        if cut.start() and cut.end() < len(stem) and _is_mark(stem[: cut.start()]):
            yield stem[cut.end() :], stem[: cut.end()]
    if _is_mark(stem) and not any(letter.isdigit() for letter in stem):
        yield "", stem


def image_bases(stem: str) -> Iterator[str]:
    """Yield an image's name, then the name without words such as "rgb" at its end or start."""
    yield stem
    if not _SOME_IMAGE.search(stem):
        return
    cuts = list(re.finditer(r"[-_. ]+", stem))
    if cuts and cuts[-1].start() and _are_images(stem[cuts[-1].start() :]):
        yield stem[: cuts[-1].start()]
    if cuts and cuts[0].start() and cuts[0].end() < len(stem) and _are_images(stem[: cuts[0].start()]):
        yield stem[cuts[0].end() :]
    if _are_images(stem) and not any(letter.isdigit() for letter in stem):
        yield ""


def _are_images(text: str) -> bool:
    found = words(text)
    return bool(found) and all(word in _IMAGES for word in found)


def _is_mark(text: str) -> bool:
    """Whether a part of a file's name calls it a map: known words only, or up to three with a clear one."""
    found = words(text)
    if all(word in _CLEAR_MAPS | _POSSIBLE_MAPS | _MASKS | _IMAGES for word in found):
        digits = any(letter.isdigit() for letter in text)
        return role_of(text) == MAP and (not digits or is_clear_map(text))
    return len(found) <= 3 and (found[0] in _CLEAR_MAPS | _MASKS or found[-1] in _CLEAR_MAPS | _MASKS)
