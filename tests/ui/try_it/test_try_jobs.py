"""Try it behind its widgets: requests are drawn and saved, and settings are restored from images."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from engine.config import RunConfig
from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.inference.image_info import read_settings
from engine.inference.settings import declared
from engine.jobs.control import Control
from engine.jobs.events import StepDone
from engine.jobs.runner import Busy
from engine.jobs.snapshot import JobKind
from engine.runs.run import Run
from engine.training.job import training_job
from engine.training.new_run import create_run
from engine.workspace.paths import Workspace
from tests.short_runs import RunFactory
from tests.teaching_runs import add_images, run_of
from ui.page.choices import NEWEST
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.model_jobs import ModelJobs
from ui.try_it import try_history, try_jobs, try_nets, try_panels
from ui.try_it.try_control import (
    DRAW,
    HELD_OUT,
    UPLOAD,
    ControlSource,
    advice,
    as_in_run,
    drawn,
    held_out,
    prompt_alone,
    sampler_box,
)
from ui.try_it.try_control_panel import ControlPanel
from ui.try_it.try_jobs import PREVIEW, DrawRequest
from ui.try_it.try_nets import EXPORT, LIVE_NET, Net, pick_net
from ui.try_it.try_panels import Fields

OLD_VERSION = Path(__file__).parents[2] / "inference" / "old_version"
SETTINGS: dict[str, Any] = {
    "prompt": "red circle",
    "negative": "",
    "seed": 5,
    "steps": 2,
    "guidance": 2.0,
    "strength": 1.0,
    "width": 64,
    "height": 64,
    "sampler": "euler",
    "start": 0.0,
    "end": 1.0,
    "guess": False,
    "balance": "balanced",
    "change": 0.5,
    "second_strength": 1.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, paired_folder: Path, tiny_base: Path) -> Path:
    """A workspace with one short run that has ended; one for all tests of this module."""
    workspace = Workspace(tmp_path_factory.mktemp("trying") / "workspace")
    Dataset.create(workspace, "pairs", scan_folder(paired_folder))
    run = create_run(workspace, config(tiny_base), {})
    assert training_job(workspace, run)(Control().token, lambda event: None) == "completed"
    return workspace.root


def config(base: Path, steps: int = 2) -> RunConfig:
    values: dict[str, Any] = {
        "model": {"base": str(base)},
        "data": {"dataset": "pairs", "resolution": 64, "held_out": 2},
        "train": {"steps": steps, "batch_size": 2, "precision": "fp32"},
        "validation": {"every": 0, "check_every": 0},
    }
    return resolve(("test", values))[0]


@pytest.fixture
def context(folder: Path) -> AppContext:
    return AppContext(Workspace(folder))


@pytest.fixture
def jobs(context: AppContext) -> ModelJobs:
    return ModelJobs(context, (JobKind.TRY,))


def request_of(context: AppContext, **changes: Any) -> DrawRequest:
    """A request for the newest run's held-out image; ``changes``: other fields of it."""
    run = context.files()[1][-1]
    net = changes.pop("net", None) or pick_net(context, run, NEWEST)
    return replace(DrawRequest(run, net, ControlSource(HELD_OUT), SETTINGS), **changes)


def draw(jobs: ModelJobs, **changes: Any) -> Any:
    """Draw, and return the result for the page."""
    context = jobs.context
    try_jobs.start(jobs, request_of(context, **changes))
    assert context.runner.wait(120)
    assert context.runner.snapshot.failure is None, context.runner.snapshot.failure
    return context.results[JobKind.TRY]


def test_images_are_kept_with_their_settings_and_found_again(jobs: ModelJobs, context: AppContext) -> None:
    net = replace(pick_net(context, context.files()[1][-1], NEWEST), notes=("step-000009 cannot be used.",))
    result = draw(jobs, count=2, net=net)
    assert "step-000009 cannot be used." in result.note
    assert [title for _, title in result.images] == ["Control image", "Seed 5", "Seed 6", "Without it"]
    assert PREVIEW not in context.results
    settings = read_settings(result.images[2][0])
    assert (settings["seed"], settings["sampler"], settings["net"]) == (6, "euler", "Step 2")
    assert [path.name for path in try_history.earlier(context)[:2]] == [
        Path(path).name for path, _ in (result.images[2], result.images[1])
    ]
    control = context.workspace.outputs / settings["control"]
    again = draw(
        jobs,
        control=ControlSource(UPLOAD, upload=str(control), is_map=True),
        compare=False,
        settings={name: settings[name] for name in SETTINGS if name != "change"},
    )
    one, other = (np.asarray(Image.open(path)).astype(int) for path in (again.images[1][0], result.images[2][0]))
    assert np.abs(one - other).max() <= 1  # alone and in a batch of two


def test_an_image_is_drawn_over_where_it_was_painted(
    jobs: ModelJobs, context: AppContext, photos: dict[str, np.ndarray]
) -> None:
    photo = Image.fromarray(photos["coffee"]).resize((64, 64)).convert("RGBA")
    stroke = Image.new("RGBA", (64, 64))
    stroke.paste((255, 255, 255, 255), (40, 0, 64, 64))
    image, mask = try_jobs.painted({"background": photo, "layers": [stroke], "composite": None})
    result = draw(jobs, image=image, mask=mask, random_seed=True)
    kept = np.asarray(Image.open(result.images[1][0]))[:, :24]
    assert np.array_equal(kept, np.asarray(photo.convert("RGB"))[:, :24])
    assert read_settings(result.images[1][0])["inpainted"] is True
    assert try_jobs.painted({"background": photo, "layers": [Image.new("RGBA", (64, 64))]})[1] is None
    assert try_jobs.painted(None) == (None, None)


def test_a_drawing_is_the_map_and_a_photograph_as_a_map_is_warned_of(
    jobs: ModelJobs, context: AppContext, photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    sheet = Image.new("RGBA", (64, 64))
    sheet.paste((255, 255, 255, 255), (10, 10, 50, 12))
    control = ControlSource(DRAW, drawing={"background": Image.new("RGB", (64, 64)), "layers": [sheet]})
    result = draw(jobs, control=control)
    assert np.asarray(Image.open(result.images[0][0]))[11, 20].tolist() == [255, 255, 255]
    assert drawn({"layers": [Image.new("RGBA", (64, 64))]}) is None

    Image.fromarray(photos["coffee"]).save(tmp_path / "photo.png")
    run = context.files()[1][-1]
    assert "does not look like" in advice(context, run, str(tmp_path / "photo.png"), True)
    result = draw(jobs, control=ControlSource(UPLOAD, upload=str(tmp_path / "photo.png"), is_map=True))
    assert "does not look like the control images" in result.note
    sample = held_out(context, run, 0)
    assert sample is not None
    assert advice(context, run, str(sample.condition), True) == ""
    assert "already looks like a map" in advice(context, run, str(sample.condition), False)


def test_only_pairs_that_the_run_never_saw_are_offered(context: AppContext) -> None:
    run = Run(context.workspace.runs / context.files()[1][-1])
    offered = {held_out(context, run.name, at).condition.stem for at in range(6)}  # type: ignore[union-attr]
    assert run.held_out is not None and offered == {Path(key).stem for key in run.held_out}
    assert as_in_run(context, run.name)["width"] == 64
    assert as_in_run(context, "gone") == {}


def test_a_missing_control_image_is_a_problem(jobs: ModelJobs, context: AppContext) -> None:
    try_jobs.start(jobs, request_of(context, control=ControlSource(UPLOAD)))
    assert context.runner.wait(60)
    failure = context.runner.snapshot.failure
    assert failure is not None and "no control image" in failure.what


def test_every_kind_of_net_is_offered_and_found(context: AppContext, loud_controlnet: Path, tmp_path: Path) -> None:
    run = context.files()[1][-1]
    exports = context.workspace.runs / run / "exports"
    exports.mkdir(exist_ok=True)
    (exports / "mine.safetensors").write_bytes(b"x")
    (exports / "mine.json").write_text("{}", encoding="utf-8")
    values = [value for _, value in try_nets.entries(context, run)]
    assert values == [NEWEST, 2, EXPORT + "mine.safetensors"]
    assert pick_net(context, run, EXPORT + "mine.safetensors") == Net(exports / "mine.safetensors", "mine")
    assert pick_net(context, run, 2).name == "step-2"
    assert pick_net(context, run, 2, f'"{loud_controlnet}"').path == loud_controlnet
    for chosen, own, words in (
        (EXPORT + "gone.pth", "", "no such export"),
        (LIVE_NET, "", "not training now"),
        (2, str(tmp_path / "gone"), "was not found"),
    ):
        with pytest.raises(UserError, match=words):
            pick_net(context, run, chosen, own)


@pytest.mark.answers("Does my ControlNet work with other models of the same family?")
def test_other_bases_are_drawn_in_one_row(
    jobs: ModelJobs, context: AppContext, tiny_base: Path, tiny_sd2: Path
) -> None:
    shutil.copytree(tiny_base, context.workspace.models / "fine")
    shutil.copytree(tiny_sd2, context.workspace.models / "foreign")
    result = draw(jobs, bases_folder=str(context.workspace.models))
    assert [title for _, title in result.images] == [tiny_base.name, "fine"]
    assert "foreign" in result.note and "does not fit" in result.note


def test_live_weights_are_drawn_while_the_training_goes_on(
    jobs: ModelJobs, context: AppContext, tiny_base: Path
) -> None:
    """The training is held at a step until it has been asked for the image."""
    run = create_run(context.workspace, config(tiny_base, steps=3), {})
    sent, send = threading.Event(), context.runner.send
    context.runner.send = lambda request: (send(request), sent.set())[0]  # type: ignore[method-assign]
    work = training_job(context.workspace, run)
    asked: list[str] = []

    def held(token: Any, emit: Any) -> Any:
        def watched(event: Any) -> None:
            emit(event)
            if isinstance(event, StepDone) and event.step == 2:
                context.files_changed()
                live = request_of(context, net=pick_net(context, run.name, LIVE_NET), run=run.name)
                with pytest.raises(UserError, match="Other bases cannot be tried"):
                    try_jobs.start(jobs, replace(live, bases_folder="x"))
                try_jobs.start(jobs, live)
                with pytest.raises(Busy, match="Drawing an image is still running"):
                    try_jobs.start(jobs, live)
                assert sent.wait(60)  # the map is made first
                asked.append(jobs.progress_html(context.view()))

        return work(token, watched)

    context.runner.start("train", "Training", held)
    assert context.runner.wait(120)
    assert context.runner.snapshot.failure is None and context.runner.snapshot.outcome == "completed"
    assert len(asked) == 1 and "Waiting for the next training step" in asked[0]
    assert jobs.side.wait(60)
    assert jobs.side.snapshot.outcome == "completed" and PREVIEW not in context.results
    assert context.view().problem is None
    settings = read_settings(context.results[JobKind.TRY].images[1][0])
    assert settings["net"] == "Live weights" and settings["run"] == run.name


def restore(context: AppContext, path: Path) -> dict[str, Any]:
    """What the form of Try it gets from an image, by the names of its settings."""
    from ui.try_it import try_tab

    with gr.Blocks() as demo:
        try_tab.build(context, Live(context, demo))
    handler = next(fn for fn in demo.fns.values() if fn.name == "restore")
    names = [*(name for name, one in declared().items() if one.restored), "run", "source", "upload", "is_map", "note"]
    return dict(zip(names, handler.fn(path), strict=True))


def test_an_image_brings_its_settings_back(jobs: ModelJobs, context: AppContext) -> None:
    restored = restore(context, draw(jobs).images[1][0])
    restored["sampler"] = restored["sampler"].value
    assert {name: restored[name] for name in SETTINGS if name != "change"} == {
        name: value for name, value in SETTINGS.items() if name != "change"
    }
    assert restored["change"] == gr.skip(), "there was no image to draw over"
    assert (restored["run"], restored["source"], restored["is_map"]) == (context.files()[1][-1], UPLOAD, True)
    assert Path(restored["upload"]).is_file()
    assert "Restored the settings" in restored["note"]
    assert "base" not in restored, "the run brings its own"


def test_an_image_of_the_first_version_brings_its_settings_back(context: AppContext) -> None:
    restored = restore(context, OLD_VERSION / "try_it.png")
    assert {name: value for name, value in restored.items() if name in (*SETTINGS, "second")} == {
        "prompt": "red circle",
        "negative": "",
        "seed": 2147483646,
        "steps": 4,
        "guidance": 7.5,
        "sampler": "euler_a",
        "width": 64,
        "height": 64,
        "strength": 1.05,
        "start": 0.0,
        "end": 1.0,
        "balance": "balanced",
        "guess": True,
        "change": 0.55,
        "second": "nets/my net",
        "second_strength": 0.35,
    }
    assert restored["source"] == gr.skip(), "its control image is not in this workspace"
    assert "choose it again" in restored["note"]


def test_the_list_of_samplers_follows_the_base_of_the_run(
    ready_workspace: Workspace, new_run: RunFactory, tiny_sd3: Path, tiny_base: Path
) -> None:
    context = AppContext(ready_workspace)
    usual, by_flow = (new_run(**{"model.base": str(base)}).name for base in (tiny_base, tiny_sd3))
    box, said = sampler_box(context, usual, "ddim")
    assert (box.value, said) == ("ddim", "") and "heun" not in [name for _, name in box.choices]
    box, said = sampler_box(context, by_flow, "ddim")
    assert box.value == "euler" and "DDIM is not made for Stable Diffusion 3. Euler, the nearest" in said
    assert [name for _, name in box.choices] == ["unipc", "euler", "heun", "dpmpp_2m_karras"]
    assert sampler_box(context, None, "ddim") == (gr.skip(), "")


def test_a_lora_is_drawn_with_from_its_checkpoint_without_a_control_image(
    workspace: Workspace, tmp_path: Path, tiny_base: Path
) -> None:
    add_images(workspace, tmp_path / "images")
    run = run_of(workspace, tiny_base, tuning={"what": "lora", "rank": 4}, train={"steps": 1})
    assert training_job(workspace, run)(Control().token, lambda event: None) == "completed"
    trying = ModelJobs(AppContext(workspace), (JobKind.TRY,))
    result = draw(trying, settings=SETTINGS | {"prompt": "noise"})
    assert [title for _, title in result.images] == ["With the LoRA", "Without it"]
    with_it, without = (np.asarray(Image.open(path)) for path, _ in result.images)
    assert with_it.shape == (64, 64, 3) and without.shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("tuning", "prompt"),
    [
        ({"what": "lora"}, "noise 0"),
        ({"what": "subject", "word": "zrp", "class_prompt": "a mug"}, "zrp, noise 0"),
        ({"what": "base"}, None),
    ],
)
def test_a_prompt_takes_the_place_of_the_control_image_where_none_is_read(
    tuning: dict[str, Any], prompt: str | None, workspace: Workspace, tmp_path: Path, tiny_base: Path
) -> None:
    add_images(workspace, tmp_path / "images")
    context = AppContext(workspace)
    assert prompt_alone(context, run_of(workspace, tiny_base, tuning=tuning).name) == prompt
    with gr.Blocks() as demo:
        live, fields = Live(context, demo), Fields()
        fields["run"] = gr.Textbox()
        control = ControlPanel(fields)
        for panel in ("main", "sampling", "base"):
            try_panels.add_settings(fields, panel)
        more = try_panels.control_panel(fields)
        control.wire(context, live, more)
    (shown,) = live.registered
    rendered = dict(zip(shown.components, shown.render(context.view()), strict=True))
    alone = prompt is not None
    assert [rendered[one].visible for one in (control.box, more, fields["strength"])] == [not alone] * 3
    assert rendered[fields["prompt"]] == (prompt or "")


def test_without_captions_the_prompt_is_the_class_prompt_with_the_word(
    workspace: Workspace, tmp_path: Path, tiny_base: Path
) -> None:
    add_images(workspace, tmp_path / "images", caption=lambda number: "")
    tuning = {"what": "subject", "word": "zrp", "class_prompt": "a mug\na cup"}
    run = run_of(workspace, tiny_base, tuning=tuning)
    assert prompt_alone(AppContext(workspace), run.name) == "zrp, a mug"
