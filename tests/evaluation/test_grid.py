"""The checkpoint grid: generated and cached images, and the contact sheet."""

from __future__ import annotations

import colorsys
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.config.presets import resolve
from engine.data.dataset import Dataset
from engine.data.make_maps import make_all
from engine.data.scan import scan_folder
from engine.errors import UserError
from engine.evaluation.grid import Grid, GridRequest, best_step, default_steps, held_out_pairs, numbers, read_grid
from engine.evaluation.grid_drawing import LABEL, draw_grid
from engine.evaluation.grid_sheet import format_of, save_sheet, sheet
from engine.evaluation.image_cache import ImageCache
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import Cancelled, Control
from engine.jobs.events import Checked
from engine.runs.run import Run, write_run
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint

SIDE = 64
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Painter(TrySession):
    """Fakes the models: draws a plain colour for each request, and records the requests."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace, "cpu")
        self.asked: list[TryRequest] = []

    def generate(self, requests: Sequence[TryRequest], token: Any = None, progress: Any = None, *_: Any) -> Any:
        if token:
            token.raise_if_cancelled()
        images = []
        for request in requests:
            if not Path(request.controlnet).exists():
                raise UserError("It is gone.", "Somebody removed it.", "Choose another one.")
            self.asked.append(request)
            text = f"{request.controlnet} {request.seed} {request.strength} {request.prompt} {request.without_control}"
            hue = hashlib.md5(text.encode()).digest()[0] / 255
            colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, 1, 1))
            images.append(Image.new("RGB", (request.width, request.height), colour))
            if progress:
                progress(len(images) * request.steps, len(requests) * request.steps, "Drawing")
        return images


@pytest.fixture(scope="module")
def prepared(
    photos: dict[str, np.ndarray], tiny_base: Path, loud_controlnet: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, Path]:
    """A workspace with four photographs, two held out, and a run with three checkpoints of decreasing weights."""
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in photos.items():
        image = Image.fromarray(pixels)
        image.thumbnail((160, 160))
        image.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a photo of {name}", encoding="utf-8")
    workspace = Workspace(tmp_path_factory.mktemp("prepared"))
    dataset = Dataset.create(workspace, "photos", scan_folder(folder))
    make_all(dataset, "light_dark", workers=1)
    settings = {
        "model": {"base": str(tiny_base)},
        "data": {"dataset": "photos", "resolution": SIDE, "held_out": 2},
        "validation": {"sampling_steps": 2, "guidance_scale": 2.0},
        "train": {"steps": 300},
    }
    config, _ = resolve(("test", settings))
    made = tmp_path_factory.mktemp("run")
    spec = dataset.condition
    assert spec is not None
    condition = {"type": spec.type, "parameters": spec.parameters}
    write_run(made, {"config": config.model_dump(mode="json"), "condition": condition})
    for number, step in enumerate((100, 200, 300)):
        net = tmp_path_factory.mktemp("net")
        (net / "config.json").write_bytes((loud_controlnet / "config.json").read_bytes())
        weights = load_file(loud_controlnet / WEIGHTS)
        save_file({name: weight / (number + 1) for name, weight in weights.items()}, net / WEIGHTS)
        write_checkpoint(made / "checkpoints" / f"step-{step:06d}", net, step=step, has_ema=False)
    losses = ((100, 0.6), (200, 0.3), (300, 0.3))
    checks = [Checked(step, step * 4, loss, loss, 0.1, 0.5, 0.01, 0.3, 1.0) for step, loss in losses]
    lines = [json.dumps(vars(check)) for check in checks]
    (made / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return workspace, made


@pytest.fixture
def workspace(prepared: tuple[Workspace, Path]) -> Workspace:
    """The prepared workspace without cached images."""
    shutil.rmtree(ImageCache(prepared[0]).folder, ignore_errors=True)
    return prepared[0]


@pytest.fixture
def run(workspace: Workspace, prepared: tuple[Workspace, Path]) -> Run:
    folder = workspace.new_run("birds")
    shutil.copytree(prepared[1], folder, dirs_exist_ok=True)
    return Run(folder)


REQUEST = GridRequest(pictures=(0, 1), seeds=(0, 7), strengths=(0.5, 1.0))


def test_a_grid_has_every_checkpoint_and_every_row(workspace: Workspace, run: Run) -> None:
    painter, progress = Painter(workspace), []
    grid = draw_grid(workspace, run, REQUEST, painter, progress=lambda *about: progress.append(about))
    assert [c.title for c in grid.columns] == ["without ControlNet", "step 100", "step 200", "step 300"]
    assert [(r.prompt, r.seed, r.strength) for r in grid.rows[:4]] == [
        (grid.rows[0].prompt, 0, 0.5),
        (grid.rows[0].prompt, 0, 1.0),
        (grid.rows[0].prompt, 7, 0.5),
        (grid.rows[0].prompt, 7, 1.0),
    ]
    assert len(grid.rows) == 8 and grid.complete
    assert grid.best == best_step(run) in (200, 300)
    # Without ControlNet the strength has no effect: 4 images there, 8 in each other column.
    assert len(painter.asked) == 4 + 3 * 8
    assert progress[-1] == (28 * 2, 28 * 2, LABEL)
    assert [done for done, *_ in progress] == sorted(done for done, *_ in progress)
    assert read_grid(run) == grid
    nets = [request.controlnet for request in painter.asked]
    assert nets == sorted(nets, key=nets.index), "the weights of each checkpoint are loaded once"


def test_existing_images_are_not_generated_again(workspace: Workspace, run: Run) -> None:
    draw_grid(workspace, run, REQUEST, Painter(workspace))
    again = Painter(workspace)
    draw_grid(workspace, run, REQUEST, again)
    assert again.asked == []
    more = Painter(workspace)
    draw_grid(workspace, run, replace(REQUEST, seeds=(0, 7, 9)), more)
    assert {request.seed for request in more.asked} == {9}
    for change in ({"sampling_steps": 3}, {"guidance": 3.0}, {"negative": "blur"}, {"prompts": ("a cat", "a dog")}):
        other = Painter(workspace)
        draw_grid(workspace, run, replace(REQUEST, seeds=(0,), strengths=(1.0,), **change), other)
        # Two images in four columns; with prompts 2 x 2 in three, and one for each prompt without ControlNet.
        assert len(other.asked) == (2 * 2 * 3 + 2 if "prompts" in change else 2 * 4), change


def test_replaced_weights_are_generated_again(workspace: Workspace, run: Run) -> None:
    draw_grid(workspace, run, REQUEST, Painter(workspace))
    path = run.checkpoints()[1].controlnet / WEIGHTS
    save_file({name: weight + 1 for name, weight in load_file(path).items()}, path)
    painter = Painter(workspace)
    draw_grid(workspace, run, REQUEST, painter)
    assert {request.controlnet for request in painter.asked} == {run.checkpoints()[1].controlnet}


def test_a_cancelled_grid_keeps_its_images_and_continues(workspace: Workspace, run: Run) -> None:
    control, painter = Control(), Painter(workspace)

    def on_column(grid: Grid) -> None:
        if grid.cells[0][1]:
            control.cancel()

    with pytest.raises(Cancelled):
        draw_grid(workspace, run, REQUEST, painter, control.token, on_column=on_column)
    half = read_grid(run)
    assert half is not None and not half.complete
    assert all(row[:2].count(None) == 0 and row[2:].count(None) == 2 for row in half.cells)
    rest = Painter(workspace)
    assert draw_grid(workspace, run, REQUEST, rest).complete
    assert len(rest.asked) == 2 * 8


def test_an_unusable_checkpoint_does_not_affect_the_others(workspace: Workspace, run: Run) -> None:
    class Careless(Painter):
        def generate(self, requests: Sequence[TryRequest], *rest: Any) -> Any:
            if "step-000200" in str(requests[0].controlnet):
                raise UserError("It is broken.", "NaN.", "Choose an earlier one.")
            return super().generate(requests, *rest)

    grid = draw_grid(workspace, run, REQUEST, Careless(workspace))
    assert [row.count(None) for row in grid.cells] == [1] * 8
    assert grid.notes == ("step 200: It is broken. NaN.",)
    alone = replace(REQUEST, steps=(200,), without=False)
    with pytest.raises(UserError, match="No image of the grid was drawn"):
        draw_grid(workspace, run, alone, Careless(workspace))
    assert read_grid(run) == grid, "the last good one stays"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": (100, 150)}, "no complete checkpoint at step 150"),
        ({"steps": ()}, "No checkpoint was chosen"),
        ({"pictures": ()}, "no control image"),
        ({"pictures": (5,)}, "no held-out image 6"),
        ({"strengths": (11.0,)}, "must be between 0 and 10"),
        ({"seeds": tuple(range(200))}, "the limit is 600"),
        ({"live": True}, "not in progress"),
    ],
)
def test_an_invalid_request_raises_a_readable_error(
    workspace: Workspace, run: Run, change: dict[str, Any], words: str
) -> None:
    painter = Painter(workspace)
    with pytest.raises(UserError) as refused:
        draw_grid(workspace, run, replace(REQUEST, **change), painter)
    assert words in f"{refused.value.what} {refused.value.why}"
    assert painter.asked == []


def test_a_custom_map_is_a_row(workspace: Workspace, run: Run, tmp_path: Path, edges: Image.Image) -> None:
    edges.resize((90, 60)).save(tmp_path / "mine.png")
    request = GridRequest(pictures=(), controls=(tmp_path / "mine.png",), prompts=("one", "two"), strengths=(1.0,))
    painter = Painter(workspace)
    grid = draw_grid(workspace, run, request, painter)
    assert [(row.source, row.prompt, row.width) for row in grid.rows] == [
        ("mine.png", "one", 64),
        ("mine.png", "two", 64),
    ]
    assert painter.asked[0].control.size == (SIDE, SIDE)


def test_real_checkpoints_generate_different_images(workspace: Workspace, run: Run) -> None:
    request = GridRequest(pictures=(0,), steps=(100, 300), strengths=(1.0,))
    grid = draw_grid(workspace, run, request, TrySession(workspace, "cpu"))
    drawn = ImageCache(workspace)
    plain, first, last = (np.asarray(drawn.open(str(key))).astype(int) for key in grid.cells[0])
    assert plain.shape == (SIDE, SIDE, 3)
    assert np.abs(plain - first).mean() > np.abs(plain - last).mean() > 0.5, "a third of the weights moves it less"


def test_a_long_prompt_is_used_completely_and_noted(workspace: Workspace, run: Run) -> None:
    long = "red circle with blue background " * 20
    request = GridRequest(pictures=(0,), steps=(100,), strengths=(1.0,), prompts=(long,))
    grid = draw_grid(workspace, run, request, TrySession(workspace, "cpu"))
    assert len(grid.notes) == 1 and "read in 4 chunks" in grid.notes[0]


def test_the_sheet_has_every_image_under_its_checkpoint(workspace: Workspace, run: Run, tmp_path: Path) -> None:
    grid = draw_grid(workspace, run, replace(REQUEST, strengths=(1.0,)), Painter(workspace))
    grid = replace(grid, cells=(*grid.cells[:-1], (*grid.cells[-1][:-1], None)))
    drawn = ImageCache(workspace)
    whole = np.asarray(sheet(grid, drawn)).astype(int)
    for row in grid.cells:
        for key in filter(None, row):
            colour = np.asarray(drawn.open(key)).astype(int)[5, 5]
            there = (np.abs(whole - colour).max(axis=2) <= 6).sum()
            assert there >= SIDE * SIDE * 0.9
    for name in ("grid.png", "grid.webp"):
        with Image.open(save_sheet(grid, drawn, tmp_path / name, format_of(tmp_path / name))) as picture:
            assert picture.size == whole.shape[1::-1]
    with pytest.raises(UserError, match="not drawn"):
        format_of(tmp_path / "grid.tiff")


def test_a_sheet_too_large_to_open_is_downscaled(workspace: Workspace, run: Run) -> None:
    grid = draw_grid(workspace, run, replace(REQUEST, strengths=(1.0,)), Painter(workspace))
    rows = tuple(replace(row, width=1024, height=1024) for row in grid.rows * 8)
    whole = sheet(replace(grid, rows=rows, cells=grid.cells * 8), ImageCache(workspace))
    assert max(whole.size) <= 16_383


def test_the_cache_is_bounded_and_keeps_the_current_grid(workspace: Workspace) -> None:
    drawn = ImageCache(workspace, most_files=5)
    for number in range(9):
        drawn.put(f"{number}", Image.new("RGB", (8, 8), (number, 0, 0)))
    for number in range(9):
        os.utime(drawn.path(f"{number}"), ns=(number, number))
    assert drawn.has("1"), "looking makes it the newest"
    assert drawn.trim(keep=frozenset({"0"})) == 4
    assert sorted(path.stem for path in drawn.folder.iterdir()) == ["0", "1", "6", "7", "8"]
    assert not drawn.has("2") and drawn.open("2") is None


def test_the_default_choice_is_spread_and_includes_the_best() -> None:
    steps = list(range(100, 2100, 100))
    chosen = default_steps(steps, 1300)
    assert len(chosen) == 6 and {100, 1300, 2000} <= set(chosen)
    assert default_steps([300, 100], None) == [100, 300]
    assert default_steps(steps, 150) == default_steps(steps, None), "a checkpoint that is gone is no choice"


def test_the_rows_are_the_runs_held_out_pairs(workspace: Workspace, run: Run) -> None:
    dataset = Dataset.open(workspace.dataset_folder("photos"))
    keys = [sample.key for sample in dataset.samples()][::-1]
    run.about["held_out"] = [keys[0], "gone.png", keys[2]]
    assert [pair.key for pair in held_out_pairs(workspace, run)] == [keys[0], keys[2]]
    run.about["held_out"] = None
    assert len(held_out_pairs(workspace, run)) == 2


def test_before_the_net_follows_its_map_no_checkpoint_is_the_best(run: Run) -> None:
    assert best_step(run) is not None
    path = run.folder / "metrics.jsonl"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"gain_share": 0.5', '"gain_share": 0.0'), encoding="utf-8"
    )
    assert best_step(run) is None
    path.unlink()
    assert best_step(run) is None


def test_numbers_are_parsed_as_people_write_them() -> None:
    assert numbers("1, 2;5-7", int) == (1, 2, 5, 6, 7)
    assert numbers(" 0.5, 1 ", float) == (0.5, 1.0)
    assert numbers("", int) == ()
    for wrong in ("one", "7-5", "1.5"):
        with pytest.raises(UserError, match="was not understood"):
            numbers(wrong, int)
