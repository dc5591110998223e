"""All settings in groups: each is in one, is found by the search, and is set back by its button."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import get_args

import gradio as gr
import pytest

import ui.page
from engine import config
from engine.config import RunConfig, TuningConfig
from engine.config.presets import flatten
from engine.config.setting import Only
from engine.families.facts import SD1
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.live import Live
from ui.train.draft_edits import DraftEdits
from ui.train.run_form import RunForm
from ui.train.settings_panel import FIRST, GROUPS, RESET_ALL, changes_html, not_applicable, search_html


def form_of(workspace: Workspace) -> DraftEdits:
    form = DraftEdits(AppContext(workspace))
    form.names = tuple(flatten(RunConfig().model_dump(include=set(config.SECTIONS))))
    return form


def test_every_setting_is_in_one_group_and_is_found_by_its_words() -> None:
    assert ("tuning", *GROUPS) == config.SECTIONS
    (found,) = re.findall(r"data-index='([^']*)'", search_html())
    index = json.loads(html.unescape(found))
    assert set(index) == {"own-tests", *(f"group-{section}" for section in GROUPS)}
    blocks = [block for texts in index.values() for block in texts]
    names = {f"set-{section}-{name}" for section in GROUPS for name in config.fields(section)}
    assert sorted(blocks) == sorted(names - {"set-" + dotted.replace(".", "-") for dotted in FIRST})
    assert "optim.learning_rate learning rate step size" in index["group-optim"]["set-optim-learning_rate"]


def test_changed_settings_are_listed_with_both_values_and_set_back(workspace: Workspace) -> None:
    form = form_of(workspace)
    form.context.set_draft(
        "12gb", {"data": {"dataset": "mine"}, "optim": {"learning_rate": 1e-4}, "train": {"steps": 7}}
    )
    changed = form.changed(form.context.draft)
    assert changed == {"optim.learning_rate": (1e-4, 1e-5), "train.steps": (7, 4000)}
    text = changes_html(changed)
    assert "Learning rate: <b>0.0001</b>" in text and "data-usual='4,000'" in text and "Reset all" in text
    number = form.context.draft.number
    form.set_back("train.steps")
    assert form.context.draft.changes == {"data": {"dataset": "mine"}, "optim": {"learning_rate": 1e-4}}
    assert form.context.draft.number == number + 1, "the boxes on the page follow"
    form.set_back("train.steps")
    assert form.context.draft.number == number + 1, "nothing to set back"
    form.set_back(RESET_ALL)
    assert form.context.draft.changes == {"data": {"dataset": "mine"}}
    assert changes_html(form.changed(form.context.draft)) == ""


def test_values_are_text_and_no_html() -> None:
    text = changes_html({"model.base": ("<b>it's</b>", "demo")})
    assert "&lt;b&gt;it&#x27;s&lt;/b&gt;" in text and "Reset all" not in text


@pytest.mark.parametrize(
    ("preserve", "hidden"),
    [("auto", {"preserving", "drawing"}), ("answers", {"drawing"}), ("pictures", set())],
)
def test_settings_of_preservation_are_shown_where_something_is_preserved(preserve: str, hidden: set[str]) -> None:
    tuning = TuningConfig.model_validate({"what": "lora", "preserve": preserve})
    assert {"preserved", "preserving", "drawing"} & {*not_applicable(tuning, SD1)} == hidden


def test_the_page_hides_every_kind_of_setting_that_has_no_meaning() -> None:
    style = (Path(ui.page.__file__).parent / "style.css").read_text(encoding="utf-8")
    for mark in get_args(Only):
        assert f":has([data-hides~='{mark}']) .only-{mark}" in style


def test_marks_do_not_need_settings_that_fit_each_other(workspace: Workspace) -> None:
    context = AppContext(workspace)
    context.set_draft("12gb", {"tuning": {"what": "lora", "preserve": "pictures"}})  # and no class prompt so far
    with gr.Blocks() as demo:
        live = Live(context, demo)
        form = RunForm(context, live)
    (marks,) = next(one for one in live.registered if one.components == (form.not_applicable,)).render(context.view())
    assert "word" in marks and "preserving" not in marks
