"""Mistakes in files that people write are told in plain words, with the line; no reader's own text is shown."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import pytest
import yaml

from engine.config.presets import read_toml
from engine.data.dataset import Dataset
from engine.data.importing import import_source
from engine.data.scan import scan_folder
from engine.disk.syntax import fault, parquet_fault
from engine.errors import UserError
from engine.workspace.paths import Workspace
from tests.data.test_found_in_the_wild import photo

TOOLS = ("Expecting", "delimiter", "char ", "column", "JSONDecode", "Error", "statement", "parsing", "(char", "codec",
         "Unterminated", "Parquet", "Traceback", "mapping", "token", "key/value")  # fmt: skip
"""Words of the readers that nobody who paints maps has to know."""
JSON = (
    ('{"a": 1\n"b": 2}', "in line 2 a comma is missing between two entries"),
    ('{"a" 1}', "in line 1 a colon is missing"),
    ('{"a": 1,\n\n}', "in line 3 a name in double quotes is expected here (at })"),
    ("{a: 1}", "in line 1 a name in double quotes"),
    ('[{"a": ca}]', "in line 1 a value is expected here; text needs double quotes (at ca}])"),
    ('{"a": [1,\n 2', "in line 2 it ends too early"),
    ('{"a": "C:\\x"}', "in line 1 a \\ has to be written twice"),
    ('{"a": "b\nc"}', "in line 1 a text contains a line break"),
    ('{"a": "b}', "in line 1 the quotation mark at the end of a text is missing"),
    ("{} {}", "in line 1 there is more text after the end of the first value"),
    ("", "it ends too early"),
    ("[" * 100_000, "nested too deeply"),
)
TOML = (
    ('a = "C:\\Users\\x"', "in line 1 a \\ has a special meaning in double quotes"),
    ("a = 0,5", "in line 1 there is more text after the end of the value"),
    ("x = 1\na = b", "in line 2 a value is expected here"),
    ("[a\nb = 1", "in line 1 a ] is missing"),
    ("a = 1\na = 2", "this name already has a value (at the end)"),
    ("[a]\n[a]", "in line 2 this section appears twice"),
    ("a = [1, 2", "a comma or a ] is missing in a list (at the end)"),
    ("hello there", "in line 1 an = is missing"),
    ('a = "x\ny"', "in line 1 a text is not closed"),
    ("= 3", "in line 1 this is neither a name = value nor a [section]"),
)
YAML = (
    ("a: b: c", "in line 1 there is one colon too many"),
    ("a:\n\tb: 1", "in line 2 it is indented with a tab"),
    ('a: "C:\\models"', "in line 1 a \\ has a special meaning"),
    ("a: 1\n  b: 2", "in line 2 there is one colon too many, or the line is indented differently"),
    ("a: *x", "in line 1 a text begins with *"),
    ("a: !!python/object:os.system x", "in line 1 it asks for a program's object"),
    ("a: 'b", "the quotation mark at the end of a text is missing"),
    ("- a\nb: 1", "in line 2 the line is indented differently"),
    ("a: \x01", "it contains characters that are not text"),
)


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read, *case)
        for read, cases in ((json.loads, JSON), (tomllib.loads, TOML), (yaml.safe_load, YAML))
        for case in cases
    ],
)
def test_a_mistake_is_told_with_its_line(read: object, text: str, words: str) -> None:
    with pytest.raises((ValueError, yaml.YAMLError, RecursionError)) as caught:
        read(text)  # type: ignore[operator]
    said = fault(caught.value, text)
    assert words in said and not any(word in said for word in TOOLS), said


def test_csv_and_encodings_are_told_in_words() -> None:
    with pytest.raises(csv.Error) as caught:
        list(csv.reader(['"' + "a" * 200_000]))
    assert fault(caught.value) == "a cell has a quotation mark at its beginning but not at its end"
    with pytest.raises(UnicodeDecodeError) as wrong:
        b"a\nb\xff".decode("utf-8")
    assert fault(wrong.value) == "line 2 contains bytes that are not UTF-8 text"


LINES = '{"file_name": "images/1.png", "text": "a"}\n{"file_name" "images/2.png"}\n{"text": "b"}\n7\n'


def test_where_people_meet_them(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("1", "2", "3"):
        photo(tmp_path / "set" / "images" / f"{name}.png")
    for name, content, words in (
        ("metadata.jsonl", LINES, (
            "Line 2 of metadata.jsonl cannot be used.", "It cannot be read: a colon is missing after a name",
            "Its file_name is empty or missing", "It is not an object with names and values")),
        ("metadata.json", '[{"file_name": "images/1.png", "text": "a"\n, {', ("in line 2 it ends too early",)),
        ("condition.json", '{"type": canny}', ("a type and its parameters; in line 1 a value is expected here",)),
        ("condition.json", '{"type": "nonsense"}', ("nonsense",)),
    ):  # fmt: skip
        path = tmp_path / "set" / name
        path.write_text(content, encoding="utf-8")
        if name == "condition.json":
            photo(tmp_path / "set" / "conditioning_images" / "1.png")
        report = scan_folder(tmp_path / "set")
        told = " ".join(f"{one.what} {one.why}" for one in report.problems)
        assert all(one in told for one in words), (words, told, report.notes)
        assert not any(word in told for word in ("Expecting", "Error", "(char", "delimiter"))
        if name == "condition.json":
            made = import_source(Workspace(tmp_path / "w"), str(tmp_path / "set"), "note")
            kept = Dataset.open(Path(made.folder)).problems()
            assert [one.path for one in kept].count(path) == 1 and "condition.json" in str(made.file_usage)
        path.unlink()
    lines = ",\n".join(f'{{"image": "images/{n}.png", "caption": "a"}}' for n in "123")
    (tmp_path / "set" / "pairs.json").write_text(f"[ // mine\n{lines},\n]", encoding="utf-8")
    report = scan_folder(tmp_path / "set")  # one object a line, and yet an array
    assert report.samples[0].caption == "a" and not any(one.path.name == "pairs.json" for one in report.problems)
    with pytest.raises(UserError, match="in line 1 there is more text after the end of the value") as caught:
        preset = tmp_path / "mine.toml"
        preset.write_text("learning_rate = 0,00001", encoding="utf-8")
        read_toml(preset)
    assert "decimals with a point" in caught.value.try_this
    for content, words in ((b"", "empty"), (b"PAR1" + bytes(50), "end is missing"), (b"<html>", "does not begin like"),
                           (b"PAR1" + bytes(50) + b"PAR1", "damaged inside")):  # fmt: skip
        table = tmp_path / "data.parquet"
        table.write_bytes(content)
        assert words in parquet_fault(table)
        with pytest.raises(UserError) as caught:
            import_source(Workspace(tmp_path / "w"), str(table), "x")
        assert words in caught.value.why, caught.value
    config = tmp_path / "dataset.yaml"
    config.write_text("folder_path: a: b", encoding="utf-8")
    with pytest.raises(UserError, match="Its YAML is broken: in line 1 there is one colon too many"):
        import_source(Workspace(tmp_path / "w"), str(config), "x")
