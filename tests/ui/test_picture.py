"""A picture that is dropped on the page: a bomb and a file that is none are refused in words."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from gradio.data_classes import ImageData
from gradio.exceptions import Error

from tests.test_hostile_files import bomb
from ui.picture import UserPicture


def test_an_image_bomb_dropped_on_the_page_is_refused_in_words(tmp_path: Path) -> None:
    field = UserPicture(label="Any picture")
    path = bomb(tmp_path / "bomb.png", 60_000, 60_000)
    with pytest.raises(Error, match="far too large"):
        field.preprocess(ImageData(path=str(path), orig_name="bomb.png"))
    (tmp_path / "words.png").write_text("no picture", encoding="utf-8")
    with pytest.raises(Error, match=r"drawing.png cannot be read"):
        field.preprocess(ImageData(path=str(tmp_path / "words.png"), orig_name="drawing.png"))
    assert field.get_block_name() == "image", "the page draws it as gradio's own"


def test_the_page_is_told_all_that_gradio_tells_of_its_own_field() -> None:
    given = {"label": "Any picture", "height": 180, "buttons": [], "elem_id": "any"}
    own, plain = UserPicture(**given).get_config(), gr.Image(type="filepath", image_mode=None, **given).get_config()
    assert set(own) == set(plain)
    assert {name: own[name] for name in given} == given, "without them the page fails when it draws the field"
    assert own["sources"] == ["upload", "clipboard"]
