"""The question about a folder: what is asked, and the pairs that are shown with it."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import numpy as np
import pytest

from engine.data.before_import import question
from engine.workspace.paths import Workspace
from tests.data.test_halves import MAP, PHOTO, side_by_side
from ui.dataset.question_panel import QuestionPanel
from ui.page.context import AppContext
from ui.page.live import Live


@pytest.mark.filterwarnings("ignore:The value passed into gr.Dropdown")  # an update, whose choices stay
def test_halves_are_asked_about_and_shown_apart(workspace: Workspace, tmp_path: Path) -> None:
    folder = str(side_by_side(tmp_path / "facades", PHOTO, MAP))
    context = AppContext(workspace)
    with gr.Blocks() as demo:
        panel = QuestionPanel(context, Live(context, demo))
    reading = question(folder)
    assert reading is not None
    _, why, names, pairs, left, right, *others = panel.show(folder, reading)
    assert "right half looks like a condition map" in why and names == ["left half", "right half"]
    assert (left.label, left.value, right.label, right.value) == ("The left half", "image", "The right half", "map")
    assert not any(one.visible for one in others)
    assert [words for _, words in pairs] == ["1. c0", "1. its map", "2. c1", "2. its map", "3. c2", "3. its map"]
    image, map = (np.asarray(shown.convert("L"), float) for shown, _ in pairs[:2])
    assert image.shape == map.shape == (64, 64) and image.mean() > 90 > map.mean()
