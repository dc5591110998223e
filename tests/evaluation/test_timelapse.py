"""The time-lapse of a run: its frames are the run's preview images in the order of steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.config import RunConfig
from engine.errors import UserError
from engine.evaluation.timelapse import Frame, frames_of, images_of, make_timelapse
from engine.jobs.control import Cancelled, Control
from engine.runs.run import Run, write_run

SIDE = 96


def add_preview(
    folder: Path, step: int, photo: np.ndarray, keys: tuple[str, ...] = ("a", "b"), side: int = SIDE
) -> None:
    """Writes previews like a run: the image alone, and the row of map, image, original. They brighten with steps."""
    target = folder / "previews" / f"step-{step:06d}"
    target.mkdir(parents=True)
    image = Image.fromarray(photo).resize((side, side)).point(lambda value: value * min(step + 50, 500) // 500)
    for number in range(len(keys)):
        image.save(target / f"{number:02d}.webp", quality=95)
        row = Image.new("RGB", (3 * side, side))
        row.paste(image, (side, 0))
        row.save(target / f"{number:02d}-row.webp", quality=95)
    about = {
        "step": step,
        "pictures": [f"{number:02d}-row.webp" for number in range(len(keys))],
        "captions": [f"caption {key}" for key in keys],
        "mean": {"adherence": 0.5},
        "samples": [{"key": key, "picture": f"{number:02d}.webp", "seed": 1} for number, key in enumerate(keys)],
    }
    (target / "scores.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, photos: dict[str, np.ndarray]) -> Run:
    folder = tmp_path / "2026-01-01_birds"
    folder.mkdir()
    write_run(folder, {"config": RunConfig().model_dump(mode="json")})
    for step in (0, 100, 200, 450):
        add_preview(folder, step, photos["coffee"])
    return Run(folder)


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_every_step_is_a_frame_and_the_last_is_held(run: Run, tmp_path: Path, kind: str) -> None:
    frames = frames_of(run, 0)
    assert [frame.step for frame in frames] == [0, 100, 200, 450]
    target = make_timelapse(frames, tmp_path / "out" / f"lapse.{kind}", kind, seconds=0.3)  # type: ignore[arg-type]
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    with Image.open(target) as moving:
        assert (moving.n_frames, moving.info.get("loop")) == (4, 0)
        light, durations = [], []
        for number in range(4):
            moving.seek(number)
            pixels = np.asarray(moving.convert("RGB"))
            light.append(pixels[:SIDE, SIDE : 2 * SIDE].mean())
            durations.append(moving.info["duration"])
            assert pixels.shape[1] == 3 * SIDE
            assert (pixels[SIDE:].min(axis=2) > 200).any(), "the step is written below"
    assert light == sorted(light) and light[-1] > 2 * light[0]
    assert durations == [300, 300, 300, 2000]


def test_a_timelapse_of_the_generated_image_only(run: Run, tmp_path: Path) -> None:
    target = make_timelapse(frames_of(run, 1, beside=False), tmp_path / "alone.webp")
    with Image.open(target) as moving:
        assert moving.width == SIDE
    assert images_of(run) == ["caption a", "caption b"]


def test_steps_with_another_pair_or_size_are_skipped(run: Run, photos: dict[str, np.ndarray]) -> None:
    add_preview(run.folder, 50, photos["rocket"], keys="zb")
    add_preview(run.folder, 150, photos["coffee"], side=64)
    (run.folder / "previews" / "step-000100" / "00-row.webp").unlink()
    assert [frame.step for frame in frames_of(run, 0)] == [0, 200, 450]
    assert [frame.step for frame in frames_of(run, 1)] == [0, 50, 100, 200, 450]


def test_a_long_run_is_thinned_and_keeps_first_and_last_frame(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.evaluation.timelapse.MOST_FRAMES", 3)
    assert [frame.step for frame in frames_of(run, 0)] == [0, 200, 450]


def test_one_image_is_not_enough(run: Run) -> None:
    with pytest.raises(UserError, match="No time-lapse"):
        frames_of(run, 7)


def test_a_cancelled_timelapse_leaves_no_file(run: Run, tmp_path: Path) -> None:
    control = Control()

    def progress(done: int, total: int, label: str) -> None:
        if done == 2:
            control.cancel()

    with pytest.raises(Cancelled):
        make_timelapse(frames_of(run, 0), tmp_path / "out" / "x.webp", token=control.token, progress=progress)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_image_is_reported(run: Run, tmp_path: Path) -> None:
    frames = [*frames_of(run, 0), Frame(500, tmp_path / "gone.webp")]
    with pytest.raises(UserError) as caught:
        make_timelapse(frames, tmp_path / "x.gif", "gif")
    assert "gone.webp" in caught.value.why
