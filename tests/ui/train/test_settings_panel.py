"""All settings in groups: each is in one, is found by the search, and is set back by its button."""

from __future__ import annotations

import html
import json
import re

from engine import config
from engine.config import RunConfig
from engine.config.presets import flatten
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.train.draft_edits import DraftEdits
from ui.train.settings_panel import FIRST, GROUPS, RESET_ALL, changes_html, search_html


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
