"""The Settings tab agrees with the rest of the page."""

from __future__ import annotations

import shutil
from collections import namedtuple
from html import unescape
from pathlib import Path

import gradio as gr
import pytest

from engine.config import RunConfig
from engine.disk.space import free_bytes
from engine.estimate.estimate import estimate
from engine.install.edition import BAT_OR_SH, edition
from engine.jobs.events import DiskSpace
from engine.machine.cards import Card
from engine.machine.units import GIB
from engine.support import doctor
from engine.version import VERSION
from engine.workspace.paths import APP_FOLDER, Workspace
from engine.workspace.remembered import CARD, remembered
from ui.page.context import AppContext
from ui.page.live import Live
from ui.settings import settings_tab
from ui.train.checkpoints_panel import describe, disk_line


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    return AppContext(workspace)


def radio_of(context: AppContext) -> tuple[gr.Blocks, gr.Radio | None]:
    with gr.Blocks(analytics_enabled=False) as app:
        live = Live(context, app)
        settings_tab.choose_card(context, live)
        live.wire()
    return app, next((block for block in app.blocks.values() if block.elem_id == "card-choice"), None)


def test_one_of_several_cards_can_be_chosen_and_is_remembered(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert radio_of(context)[1] is None, "there is nothing to choose"
    two = (Card(0, "RTX 4070 Ti", 12.0, "GPU-a"), Card(1, "RTX 3090", 24.0, "GPU-b"))
    monkeypatch.setattr(settings_tab, "usable", lambda: two)
    app, radio = radio_of(context)
    assert radio is not None and radio.value == settings_tab.AUTOMATIC
    assert [title for title, _ in radio.choices][1:] == ["0: RTX 4070 Ti, 12 GB", "1: RTX 3090, 24 GB"]
    choose = next(fn for fn in app.fns.values() if (radio._id, "input") in fn.targets)
    for chosen, kept in (("GPU-a", "GPU-a"), (settings_tab.AUTOMATIC, "")):
        assert "next time the app starts" in str(choose.fn(chosen))
        assert remembered(context.workspace)[CARD] == kept
    choose.fn("GPU-b")
    again = radio_of(AppContext(context.workspace))[1]
    assert again is not None and again.value == "GPU-b"


def test_every_place_shows_the_same_free_space(
    context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100 * GIB, 50 * GIB, 50 * GIB))
    workspace = context.workspace
    places = [
        settings_tab.folders_html(context)["Free disk space"],
        estimate(RunConfig(), workspace, context.hardware),
        doctor.report(workspace),
        describe(tmp_path, [], []),
        disk_line(DiskSpace(free=free_bytes(workspace.root), run=0)),
    ]
    assert ["50.0 GB" in place for place in places] == [True] * len(places)


def test_the_versions_say_which_commit_this_is_and_how_to_update(context: AppContext) -> None:
    with gr.Blocks(analytics_enabled=False) as app:
        live = Live(context, app)
        settings_tab.build(context, live)
        live.wire()
    shown = next(str(block.value) for block in app.blocks.values() if block.elem_id == "versions")
    assert edition(APP_FOLDER) in shown and VERSION in shown
    assert f"{BAT_OR_SH} --update in {APP_FOLDER}" in unescape(shown)
