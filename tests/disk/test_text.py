"""Text files in the encodings that editors and tools of all systems write."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.disk.text import decode, read_text


@pytest.mark.parametrize(
    ("text", "encoding", "sure"),
    [
        ("a cat", "utf-8", True),
        ("ein Bär, zażółć, кот, 猫", "utf-8", True),
        ("αβγ and я and é", "utf-8", True),
        ("猫", "utf-8-sig", True),
        ("un café", "utf-16", True),
        ("猫", "utf-32", True),
        ("a cat on a mat", "utf-16-le", False),
        ("a cat on a mat", "utf-16-be", False),
        ("un café", "cp1252", False),
        ("naïve façade — “quotes”", "cp1252", False),
        ("一只猫", "gbk", False),
        ("一只猫坐在窗台上，阳光明媚", "gbk", False),
        ("고양이 한 마리가 앉아 있다", "cp949", False),
        ("猫が窓のそばに座っている", "shift_jis", False),
        ("кошка сидит на окне", "cp1251", False),
        ("一隻貓坐在窗邊", "big5", False),
        ("", "ascii", True),
    ],
)
def test_encodings_are_recognized(tmp_path: Path, text: str, encoding: str, sure: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    read = read_text(path)
    assert (read.text, read.sure) == (text, sure), read.encoding


def test_lines_end_in_one_way_and_a_cut_letter_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo\rthree é".encode())
    assert read_text(path).text == "one\ntwo\nthree é"
    assert read_text(path, most=len("one\r\ntwo\rthree ") + 1).text == "one\ntwo\nthree "


def test_no_bytes_raise_an_error() -> None:
    for data in (b"\xff\xfe\x00", b"\xff\xff\xff", b"\x80", bytes(range(256)), b"\xef\xbb\xbf\xff"):
        assert decode(data).text is not None
