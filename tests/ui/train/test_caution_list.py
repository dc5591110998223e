"""The cautions under Start, the question before a run in vain, and a button that is pressed twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import gradio as gr
import pytest
from PIL import Image

from engine.data import scan
from engine.data.dataset import Dataset
from engine.demo.sets import make_demo_set
from engine.training.caution import Caution, Remedy
from engine.workspace.paths import Workspace
from ui.page import context as context_module
from ui.page import listing, next_run
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.states import Action, Readiness, train_view
from ui.train import cautions
from ui.train.run_form import RunForm
from ui.train.status_bar import button_handler

RED = Caution("red", "It is <b>bad</b>.", "Why.", "Do this.", anyway="Train anyway", look="base", rule="demo_base")
YELLOW = Caution("yellow", "It is slow.", "Why.", "Do that.", Remedy("Better", {"train.steps": 7}), rule="too_short")


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    """A page with 12 images of noise on the demo base."""
    folder = workspace.root.parent / "mine"
    for part in ("images", "conditions"):
        (folder / part).mkdir(parents=True)
        for number in range(12):
            Image.effect_noise((128, 128), 80).convert("RGB").save(folder / part / f"{number}.png")
    Dataset.create(workspace, "mine", scan.scan_folder(folder), folder)
    context = AppContext(workspace)
    context.set_draft("demo", {"data": {"dataset": "mine"}})
    return context


class Form:
    """The form as it is when nothing was typed."""

    class edits:
        @staticmethod
        def take_all(*values: Any) -> None:
            pass


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the datasets, or runs, for which a training was started. It lasts until the test ends."""
    names: list[str] = []
    end = threading.Event()

    def start(runner: Any, name: str) -> None:
        runner.start("train", "Training", lambda token, emit: end.wait(30) and "completed")
        names.append(name)

    new = lambda runner, workspace, config, origins: start(runner, config.data.dataset)  # noqa: E731
    monkeypatch.setattr(context_module, "start_training", new)
    monkeypatch.setattr(context_module, "resume_training", lambda runner, _, folder, *rest: start(runner, folder.name))
    yield names
    end.set()


def press_start(context: AppContext) -> None:
    button_handler(context, Live(context, cast(Any, None)), cast(RunForm, Form()), Action.START)()


def shown(context: AppContext) -> tuple[str, Any]:
    text, button = cautions.render(context.view())
    return text, button


def test_each_caution_is_a_line_with_its_button() -> None:
    text = cautions.cautions_html((RED, YELLOW))
    assert text.count("<li") == 2 and text.index("class='red'") < text.index("class='yellow'")
    assert "It is &lt;b&gt;bad&lt;/b&gt;." in text and "Do this." in text and "Choose a base" in text
    assert "getElementById('caution-too_short').click()" in text and ">Better</button>" in text
    assert "aria-label='Serious'" in text and "aria-label='Caution'" in text, "not by colour alone"
    assert cautions.NOT_STARTED not in text and cautions.NOT_STARTED in cautions.cautions_html((RED,), asked=True)
    assert cautions.cautions_html(()) == ""


def test_cautions_belong_to_a_run_that_could_start() -> None:
    ready = Readiness("", "All is there.", (RED,))
    assert train_view(None, None, ready).cautions == (RED,)
    assert train_view(None, None, replace(ready, missing="No dataset.")).cautions == ()


def test_start_asks_once_more_about_a_red_one(context: AppContext, started: list[str]) -> None:
    text, anyway = shown(context)
    assert "The demo base knows only its own coloured shapes." in text
    assert anyway.visible is False
    press_start(context)
    text, anyway = shown(context)
    assert started == [] and cautions.NOT_STARTED in text
    assert anyway.visible and anyway.value == "Train on the demo base anyway"
    context.set_draft("demo", {"data": {"dataset": "mine"}, "train": {"steps": 400}})
    assert shown(context)[1].visible is False, "other settings: it is asked again"
    press_start(context)
    context.start_training()  # what the second button does
    assert started == ["mine"] and shown(context)[1].visible is False


def test_the_demo_starts_with_one_press(context: AppContext, started: list[str]) -> None:
    name = make_demo_set(context.workspace, "circles", 16).name
    context.files_changed()
    context.set_draft("demo", {"data": {"dataset": name}})
    text, anyway = shown(context)
    assert text == "" and anyway.visible is False
    press_start(context)
    assert started == [name]


def test_the_second_of_two_presses_is_ignored(context: AppContext, started: list[str]) -> None:
    make_demo_set(context.workspace, "circles", 16)
    context.focus_on("demo-circles-16")
    presses = [threading.Thread(target=press_start, args=(context,)) for _ in range(2)]
    for press in presses:
        press.start()
    for press in presses:
        press.join()
    assert started == ["demo-circles-16"]
    assert context.view().problem is None
    context.set_draft("demo", {"data": {"dataset": "demo-circles-16"}, "train": {"steps": 400}})
    context.start_training()  # another run: that one waits for the first
    assert [entry.title for entry in context.queue.folder.waiting()] == ["Training demo-circles-16"]


def test_the_same_run_is_queued_if_its_form_was_asked_for_in_between(context: AppContext, started: list[str]) -> None:
    """However quickly: that is no double click."""
    make_demo_set(context.workspace, "circles", 16)
    context.focus_on("demo-circles-16")
    press_start(context)
    context.show_run("")
    press_start(context)
    assert started == ["demo-circles-16"]
    assert [entry.title for entry in context.queue.folder.waiting()] == ["Training demo-circles-16"]


def test_so_is_the_second_press_of_resume(context: AppContext, started: list[str]) -> None:
    folder = context.workspace.new_run("one")
    (folder / "run.json").write_text("{}", encoding="utf-8")
    for _ in range(2):
        context.resume_training(folder.name)
    assert started == [folder.name]
    context.resume_training(folder.name, {"train.steps": 9})
    assert [entry.settings["changes"] for entry in context.queue.folder.waiting()] == [{"train.steps": 9}]


def test_a_caution_s_button_fills_the_form(context: AppContext) -> None:
    context.set_draft("demo", {"data": {"dataset": "mine"}, "optim": {"learning_rate": 1e-5}})
    before = context.draft.number
    cautions.apply_remedy(context, "learning_rate")
    assert context.draft.changes["optim"]["learning_rate"] == 3e-3 and context.draft.number > before
    assert context.draft.changes["data"] == {"dataset": "mine"}
    cautions.apply_remedy(context, "learning_rate")
    assert context.draft.number == before + 1, "it is gone: a second press does nothing"


def test_they_are_read_again_when_the_dataset_changes_and_only_then(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "LISTING_SECONDS", 0.0)
    reads: list[int] = []
    check = next_run.check_readiness
    monkeypatch.setattr(next_run, "check_readiness", lambda *given: reads.append(1) or check(*given))
    assert "No image has a caption." in shown(context)[0]
    shown(context)
    assert len(reads) == 1
    description = context.workspace.dataset_folder("mine") / "dataset.json"
    os.utime(description, ns=(1, 1))
    shown(context)
    assert len(reads) == 2


def test_the_list_is_built_with_a_hidden_button_for_each_remedy(context: AppContext) -> None:
    with gr.Blocks() as demo:
        live = Live(context, demo)
        cautions.build_cautions(context, live, RunForm(context, live))
    ids = {getattr(block, "elem_id", None) for block in demo.blocks.values()}
    assert {f"caution-{rule}" for rule in cautions.WITH_REMEDY} <= ids and "train-anyway" in ids
