"""Beside the form of a new run: three pairs as they will be trained, and the forecast."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from engine.config import DataConfig
from engine.demo.sets import make_demo_set
from engine.estimate.advice import advise
from engine.estimate.sudden_convergence import RunPlan
from engine.training.caution import Caution, Remedy
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.states import Readiness, train_view
from ui.train.before_start import NO_DATASET, forecast_html, key_of, pairs_html, steps_button, take_steps


def test_three_pairs_are_cropped_as_for_training_and_made_once(workspace: Workspace) -> None:
    name = make_demo_set(workspace, "circles", 5).name
    text = pairs_html(workspace, DataConfig(dataset=name, resolution=64))
    assert text.count("<figure>") == 3 and "64 x 64 px" in text and "circle" in text
    files = {Path(path) for path in re.findall(r"src='gradio_api/file=([^']+)'", text)}
    assert all(Image.open(path).size == (128, 64) for path in files), "control image and image side by side"
    made = {path.stat().st_mtime_ns for path in files}
    assert pairs_html(workspace, DataConfig(dataset=name, resolution=64)) == text
    assert {path.stat().st_mtime_ns for path in files} == made
    assert "What the ControlNet will see" in text and "Control images" in text

    lora = pairs_html(workspace, DataConfig(dataset=name, resolution=64), images_only=True)
    assert lora.count("<figure>") == 3 and "What the base will see" in lora and "ontrol" not in lora
    files = {Path(path) for path in re.findall(r"src='gradio_api/file=([^']+)'", lora)}
    assert all(Image.open(path).size == (64, 64) for path in files), "the image alone"


def test_the_pairs_change_with_what_is_trained(ready_workspace: Workspace) -> None:
    context = AppContext(ready_workspace)
    keys = set()
    for what in ("controlnet", "lora"):
        context.set_draft("cpu", {"data": {"dataset": "pairs"}, "tuning": {"what": what}})
        keys.add(str(key_of(context, context.view())))
    assert len(keys) == 2


def test_control_images_are_shown_after_the_vae_of_a_base_whose_nets_read_latents(
    ready_workspace: Workspace, tiny_sd3: Path, tiny_base: Path
) -> None:
    """By the automatic check, once; who cancels it is not asked again."""
    context = AppContext(ready_workspace)
    data = {"dataset": "pairs", "resolution": 64}
    context.set_draft("cpu", {"data": data, "model": {"base": str(tiny_base)}})
    context.measure_lines_of_next_run()
    assert not context.auto_check.state.alive and context.seen_through_vae == "", "its nets read pixels"
    context.set_draft("cpu", {"data": data, "model": {"base": str(tiny_sd3)}})
    context.measure_lines_of_next_run()
    assert context.auto_check.wait(60) and context.auto_check.state.failed == ""
    assert context.seen_through_vae == "pairs" and context.auto_check.state.ended == 1
    context.measure_lines_of_next_run()
    assert not context.auto_check.state.alive
    text = pairs_html(ready_workspace, DataConfig(**data), str(tiny_sd3))
    assert "this is what the net reads" in text and "Thin lines are lost" in text and "pairs decoded" in text
    files = {Path(path) for path in re.findall(r"src='gradio_api/file=([^']+)'", text)}
    assert all(Image.open(path).size == (192, 64) for path in files), "control image, after the VAE, image"
    plain = pairs_html(ready_workspace, DataConfig(**data), str(tiny_base))
    assert "decoded" not in plain and "Thin lines" not in plain


def test_the_forecast_is_there_while_a_run_could_start(workspace: Workspace) -> None:
    view = AppContext(workspace).view()
    assert NO_DATASET in forecast_html(view) and "tab-dataset" in forecast_html(view)
    assert forecast_html(replace(view, datasets=("birds",))) == ""
    ready = replace(view, train=train_view(None, None, Readiness("", "500 steps & more.")))
    assert "500 steps &amp; more." in forecast_html(ready) and "<table" not in forecast_html(ready)
    told = advise(RunPlan(steps=4_000, images_per_step=4, images=5_000, seconds_per_step=2.0))
    text = forecast_html(replace(view, train=train_view(None, None, Readiness("", "500 steps.", advice=told))))
    assert text.count("<tr>") == len(told.lines) == 3
    assert "after 3,000 to 7,000 steps" in text and "</b>: ControlNet&#x27;s authors" in text and "<details" in text


def test_a_button_sets_the_advised_steps(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    told = advise(RunPlan(steps=4_000, images_per_step=4, images=5_000))
    context = AppContext(workspace)
    ready = Readiness("", "4,000 steps.", advice=told)
    view = replace(context.view(), train=train_view(None, None, ready))
    assert ">Set 18,000 steps</button>" in steps_button(view) and steps_button(view) in forecast_html(view)
    monkeypatch.setattr(context, "readiness", lambda: ready)
    take_steps(context)
    assert context.draft.changes == {"train": {"steps": 18_000}}
    short = Caution("yellow", "", "", "", Remedy("Set 18,000 steps", {"train.steps": 18_000}))
    offered = replace(view, train=train_view(None, None, replace(ready, cautions=(short,))))
    assert steps_button(offered) == "", "the caution has the same button"
    near = advise(RunPlan(steps=17_000, images_per_step=4, images=5_000))
    assert steps_button(replace(view, train=train_view(None, None, replace(ready, advice=near)))) == ""
