"""Classes of images by folder, by word and by kohya's repeats, and how often each is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.config.data import DataConfig
from engine.config.presets import resolve
from engine.data.balance import ImageClass, classes_of, doubts, has_word, repeats_of, words_about
from engine.data.samples import Sample
from engine.errors import UserError


def samples(*keys: str, captions: tuple[str, ...] = ()) -> list[Sample]:
    texts = captions or ("",) * len(keys)
    return [Sample(key, Path(key), text, None, 64, 64) for key, text in zip(keys, texts, strict=True)]


def drawn(classes: tuple[ImageClass, ...]) -> dict[str, tuple[int, int]]:
    """Images and draws of each class."""
    return {one.name: (len(one.rows), one.draws) for one in classes}


def test_without_balance_each_image_is_drawn_once() -> None:
    (only,) = classes_of(samples("a/1.png", "b/1.png", "b/2.png"), DataConfig())
    assert only.rows == (0, 1, 2) and only.draws == 3


def test_folders_are_drawn_equally_often() -> None:
    found = classes_of(samples("b/1.png", "a/1.png", "2.png", "a/3.png", "a/4.png"), DataConfig(balance="folder"))
    assert drawn(found) == {"a": (3, 3), "b": (1, 3), "the folder itself": (1, 3)}
    assert {one.name: one.rows for one in found}["a"] == (1, 3, 4)
    assert words_about(found) == "b (1 image): 3 times, the folder itself (1 image): 3 times, a (3 images): once"


def test_words_are_drawn_equally_often_and_other_images_once() -> None:
    captions = ("a Cat", "two cats and a cat", "a dog", "a catalogue", "a dog with a cat", "")
    data = DataConfig(balance="word", balance_words="dog, cat ,, dog")
    found = classes_of(samples(*map(str, range(6)), captions=captions), data)
    assert {one.name: (one.rows, one.draws) for one in found} == {
        "cat": ((0, 1), 2),
        "dog": ((2, 4), 2),
        "none of these words": ((3, 5), 2),
    }


def test_repeats_of_kohyas_folders() -> None:
    keys = ("img/10_cat/1.png", "img/10_cat/close/2.png", "img/2_dog/3.png", "img/2019_summer/4.png", "5.png")
    assert [repeats_of(key) for key in keys] == [10, 10, 2, 1, 1]
    assert drawn(classes_of(samples(*keys), DataConfig(balance="repeats"))) == {
        "img/10_cat": (1, 10),
        "img/10_cat/close": (1, 10),
        "img/2_dog": (1, 2),
        "img/2019_summer": (1, 1),
        "the folder itself": (1, 1),
    }


@pytest.mark.parametrize(
    ("caption", "word", "there"),
    [
        ("a red  Circle.", "red circle", True),
        ("catalogue", "cat", False),
        ("c++ (old)", "c++", True),
        ("ein Bär", "bär", True),
        ("一只猫在睡觉", "猫", True),
        ("", "cat", False),
    ],
)
def test_a_word_in_a_caption(caption: str, word: str, there: bool) -> None:
    assert has_word(caption, word) is there


def test_what_does_nothing_is_told() -> None:
    def told(data: DataConfig, *keys: str, captions: tuple[str, ...] = ()) -> list[str]:
        return list(doubts(classes_of(samples(*keys, captions=captions), data), data))

    assert told(DataConfig(balance="folder"), "a/1", "b/1", "b/2") == []
    assert told(DataConfig(balance="folder"), "a/1", "a/2")[0].endswith("there is only one class.")
    assert told(DataConfig(balance="folder"), "a/1", "b/2")[0].endswith("all classes are equally large.")
    assert "same number" in told(DataConfig(balance="repeats"), "a/1", "b/2")[0]
    words = DataConfig(balance="word", balance_words="cat, emu")
    assert told(words, "1", "2", "3", captions=("a cat", "", "emu"))[0].endswith("all classes are equally large.")
    assert told(words, "1", "2", captions=("a cat", ""))[0] == "No caption belongs to the class emu."


def test_balance_by_word_needs_words() -> None:
    for words in ("", " , "):
        with pytest.raises(UserError, match="needs the words"):
            resolve(("test", {"data": {"balance": "word", "balance_words": words}}))
    assert RunConfig().data.balance == "off"
