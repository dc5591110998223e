"""Bytes and durations as text."""

from __future__ import annotations

import pytest

from engine.machine.units import GIB, MIB, format_bytes, format_duration


@pytest.mark.parametrize(
    ("count", "text"),
    [(10, "10 B"), (2048, "2 KB"), (5.5 * MIB, "5.5 MB"), (2 * GIB, "2.0 GB"), (3072 * GIB, "3.0 TB")],
)
def test_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (59, "59 s"),
        (75, "75 s"),
        (150, "2 min"),
        (200, "3 min"),
        (10_000, "2 h 47 min"),
        (12_000, "3 h 20 min"),
        (7_200, "2 h"),
        (40_000, "11 h"),
        (200_000, "2.3 days"),
        (400_000, "4.6 days"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
