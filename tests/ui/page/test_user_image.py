"""Image bombs and files that are not images are refused with a message."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest
from gradio.components.image_editor import EditorData, EditorDataBlobs
from gradio.data_classes import FileData, ImageData
from gradio.exceptions import Error
from PIL import Image
from skimage import data

from engine.workspace.paths import Workspace
from tests.test_hostile_files import bomb
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.user_image import UserDrawing, UserImage, shown, wire_upload


def test_an_image_bomb_dropped_on_the_page_is_refused_with_a_message(tmp_path: Path) -> None:
    field = UserImage(label="Any image")
    path = bomb(tmp_path / "bomb.png", 60_000, 60_000)
    with pytest.raises(Error, match="far too large"):
        field.preprocess(ImageData(path=str(path), orig_name="bomb.png"))
    (tmp_path / "words.png").write_text("no image", encoding="utf-8")
    with pytest.raises(Error, match=r"drawing.png cannot be read"):
        field.preprocess(ImageData(path=str(tmp_path / "words.png"), orig_name="drawing.png"))
    assert field.get_block_name() == "image", "the page draws it as gradio's own"


def test_what_was_refused_is_named_once_and_leaves_the_field(tmp_path: Path) -> None:
    """Every event that has the field among its inputs would name it again, and Generate did nothing else."""
    (tmp_path / "heic.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(400))
    with gr.Blocks() as demo:
        field = UserImage(label="My own image")
        editor = UserDrawing(type="pil")
        live = Live(AppContext(Workspace(tmp_path / "ws")), demo)
        wire_upload(live, field)
        wire_upload(live, editor)
    payload = ImageData(path=str(tmp_path / "heic.jpg"), orig_name="IMG_1.HEIC")
    for visible in (True, False):
        with pytest.raises(Error, match=r"IMG_1.HEIC cannot be read. It is a HEIC file.*save it as JPEG") as caught:
            field.preprocess(payload)
        assert caught.value.visible is visible
    for one in (field, editor):
        (after,) = [f for f in demo.fns.values() if f.trigger_only_on_failure and f.outputs == [one]]
        assert after.fn() is None


@pytest.mark.parametrize(
    ("name", "mode", "copied"),
    [
        ("a.png", "RGB", False),
        ("a.tif", "RGB", True),
        ("a.tga", "RGBA", True),
        ("a.tif", "CMYK", True),
        ("a.tif", "F", False),
    ],
)
def test_what_a_browser_cannot_show_is_replaced_by_a_copy(tmp_path: Path, name: str, mode: str, copied: bool) -> None:
    Image.new(mode, (40, 30)).save(tmp_path / name)
    value = shown(str(tmp_path / name))
    assert isinstance(value, Image.Image) is copied
    assert not copied or (value.size == (40, 30) and value.mode == mode.replace("CMYK", "RGB"))


@pytest.mark.parametrize("place", ["background", "layers", "composite"])
@pytest.mark.parametrize("sent", ["as an upload", "by the canvas"])
def test_an_image_bomb_in_a_drawing_is_refused_with_a_message(tmp_path: Path, place: str, sent: str) -> None:
    field = UserDrawing(type="pil")
    path = bomb(tmp_path / "upload.png", 60_000, 60_000)
    (tmp_path / "words.png").write_text("no image", encoding="utf-8")
    for name, words in ((path, "far too large"), (tmp_path / "words.png", "cannot be read")):
        file = FileData(path=str(name), orig_name="mine.png") if sent == "as an upload" else name.read_bytes()
        parts = {"background": None, "composite": None, "layers": []} | {place: [file] if place == "layers" else file}
        payload = (
            EditorData(**parts)
            if sent == "as an upload"
            else EditorData(background=None, layers=[], composite=None, id="drawing")
        )
        if payload.id:
            field.blob_storage["drawing"] = EditorDataBlobs(**parts)
        with pytest.raises(Error, match=words) as caught:
            field.preprocess(payload)
        assert ("mine.png" if sent == "as an upload" else "The drawing") in str(caught.value)
        field.blob_storage.clear()
    assert field.get_block_name() == "imageeditor", "the page draws it as gradio's own"


def test_a_valid_drawing_arrives(tmp_path: Path) -> None:
    coffee = Image.fromarray(data.coffee())
    coffee.save(tmp_path / "coffee.png")
    file = FileData(path=str(tmp_path / "coffee.png"), orig_name="coffee.png")
    value = UserDrawing(type="pil").preprocess(EditorData(background=file, layers=[], composite=None))
    assert value is not None and value["background"].size == coffee.size


def test_the_field_sends_the_same_config_as_gradios_own() -> None:
    given = {"label": "Any image", "height": 180, "buttons": [], "elem_id": "any"}
    own, plain = UserImage(**given).get_config(), gr.Image(type="filepath", image_mode=None, **given).get_config()
    assert set(own) == set(plain)
    assert {name: own[name] for name in given} == given, "without them the page fails when it draws the field"
    assert own["sources"] == ["upload", "clipboard"]
