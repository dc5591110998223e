"""Paths as people paste them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from engine.disk.typed_path import path_of, typed_path


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"', '"'),
        ("'", "'"),
        ("“", "”"),
        (" ", "  "),
        ("\u202a", ""),  # Windows' properties dialog puts it in front
        ("\ufeff", "\u200b"),
        ("\u00a0", "\n"),
        ("file://", ""),
        ("file://localhost", ""),
        ('"file://', '"'),
        ("\\\\?\\", ""),
        ("\t' ", " '\r\n"),
    ],
)
def test_what_surrounds_a_path_is_taken_off(tmp_path: Path, before: str, after: str) -> None:
    folder = tmp_path / "my images"
    folder.mkdir()
    assert typed_path(f"{before}{folder}{after}") == str(folder)


def test_a_folder_whose_name_ends_in_a_blank_is_found(tmp_path: Path) -> None:
    blank = tmp_path / "one "
    try:
        blank.mkdir()
    except OSError:
        pytest.skip("this system has no such names")
    if blank not in set(tmp_path.iterdir()):
        pytest.skip("this system drops blanks at the end")
    assert typed_path(str(blank)) == str(blank) == typed_path(f'"{blank}"')
    (tmp_path / "one").mkdir()
    assert typed_path(str(blank)) == str(tmp_path / "one"), "a pasted blank is likelier than one in a name"


def test_variables_and_home_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("PICTURES", str(tmp_path / "p"))
    assert typed_path("~/a") == str(tmp_path / "a") and typed_path('"~/a"') == str(tmp_path / "a")
    assert typed_path("$PICTURES/a") == typed_path("%PICTURES%/a") == f"{tmp_path}/p/a"
    assert typed_path("file:///a%20b/%C3%A9") == "/a b/é"


def test_a_quotation_mark_that_a_backslash_kept_is_no_part_of_a_windows_path() -> None:
    assert typed_path('D:\\my sets"') == "D:\\my sets" and typed_path('\\\\nas\\sets"') == "\\\\nas\\sets"


def test_what_exists_or_is_no_path_stays(tmp_path: Path) -> None:
    for name in ("'quoted'", "$HOME", "50%", "a~b"):
        (tmp_path / name).mkdir()
        assert typed_path(tmp_path / name) == str(tmp_path / name)
    for name in ("owner/name", "demo", "", "http://example.com/a", "C:\\Users\\x\\a"):
        assert typed_path(name) == name
    assert typed_path("\\\\?\\UNC\\server\\share") == "\\\\server\\share"
    with pytest.raises(ValueError):
        path_of(" '' ")


@pytest.mark.parametrize("form", ['"{}', "<{}>", 'r"{}"', "{}\\", "{},", "'{}',"])
def test_forms_that_only_mean_what_exists(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "my set"
    folder.mkdir()
    assert Path(typed_path(form.format(folder))) == folder
    missing = form.format(tmp_path / "none")
    assert "none" in typed_path(missing)


@pytest.mark.skipif(os.name == "nt", reason="backslashes part folders on Windows")
def test_a_path_as_a_terminal_writes_it(tmp_path: Path) -> None:
    folder = tmp_path / "it's (my) set"
    folder.mkdir()
    written = re.sub(r"([ '()])", r"\\\1", str(folder))
    assert typed_path(written) == str(folder)


@pytest.mark.parametrize("text", ["file://[::1", "~nosuchuser/x", "~" * 5000, "a\0b", '"', "file:", "\ud800x"])
def test_nothing_typed_is_an_error(text: str) -> None:
    typed_path(text)
