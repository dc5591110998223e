"""The form of the next run: a base of another family brings its preset's settings, and the user's changes stay."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from engine.config import SECTIONS, RunConfig
from engine.config.presets import flatten
from engine.errors import UserError
from engine.families.files import LAYOUTS, family_of
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.train.draft_edits import PRESET, DraftEdits
from ui.train.run_form import base_names
from ui.train.shown_forms import PAGES


@pytest.fixture
def form(workspace: Workspace) -> DraftEdits:
    """The form without its widgets, on a workspace with a base of another family."""
    shutil.copytree(LAYOUTS / "sdxl", workspace.models / "xl")
    context = AppContext(workspace)
    context.set_draft("12gb", {})
    made = DraftEdits(context)
    made.names = tuple(flatten(RunConfig().model_dump(include=set(SECTIONS))))
    return made


class Page:
    """The form on one page, as the user sees it."""

    def __init__(self, form: DraftEdits) -> None:
        self.form = form
        self.redraw()

    def redraw(self) -> None:
        """What the page does a moment after the draft was changed by something else than its form."""
        draft = self.form.context.draft
        self.values = self.form.values(draft)
        self.stamp = self.form.shown.add(draft.number, self.values)

    def enter(self, **changed: Any) -> None:
        """Change these values as the user would."""
        self.values |= {dotted.replace("__", "."): value for dotted, value in changed.items()}
        self.form.remember(*self.inputs)

    def sends(self, at: float, **changed: Any) -> list[Any]:
        """Change these values, and return what the page sends then, at a time by its own clock."""
        self.values |= {dotted.replace("__", "."): value for dotted, value in changed.items()}
        return [self.stamp, at, *self.inputs[2:]]

    @property
    def inputs(self) -> list[Any]:
        return [self.stamp, 0, *(self.values[name] for name in (PRESET, "name", *self.form.names))]


def enter(form: DraftEdits, **changed: Any) -> None:
    """Change these values on a page that shows everything as it is."""
    Page(form).enter(**changed)


def test_another_family_brings_its_settings_and_removes_them_again(form: DraftEdits) -> None:
    context = form.context
    enter(form, train__steps=123)
    assert form.values(form.context.draft)["train.gradient_checkpointing"] == "controlnet"
    number = context.draft.number
    enter(form, model__base="xl")
    assert context.draft.changes == {"model": {"base": "xl"}, "train": {"steps": 123}}
    assert context.draft.number > number, "the boxes on the page follow"
    values = form.values(form.context.draft)
    assert (values["model.control_lora_rank"], values["train.steps"]) == (64, 123)
    assert values["train.gradient_checkpointing"] == "both"
    config, origins = context.config_of(context.draft)
    assert config.data.resolution == 1024
    assert (origins["data.resolution"], origins["train.steps"]) == ("preset 12gb, for sdxl", "you")
    enter(form, train__batch_size=3)
    assert context.draft.changes["train"] == {"batch_size": 3, "steps": 123}
    enter(form, model__base="demo")
    assert context.draft.changes == {"train": {"batch_size": 3, "steps": 123}}
    assert form.values(form.context.draft)["model.control_lora_rank"] == 0


def test_what_is_trained_brings_its_settings_and_removes_them_again(form: DraftEdits) -> None:
    context = form.context
    number, usual = context.draft.number, form.values(context.draft)["train.steps"]
    enter(form, tuning__what="lora")
    assert context.draft.changes == {"tuning": {"what": "lora"}}, "nothing else counts as changed"
    values = form.values(context.draft)
    assert (values["train.steps"], values["optim.learning_rate"]) == (1500, 1e-4)
    assert context.draft.number > number, "the boxes on the page follow"
    assert context.config_of(context.draft)[1]["optim.learning_rate"] == "preset 12gb, for lora"
    enter(form, optim__learning_rate=3e-4)
    enter(form, tuning__what="controlnet")
    assert context.draft.changes == {"optim": {"learning_rate": 3e-4}}
    assert form.values(context.draft)["train.steps"] == usual


def test_families_are_recognized_by_their_configs_alone(form: DraftEdits, workspace: Workspace) -> None:
    assert family_of(workspace, "xl") == "sdxl"
    assert family_of(workspace, "no such base") == "" == family_of(workspace, "")


def test_a_base_chosen_before_the_new_preset_is_shown_keeps_none_of_the_old_preset_s_values(form: DraftEdits) -> None:
    context, page = form.context, Page(form)
    page.enter(data__dataset="mine", name="try")
    page.enter(preset="24gb")
    page.enter(model__base="xl")  # the page still shows 12gb's values
    assert context.draft.preset == "24gb"
    assert context.draft.changes == {"name": "try", "data": {"dataset": "mine"}, "model": {"base": "xl"}}
    page.redraw()
    page.enter(train__steps=123)
    assert context.draft.changes["train"] == {"steps": 123}
    page.enter(train__steps=form.usual_values(context.draft)["train.steps"])
    assert "train" not in context.draft.changes, "back at the preset's"


def test_requests_that_overtake_each_other_lose_nothing(form: DraftEdits) -> None:
    page = Page(form)
    earlier, later = page.sends(1000, preset="24gb"), page.sends(1001, model__base="xl")
    form.remember(*later)
    form.remember(*earlier)  # it still has the base of before
    assert (form.context.draft.preset, form.context.draft.changes) == ("24gb", {"model": {"base": "xl"}})
    form.remember(*page.sends(1001, name="try"))  # in the same millisecond
    assert form.context.draft.changes["name"] == "try"


def test_old_values_that_arrive_after_a_caution_s_button_change_nothing(form: DraftEdits) -> None:
    context, page = form.context, Page(form)
    page.enter(optim__learning_rate=1e-4)
    context.set_draft("12gb", {"model": {"control_lora_rank": 64}, "optim": {"learning_rate": 1e-4}}, True)
    page.enter(train__batch_size=3)  # sent with the form as it was before
    expected = {"model.control_lora_rank": 64, "optim.learning_rate": 1e-4, "train.batch_size": 3}
    assert flatten(context.draft.changes) == expected


@pytest.mark.answers("The page is open twice, and both change settings")
def test_what_was_changed_on_another_page_stays_and_is_shown_before_anything_starts(form: DraftEdits) -> None:
    context, one, other = form.context, Page(form), Page(form)
    one.enter(train__steps=123)
    number = context.draft.number
    with pytest.raises(UserError, match=r"(?s)Nothing was started.*another page: Steps"):
        form.take_all(*other.inputs)
    assert context.draft.changes == {"train": {"steps": 123}} and context.draft.number > number, "redrawn"
    other.redraw()
    form.take_all(*other.inputs)
    one.enter(optim__learning_rate=1e-4)
    assert flatten(context.draft.changes) == {"train.steps": 123, "optim.learning_rate": 1e-4}


def test_renderings_are_forgotten_after_many_others(form: DraftEdits) -> None:
    page = Page(form)
    for _ in range(PAGES):
        form.shown.add(0, {})
    page.enter(train__steps=123)
    assert flatten(form.context.draft.changes) == {"train.steps": 123}


def test_a_models_folder_that_disappears_leaves_the_demo_base(form: DraftEdits) -> None:
    assert base_names(form.context.workspace) == ["demo", "demo-transformer", "xl"]
    shutil.rmtree(form.context.workspace.models)
    assert base_names(form.context.workspace) == ["demo", "demo-transformer"]
