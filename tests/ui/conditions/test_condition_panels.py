"""The form and the preview of the Conditions tab, without a browser."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from engine.conditions import registry, variation
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.workspace.paths import Workspace
from ui.conditions import condition_preview, conditions_tab
from ui.conditions.condition_form import ConditionForm, ConditionSettings
from ui.page.context import AppContext


@pytest.fixture
def context(workspace: Workspace, tmp_path: Path, photos: dict[str, np.ndarray]) -> AppContext:
    (tmp_path / "photos").mkdir()
    for name, photo in photos.items():
        Image.fromarray(photo).save(tmp_path / "photos" / f"{name}.jpg")
    Image.new("RGB", (96, 96), (9, 9, 9)).save(tmp_path / "photos" / "flat.png")
    Dataset.create(workspace, "set", scan_folder(tmp_path / "photos"))
    return AppContext(workspace)


def settings(name: str, side: int | None = 128, varied: int | None = None, **values: Any) -> ConditionSettings:
    return ConditionSettings(registry.get(name), values, side, varied)


def test_the_form_returns_the_settings_of_the_selected_type() -> None:
    with gr.Blocks():
        form = ConditionForm()
    raw = [widget.value for widget in form.widgets]
    for kind in registry.all():
        assert form.read(kind.name, 512, False, 0, *raw).resolved() == kind.resolve({})
        groups = form.show_type(kind.name)[1:]
        assert [group.visible for group in groups].count(True) == bool(kind.parameters)
    assert form.read("canny", 0, True, 7, *raw).side is None and form.read("canny", 0, True, 7, *raw).varied == 7
    assert form.read("external", 512, True, 7, *raw).varied is None  # nothing to draw


def test_a_sample_or_an_upload_is_shown_next_to_its_map(context: AppContext, tmp_path: Path) -> None:
    (image, map), words = condition_preview.show(context, "set", 0, None, settings("canny"))
    assert image.shape == map.shape and min(map.shape[:2]) == 128
    assert "not black" in words and "black and white" in words
    upload = tmp_path / "photos" / "coffee.jpg"
    (image, _), words = condition_preview.show(context, "", 0, str(upload), settings("grey"))
    assert image.shape == (128, 192, 3) and "Your image" in words and "grey levels" in words
    nothing_yet = AppContext(Workspace(tmp_path / "nothing yet"))
    assert condition_preview.show(nothing_yet, "", 0, None, settings("grey"))[0] is None


def test_the_picked_settings_are_shown_and_make_all_uses_them(context: AppContext) -> None:
    dataset = Dataset.open(context.workspace.dataset_folder("set"))
    key = dataset.samples(0, 1)[0].key
    _, words = condition_preview.show(context, "set", 0, None, settings("canny", varied=3))
    assert f"Low threshold {variation.varied(registry.get('canny'), {}, 3, key)['low']}" in words


def test_the_sheet_shows_pairs_and_names_poor_maps(context: AppContext) -> None:
    gallery, words = condition_preview.contact_sheet(context, "set", settings("canny"))
    assert len(gallery.value) == 5 if isinstance(gallery.value, list) else len(gallery.value.root) == 5
    assert "1 of their maps" in words and "flat.png" in words


def test_missing_weights_are_reported_with_a_download_button(context: AppContext) -> None:
    words, button = conditions_tab.missing_weights(settings("depth"))
    assert "99 MB" in words and "Apache-2.0" in words and button.visible
    assert conditions_tab.missing_weights(settings("canny"))[0] == ""
    _, words = condition_preview.show(context, "set", 0, None, settings("depth"))
    assert "Nothing is downloaded without your consent" in words


def test_a_program_runs_only_after_a_button_press_on_this_machine(context: AppContext, tmp_path: Path) -> None:
    program = tmp_path / "negative.py"
    program.write_text("def extract(image):\n    return 255 - image\n", encoding="utf-8")
    asked = settings("external", program=str(program), seconds=60)
    assert "not been allowed" in condition_preview.show(context, "set", 0, None, asked)[1]
    context.local = False
    with pytest.raises(UserError, match="another computer"):
        conditions_tab.allow_program(context, asked)
    context.local = True
    (image, map), _ = condition_preview.show(context, "set", 0, None, conditions_tab.allow_program(context, asked))
    assert np.array_equal(map, 255 - image)


def test_cancel_ends_a_slow_preview(context: AppContext, tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    asked = conditions_tab.allow_program(context, settings("external", program=str(program), seconds=60))
    running = condition_preview.Cancellable()
    threading.Timer(0.3, running.cancel).start()
    began = time.monotonic()
    sheet, words = running.do(lambda token: condition_preview.contact_sheet(context, "set", asked, token))
    assert "Cancelled." in words and "value" not in sheet and time.monotonic() - began < 30
    shown = running.do(lambda token: condition_preview.show(context, "set", 0, None, settings("canny"), token))
    assert "not black" in shown[1], "the next one is not cancelled"
