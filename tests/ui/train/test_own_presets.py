"""The settings of the form become a preset, and stay in the form when it is deleted."""

from __future__ import annotations

import pytest

from engine.errors import UserError
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.train.own_presets import delete_own, save_draft


@pytest.fixture
def context(workspace: Workspace) -> AppContext:
    made = AppContext(workspace)
    made.set_draft("8gb", {"name": "owls", "data": {"dataset": "birds"}, "train": {"steps": 77}})
    return made


def test_the_draft_is_based_on_the_preset_that_was_saved_from_it(context: AppContext) -> None:
    before, number = context.config_of(context.draft)[0], context.draft.number
    assert save_draft(context, "Night owls") == "Night owls is now in the list of presets, with 1 setting of your own."
    assert context.draft.preset == "Night-owls" and context.draft.number > number
    assert context.draft.changes == {"name": "owls", "data": {"dataset": "birds"}}
    config, origins = context.config_of(context.draft)
    assert config == before and origins["train.steps"] == "preset Night-owls"
    assert "Night-owls" in AppContext(context.workspace).user_presets.all, "also after the app was closed"


def test_a_deleted_preset_leaves_its_settings_in_the_form(context: AppContext) -> None:
    before = context.config_of(context.draft)[0]
    save_draft(context, "Night owls")
    gone = context.draft
    assert "still in the form" in delete_own(context)
    assert context.draft.preset == "8gb" and context.config_of(context.draft)[0] == before
    assert not list(context.workspace.presets.iterdir())
    assert context.preset_of(gone).name == context.suggested_preset, "a page that has not heard of it yet"
    assert "comes with the app" in delete_own(context)


def test_invalid_settings_are_not_saved(context: AppContext) -> None:
    context.set_draft("8gb", {"train": {"steps": 0}})
    with pytest.raises(UserError, match="train.steps"):
        save_draft(context, "mine")
    assert not context.workspace.presets.exists()
