"""Where images can come from: one module a kind of source, and the one list that says in which order they are tried.

To add one: a module with a ``Source`` (see ``tars.py``), a line in the list, and a test. A folder of images is none
of these: it is read where it lies, see ``engine.data.layouts``.
"""

from __future__ import annotations

from engine.data.sources.hub import HUB, SAVED
from engine.data.sources.model import Fetched, Source
from engine.data.sources.parquet import PARQUET
from engine.data.sources.tars import TARS
from engine.data.sources.urls import URLS

__all__ = ["ORDER", "Fetched", "Source", "source_of"]

ORDER: tuple[Source, ...] = (SAVED, TARS, URLS, PARQUET, HUB)


def source_of(place: str) -> Source | None:
    """The kind of source, or None for a folder that is read where it lies (or is not there)."""
    return next((source for source in ORDER if source.fits(place)), None)
