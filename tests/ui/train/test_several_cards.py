"""With several graphics cards the window shows how to use all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from engine.config.presets import read_toml
from engine.errors import UserError
from engine.machine.hardware import Hardware
from engine.workspace.paths import Workspace
from ui.app import build_app
from ui.page.context import AppContext
from ui.train.several_cards import write_draft


def two_cards(workspace: Workspace) -> AppContext:
    context = AppContext(workspace)
    context.hardware = Hardware("cuda", "RTX 3090", 24.0, 64, 16, cards=2)
    return context


def ids(app: gr.Blocks) -> Iterator[Any]:
    return (block.elem_id for block in app.blocks.values() if getattr(block, "elem_id", None))


@pytest.mark.parametrize(("cards", "shown"), [(1, False), (2, True)])
def test_the_panel_is_there_only_with_several_cards(workspace: Workspace, cards: int, shown: bool) -> None:
    context = AppContext(workspace)
    context.hardware = Hardware("cuda", "RTX 3090", 24.0, 64, 16, cards=cards)
    assert ("several-cards-write" in ids(build_app(context)[0])) is shown
    assert ("2 cards" in context.hardware.sentence) is shown


def test_the_settings_are_written_and_the_command_names_them(workspace: Workspace) -> None:
    context = two_cards(workspace)
    context.set_draft("12gb", {"train": {"steps": 77}, "data": {"dataset": "birds"}})
    command, sentence = write_draft(context)
    file = workspace.root / "run.toml"
    assert read_toml(file)["train"]["steps"] == 77
    assert str(file) in command and "--processes 2" in command and str(file) in sentence


def test_invalid_settings_are_not_written(workspace: Workspace) -> None:
    context = two_cards(workspace)
    context.set_draft("12gb", {"train": {"steps": 0}})
    with pytest.raises(UserError, match="train.steps"):
        write_draft(context)
    assert not (workspace.root / "run.toml").exists()
