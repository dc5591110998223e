"""The Dataset tab: the import box, and the contents of a dataset page by page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.data.import_config import ImportConfig
from engine.workspace.paths import Workspace
from ui.dataset import contents_panel, import_panel
from ui.dataset.import_jobs import import_images
from ui.page.context import AppContext


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    return AppContext(workspace)


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, np.ndarray]) -> Path:
    source = tmp_path / "my images"
    source.mkdir()
    for name, photo in photos.items():
        for number in range(7):
            Image.fromarray(photo).resize((64, 48 + number)).save(source / f"{name} {number}.jpg")
        (source / f"{name} 0.txt").write_text("<b>bold</b>", encoding="utf-8")
    (source / "broken.jpg").write_bytes(b"")
    return source


def finish(context: AppContext, work: Any) -> Any:
    context.start_job("dataset", "A job", work)
    assert context.runner.wait(60)
    return context.view()


def test_the_box_says_what_a_folder_holds_before_it_is_read(folder: Path) -> None:
    assert "a folder of images, 29 images" in import_panel.describe_place(str(folder))
    assert "does not exist" in import_panel.describe_place(str(folder / "nowhere"))
    assert "Folder layouts that work" in import_panel.describe_place(" ")
    assert "Hugging Face" in import_panel.describe_place("owner/name")


def test_a_typed_name_stays_when_the_folder_changes() -> None:
    assert import_panel.name_for("/x/birds", "", "") == ("birds", "birds")
    assert import_panel.name_for("/x/cats", "birds", "birds") == ("cats", "cats")
    assert import_panel.name_for("/x/cats", "ملف", "birds") == ("ملف", "cats")


def test_a_large_folder_is_not_searched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.data.before_import.RECOGNITION_SECONDS", -1.0)
    assert "a large folder" in import_panel.describe_place(str(folder))


def test_the_result_says_what_was_found_and_every_tab_shows_the_dataset(context: AppContext, folder: Path) -> None:
    view = finish(context, import_images(context, str(folder), "", ImportConfig()))
    assert view.problem is None and view.focus_dataset == "my-images"
    text = import_panel.render_result(view.results["dataset"])
    assert "28 images" in text and "a folder of images" in text and "28 images are not many" in text


def test_a_page_shows_images_a_table_and_the_problems(context: AppContext, folder: Path) -> None:
    finish(context, import_images(context, str(folder), "set"))
    summary, gallery, table, problems, number, *pagers = contents_panel.render_page(context, "set", 1, 2)
    assert "28 images" in summary and "1 file could not be used" in summary
    assert len(gallery.value) == 28 - contents_panel.PAGE and number == 1
    assert table.count("<tr>") == 1 + 28 - contents_panel.PAGE and "your file" in table and "ready" in table
    assert "broken.jpg" in problems and "page 2 of 2" in pagers[1]
    first = contents_panel.render_page(context, "set", 0, 2)[2]
    assert "&lt;b&gt;bold" in first and "<b>bold" not in first


def test_settings_of_an_import_come_from_their_declaration() -> None:
    assert import_panel.clean_value("max_pictures", 5.0) == 5 and import_panel.clean_value("split", "test") == "test"
    import gradio as gr

    with gr.Blocks():
        made = import_panel.import_options()
    assert made.keys() == ImportConfig.model_fields.keys()
