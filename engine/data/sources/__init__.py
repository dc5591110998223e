"""Sources of images: one module for each kind, and the list of all in the order in which they are tried.

To add one: a module with an ``ImageSource`` (see ``tars.py``), a line in the list, and a test. A folder of images is
not a source: it is read in place, see ``engine.data.layouts``.
"""

from __future__ import annotations

from engine.data.sources.hub import HUB, SAVED
from engine.data.sources.model import FetchResult, ImageSource
from engine.data.sources.parquet import PARQUET
from engine.data.sources.tars import TARS
from engine.data.sources.urls import URLS
from engine.data.sources.zips import ZIPS

__all__ = ["ORDER", "FetchResult", "ImageSource", "source_of"]

ORDER: tuple[ImageSource, ...] = (SAVED, TARS, URLS, PARQUET, ZIPS, HUB)


def source_of(place: str) -> ImageSource | None:
    """The kind of source, or None for a folder that is read in place, or that does not exist."""
    return next((source for source in ORDER if source.fits(place)), None)
