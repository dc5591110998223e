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
from ui.train.run_form import PRESET, RunForm
from ui.train.shown_forms import PAGES, ShownForms


@pytest.fixture
def form(workspace: Workspace) -> RunForm:
    """A form without its widgets."""
    shutil.copytree(LAYOUTS / "sdxl", workspace.models / "xl")
    made = RunForm.__new__(RunForm)
    made._context = AppContext(workspace)
    made._forms = ShownForms()
    names = flatten(RunConfig().model_dump(include=set(SECTIONS)))
    made.settings = dict.fromkeys(names)
    made._context.set_draft("12gb", {})
    return made


class Page:
    """The form on one page, as the user sees it."""

    def __init__(self, form: RunForm) -> None:
        self.form = form
        self.redraw()

    def redraw(self) -> None:
        """What the page does a moment after the draft was changed by something else than its form."""
        draft = self.form._context.draft
        self.values = self.form._values(draft)
        self.stamp = self.form._forms.add(draft.number, self.values)

    def enter(self, **changed: Any) -> None:
        """Change these values as the user would."""
        self.values |= {dotted.replace("__", "."): value for dotted, value in changed.items()}
        self.form.remember(*self.inputs)

    @property
    def inputs(self) -> list[Any]:
        return [self.stamp, *(self.values[name] for name in (PRESET, "name", *self.form.settings))]


def enter(form: RunForm, **changed: Any) -> None:
    """Change these values on a page that shows everything as it is."""
    Page(form).enter(**changed)


def test_another_family_brings_its_settings_and_removes_them_again(form: RunForm) -> None:
    context = form._context
    enter(form, train__steps=123)
    assert form._values(form._context.draft)["train.gradient_checkpointing"] == "controlnet"
    number = context.draft.number
    enter(form, model__base="xl")
    assert context.draft.changes == {"model": {"base": "xl"}, "train": {"steps": 123}}
    assert context.draft.number > number, "the boxes on the page follow"
    values = form._values(form._context.draft)
    assert (values["model.control_lora_rank"], values["train.steps"]) == (64, 123)
    assert values["train.gradient_checkpointing"] == "both"
    config, origins = context.config_of(context.draft)
    assert config.data.resolution == 1024
    assert (origins["data.resolution"], origins["train.steps"]) == ("preset 12gb, for sdxl", "you")
    enter(form, train__batch_size=3)
    assert context.draft.changes["train"] == {"batch_size": 3, "steps": 123}
    enter(form, model__base="demo")
    assert context.draft.changes == {"train": {"batch_size": 3, "steps": 123}}
    assert form._values(form._context.draft)["model.control_lora_rank"] == 0


def test_families_are_recognised_by_their_configs_alone(form: RunForm, workspace: Workspace) -> None:
    assert family_of(workspace, "xl") == "sdxl"
    assert family_of(workspace, "no such base") == "" == family_of(workspace, "")


def test_a_base_chosen_before_the_new_preset_is_shown_keeps_none_of_the_old_preset_s_values(form: RunForm) -> None:
    context, page = form._context, Page(form)
    page.enter(data__dataset="mine", name="try")
    page.enter(preset="24gb")
    page.enter(model__base="xl")  # the page still shows 12gb's values
    assert context.draft.preset == "24gb"
    assert context.draft.changes == {"name": "try", "data": {"dataset": "mine"}, "model": {"base": "xl"}}
    page.redraw()
    page.enter(train__steps=123)
    assert context.draft.changes["train"] == {"steps": 123}
    page.enter(train__steps=form._usual_values(context.draft)["train.steps"])
    assert "train" not in context.draft.changes, "back at the preset's"


def test_old_values_that_arrive_after_a_caution_s_button_change_nothing(form: RunForm) -> None:
    context, page = form._context, Page(form)
    page.enter(optim__learning_rate=1e-4)
    context.set_draft("12gb", {"model": {"control_lora_rank": 64}, "optim": {"learning_rate": 1e-4}}, True)
    page.enter(train__batch_size=3)  # sent with the form as it was before
    expected = {"model.control_lora_rank": 64, "optim.learning_rate": 1e-4, "train.batch_size": 3}
    assert flatten(context.draft.changes) == expected


def test_what_was_changed_on_another_page_stays_and_is_shown_before_anything_starts(form: RunForm) -> None:
    context, one, other = form._context, Page(form), Page(form)
    one.enter(train__steps=123)
    number = context.draft.number
    with pytest.raises(UserError, match=r"(?s)Nothing was started.*another page: Steps"):
        form.take_all(*other.inputs)
    assert context.draft.changes == {"train": {"steps": 123}} and context.draft.number > number, "redrawn"
    other.redraw()
    form.take_all(*other.inputs)
    one.enter(optim__learning_rate=1e-4)
    assert flatten(context.draft.changes) == {"train.steps": 123, "optim.learning_rate": 1e-4}


def test_renderings_are_forgotten_after_many_others(form: RunForm) -> None:
    page = Page(form)
    for _ in range(PAGES):
        form._forms.add(0, {})
    page.enter(train__steps=123)
    assert flatten(form._context.draft.changes) == {"train.steps": 123}


def test_a_models_folder_that_disappears_leaves_the_demo_base(form: RunForm) -> None:
    assert form._bases() == ["demo", "xl"]
    shutil.rmtree(form._context.workspace.models)
    assert form._bases() == ["demo"]
