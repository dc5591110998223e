from __future__ import annotations

import threading
import time
from contextlib import nullcontext

import pytest

from engine.data import captions, pattern_size
from engine.errors import UserError


@pytest.mark.answers('Strange characters in captions, "Unknown escape sequence", UnicodeEncodeError')
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("Tom &amp;amp; Jerry", "Tom & Jerry"),
        ("a <b>big</b><br/>cat<p class='x'>sits", "a big cat sits"),
        ("&lt;i&gt;a cat&lt;/i&gt;", "a cat"),
        ("<sks> dog, <lora:x:1>, 3 < 4 > 2", "<sks> dog, <lora:x:1>, 3 < 4 > 2"),
        ("a cat https://example.com/a_(b).jpg?x=1&y=2 asleep", "a cat asleep"),
        ("a cat (www.example.com), asleep", "a cat , asleep"),
        ("see HTTP://example.com/a, a cat", "see , a cat"),
        ("f() stays", "f() stays"),
        ("a\u0000 cat\u0007\u200b \ufeffsits\ufffd", "a cat sits"),
        ("a\tcat\r\nsits\u00a0 here\u0085now", "a cat sits here now"),
        ("\u202ea cat\u202c \ud800", "a cat"),
        ("👩\u200d🚀 می\u200cخواهم", "👩\u200d🚀 می\u200cخواهم"),
        (r"saber \(fate\), it\'s", "saber (fate), it's"),
        (r"a cat\n", "a cat"),
        (r"one\nTwo", "one Two"),
        (r"AC\DC \\ name\new", "AC DC name new"),
        ("ein Bär – «gut»", "ein Bär – «gut»"),
        ("  ", ""),
    ],
)
def test_clean_removes_what_got_in_by_accident(text: str, wanted: str) -> None:
    assert captions.clean(text) == wanted
    assert captions.clean(wanted) == wanted


def test_scripts_and_styles_are_removed_with_what_they_contain() -> None:
    text = "<b>bold</b> <script>alert(1)</script> 😀 <STYLE type='x'>p {}</style>fox <script src=x>"
    assert captions.clean(text) == "bold 😀 fox"


def test_each_part_of_cleaning_can_be_turned_off() -> None:
    text = "&amp; <b> http://example.com/ \u200b \\("
    for part, kept in {"markup": "&amp; <b>", "urls": "http:", "control": "\u200b", "backslashes": "\\("}.items():
        assert kept in captions.clean(text, **{part: False}) and kept not in captions.clean(text)


def test_text_is_added_once() -> None:
    once = captions.add("a cat", "photo", "sharp")
    assert once == "photo, a cat, sharp" == captions.add(once, "Photo", "sharp")
    assert captions.add("photograph of a cat", "photo") == "photo, photograph of a cat"
    assert captions.add("unsharp", suffix="sharp") == "unsharp, sharp"
    assert captions.add("", "photo", "sharp") == "photo, sharp" and captions.add(" a cat ") == "a cat"
    assert captions.add("a cat", "photo of", separator=" ") == "photo of a cat"


def test_a_trigger_is_added_in_front_unless_present() -> None:
    assert captions.add_trigger("a cat", "sks") == "sks, a cat"
    assert captions.add_trigger("a SKS cat", "sks") == "a SKS cat"
    assert captions.add_trigger("masks", "sks") == "sks, masks"
    assert captions.add_trigger("a <x+> cat", "<x+>") == "a <x+> cat" and captions.add_trigger("a cat", " ") == "a cat"


@pytest.mark.parametrize(
    ("pattern", "harmless"), [("(a+)+$", True), ("(a|aa)+$", False), ("(.*a){12}$", True), ("([a-zA-Z]+)*!!$", True)]
)
def test_a_search_cannot_hold_anything_up(pattern: str, harmless: bool) -> None:
    beside, stop = 0, threading.Event()

    def count() -> None:
        nonlocal beside
        while not stop.wait(0.01):
            beside += 1

    thread = threading.Thread(target=count)
    thread.start()
    began = time.monotonic()
    with nullcontext() if harmless else pytest.raises(UserError, match="was stopped"):
        captions.replace("a" * 52 + "!", pattern, "x", regex=True)
    assert time.monotonic() - began < 30
    stop.set()
    thread.join()
    assert harmless or beside > 5, "other threads go on meanwhile"


@pytest.mark.parametrize("pattern", ["((a{999}){999}){999}", "(?:ab){999999999}", "a|" * 600])
def test_a_regular_expression_that_is_too_large_to_be_read_is_refused(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pattern_size, "COMPILE_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"was stopped|too long") as refused:
        captions.replace("a", pattern, "x", regex=True)
    assert time.monotonic() - began < 30 and len(refused.value.what) < 200


def test_search_and_replace() -> None:
    assert captions.replace("a.b axb", "a.b", r"\1") == r"\1 axb"
    assert captions.replace("Cat cat", "cat", "dog") == "Cat dog"
    assert captions.replace("Cat cat", "cat", "dog", match_case=False) == "dog dog"
    assert captions.replace("cat catalogue", "cat", "dog", whole_words=True) == "dog catalogue"
    assert captions.replace("12 cats", r"(\d+) cats", r"cats: \1", regex=True) == "cats: 12"


@pytest.mark.parametrize(("search", "by"), [("", "x"), ("(", "x"), ("a", r"\7"), ("a", "\\")])
def test_an_invalid_search_raises_a_readable_error(search: str, by: str) -> None:
    with pytest.raises(UserError) as caught:
        captions.replace("a cat", search, by, regex=True)
    assert caught.value.try_this


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("animals/red_fox-03.jpg", "red fox"),
        ("red.fox+cub (2).png", "red fox cub"),
        ("Bär im Wald.webp", "Bär im Wald"),
        ("boeing 747 wing.jpg", "boeing 747 wing"),
        ("IMG_2043.JPG", ""),
        ("DSC00012.jpg", ""),
        ("PXL_20240102_030405.jpg", ""),
        ("000000001.jpg", ""),
        ("d41d8cd98f00b204e9800998ecf8427e.png", ""),
        ("123e4567-e89b-12d3-a456-426614174000.png", ""),
        ("facade.png", "facade"),
    ],
)
def test_captions_from_file_names(key: str, words: str) -> None:
    assert captions.from_file_name(key) == words


def test_templates() -> None:
    template = "photo of {name}, {folder}, {caption}"
    assert captions.from_template(template, "wild_animals/red_fox.jpg", " asleep ") == (
        "photo of red fox, wild animals, asleep"
    )
    assert captions.from_template("{caption}, {name}", "IMG_1.jpg", "a cat") == "a cat"
    assert captions.from_template("an image", "x.jpg") == "an image"
    with pytest.raises(UserError) as caught:
        captions.from_template("{caption.__class__}", "x.jpg")
    assert "{folder}" in caught.value.why


def test_what_a_fraction_of_empty_captions_means() -> None:
    sentences = {captions.meaning(fraction) for fraction in (0, 0.3, 0.8, 1)}
    assert len(sentences) == 4 and "30%" in captions.meaning(0.3) and "1%" in captions.meaning(0.0001)
