"""Cuts images that hold an image and its map side by side into two files each, in the dataset's own folder."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from engine.data.file_usage import FileUsageRecorder
from engine.data.import_config import ImportConfig
from engine.data.layouts.halves import LEFT, RIGHT, cut
from engine.data.layouts.model import FoundImage
from engine.data.layouts.words import IMAGE, MAP
from engine.data.read_images import caption_of_found
from engine.data.recognized import RecognizedFolder
from engine.data.samples import Problem
from engine.data.sources.image_store import ImageStore, Refused, name_for
from engine.data.sources.model import FetchResult, ImageSource
from engine.disk.image_formats import upright
from engine.disk.images import opened, to_rgb
from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress

_SAID = {IMAGE: "the image", MAP: "its condition map"}
_PLAIN = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG keeps


def halves_of(recognized: RecognizedFolder) -> ImageSource:
    """The source that cuts the images of a folder."""

    def fetch(place: str, folder: Path, config: ImportConfig, progress: OnProgress, token: CancelToken) -> FetchResult:
        return cut_all(recognized, folder, progress, token)

    return ImageSource("halves", "images with their condition maps side by side, cut in two", lambda place: True, fetch)


def cut_all(recognized: RecognizedFolder, folder: Path, progress: OnProgress, token: CancelToken) -> FetchResult:
    """Fill a folder with the halves. Continues where an earlier attempt stopped; a changed file is cut again.

    Raises:
        OSError: the folder cannot be written. Cancelled: the token was cancelled.
    """
    result = FetchResult()
    usage = FileUsageRecorder(recognized.reading, recognized.found)
    with ImageStore(folder) as store:
        for number, item in enumerate(recognized.found, 1):
            token.raise_if_cancelled()
            try:
                state = item.image.stat()
                name = name_for(f"{item.key} {state.st_size} {state.st_mtime_ns} {' '.join(item.halves)}")
                usage.used.add(item.image)
                if store.has(name):
                    result.present += 1
                else:
                    _store(item, name, store)
                    result.new += 1
            except (UserError, Refused, FileNotFoundError) as error:
                usage.used.discard(item.image)
                usage.record(Problem(item.image, str(error), "", ""))
                why = error.why.rstrip(".") if isinstance(error, UserError) else str(error)
                result.skip(f"{why} ({item.key})")
            progress(number, len(recognized.found), item.key)
    for problem in recognized.problems:
        usage.record(problem)
    said = " and ".join(
        f"the {name} is {_SAID.get(role, 'left out')}"
        for name, role in zip((LEFT, RIGHT), recognized.found[0].halves, strict=True)
    )
    result.notes = [f"Each file was cut in two: {said}.", *usage.summary(recognized.note_file()).sentences()]
    return result


def _store(item: FoundImage, name: str, store: ImageStore) -> None:
    """Write the halves of one image, and its line in the list. Raises UserError or Refused if it cannot be used."""
    with opened(item.image) as image:
        if image.width != 2 * image.height:
            raise Refused("not twice as wide as high")
        whole = upright(image)
        whole = whole if whole.mode in _PLAIN else to_rgb(whole)
        halves = dict(zip(item.halves, map(_png, cut(whole)), strict=True))
    file = store.put_image(name, halves[IMAGE])
    condition = store.put_image(name, halves[MAP], ".map") if MAP in halves else ""
    store.add_row(name, file, caption_of_found(item), condition=condition)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
