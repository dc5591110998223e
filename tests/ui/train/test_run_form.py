"""The form of the next run: a base of another family brings its preset's settings, and the user's changes stay."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from engine.config import SECTIONS, RunConfig
from engine.config.presets import flatten
from engine.families.files import LAYOUTS, family_of
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.train.run_form import RunForm


@pytest.fixture
def form(workspace: Workspace) -> RunForm:
    """A form without its widgets."""
    shutil.copytree(LAYOUTS / "sdxl", workspace.models / "xl")
    made = RunForm.__new__(RunForm)
    made._context = AppContext(workspace)
    names = flatten(RunConfig().model_dump(include=set(SECTIONS)))
    made.settings = dict.fromkeys(names)
    made._context.set_draft("12gb", {})
    return made


def enter(form: RunForm, **changed: Any) -> None:
    """Change these values as the user would."""
    values = form._values() | {dotted.replace("__", "."): value for dotted, value in changed.items()}
    form.remember("12gb", "", *(values[dotted] for dotted in form.settings))


def test_another_family_brings_its_settings_and_removes_them_again(form: RunForm) -> None:
    context = form._context
    enter(form, train__steps=123)
    assert form._values()["train.gradient_checkpointing"] == "controlnet"
    number = context.draft.number
    enter(form, model__base="xl")
    assert context.draft.changes == {"model": {"base": "xl"}, "train": {"steps": 123}}
    assert context.draft.number > number, "the boxes on the page follow"
    values = form._values()
    assert (values["model.control_lora_rank"], values["train.steps"]) == (64, 123)
    assert values["train.gradient_checkpointing"] == "both"
    config, origins = context.config_of(context.draft)
    assert config.data.resolution == 1024
    assert (origins["data.resolution"], origins["train.steps"]) == ("preset 12gb, for sdxl", "you")
    enter(form, train__batch_size=3)
    assert context.draft.changes["train"] == {"batch_size": 3, "steps": 123}
    enter(form, model__base="demo")
    assert context.draft.changes == {"train": {"batch_size": 3, "steps": 123}}
    assert form._values()["model.control_lora_rank"] == 0


def test_families_are_recognised_by_their_configs_alone(form: RunForm, workspace: Workspace) -> None:
    assert family_of(workspace, "xl") == "sdxl"
    assert family_of(workspace, "no such base") == "" == family_of(workspace, "")
