"""What a net that reads latents sees of control images: measured, kept, told by the dataset's check."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.cli.main import main
from engine.data import vae_round_trip
from engine.data.crop_plan import CropPlan
from engine.data.dataset import Dataset
from engine.data.doctor import fix
from engine.data.doctor.check import check
from engine.data.doctor.lost_lines import LINES_LOST, measure_lines, thicker_lines
from engine.data.lines_kept import LOST, lines_kept
from engine.data.make_maps import make_all
from engine.errors import UserError
from engine.families.registry import detect
from engine.jobs.control import Cancelled, Control
from engine.workspace.paths import Workspace
from tests.data.test_vae_round_trip import lines

PLAN = CropPlan(64)


def test_lines_that_fade_are_measured_by_their_pixels_and_their_contrast() -> None:
    same = lines_kept(lines(), lines())
    assert same is not None and (same.pixels, same.contrast) == (1, 1)
    for level, pixels in ((64, 0), (160, 1)):
        kept = lines_kept(lines(), lines(level))
        assert kept is not None and kept.pixels == pixels and kept.contrast == pytest.approx(level / 255, abs=0.01)
    dark = lines_kept(255 - lines(), 255 - lines(160))
    assert dark is not None and dark.pixels == 1, "dark lines on white"
    lifted = lines_kept(lines(), lines() // 2 + 100)
    assert lifted is not None and lifted.contrast == pytest.approx(0.5, abs=0.02), "a changed ground is no loss"
    blurred = lines_kept(lines(), cv2.GaussianBlur(lines(), (0, 0), 3))
    assert blurred is not None and blurred.pixels == 0


def test_maps_without_lines_are_not_judged() -> None:
    grey = np.repeat(np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None].repeat(64, 0), 3, axis=2)
    assert lines_kept(grey, grey) is None and lines_kept(np.zeros_like(grey), grey) is None


def test_the_limit_lies_between_what_a_trained_vae_leaves_of_one_pixel_and_of_three(workspace: Workspace) -> None:
    """The bundled base's: its nets read pixels, but its VAE is the only trained one here."""
    base = workspace.locate_base("demo")
    family = detect(base)
    vae = family.load_vae(base)
    shares = []
    for width in (1, 3):
        map = np.zeros((128, 128, 3), np.uint8)
        for x, y in ((5, 60), (20, 110), (100, 90), (120, 30)):
            cv2.line(map, (x, y), (127 - x, 127 - y // 2), (255, 255, 255), width)
        pixels = torch.from_numpy(map).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            again = family.decode_latents(vae, family.encode_mean(vae, pixels))[0]
        left = ((again / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        kept = lines_kept(map, left)
        assert kept is not None
        shares.append(kept.pixels)
    assert shares[0] < 0.1 < LOST < 0.8 < shares[1]


def test_some_control_images_are_looked_at_once_and_the_check_tells_it(
    ready_workspace: Workspace, tiny_sd3: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(ready_workspace.dataset_folder("pairs"))
    assert measure_lines(ready_workspace, dataset, str(tiny_base), PLAN) is None, "its nets read pixels"
    assert measure_lines(ready_workspace, dataset, "nobody/nothing", PLAN) is None, "it is not here"
    control, steps = Control(), []

    def stop(done: int, total: int, label: str) -> None:
        steps.append((done, total))
        if done == 2:
            control.cancel()

    with pytest.raises(Cancelled):
        measure_lines(ready_workspace, dataset, str(tiny_sd3), PLAN, control.token, stop)
    assert steps == [(0, 9), (1, 9), (2, 9)]
    encoded: list[int] = []
    whole = vae_round_trip.RoundTrip.decoded
    monkeypatch.setattr(vae_round_trip.RoundTrip, "decoded", lambda own, map: (encoded.append(1), whole(own, map))[1])
    found = measure_lines(ready_workspace, dataset, str(tiny_sd3), PLAN)
    assert found is not None and found.lost and len(found.seen) == 9 and len(encoded) == 6, "three were finished"
    assert np.asarray(Image.open(found.seen[0].picture)).shape == (64, 64, 3)
    assert f"leaves {found.kept:.0%} of the pixels" in found.words and "3 px or more" in found.try_this
    again = measure_lines(ready_workspace, dataset, str(tiny_sd3), PLAN)
    assert again is not None and again == found and len(encoded) == 6

    check(dataset, 64)
    (state,) = [one for one in fix.states(dataset) if one.finding == LINES_LOST]
    assert state.open >= 5 and "of the pixels of its lines are left" in fix.open_hits(dataset, LINES_LOST)[0].detail
    with pytest.raises(UserError, match="whole dataset"):
        fix.exclude(dataset, LINES_LOST)
    make_all(dataset, "scribble", {}, Control().token)
    check(dataset, 64)
    assert LINES_LOST not in [one.finding for one in fix.states(dataset)], "these maps were not looked at"


def test_what_to_try_is_the_conditions_own_setting(ready_workspace: Workspace) -> None:
    dataset = Dataset.open(ready_workspace.dataset_folder("mixed"))
    for kind, words in (("scribble", "raise Stroke width (now 4)"), ("canny", "set Size of the maps to 512")):
        make_all(dataset, kind, {}, Control().token)
        assert words in thicker_lines(Dataset.open(dataset.folder), 1024)


def test_the_command_line_looks_through_the_vae_of_a_base(
    ready_workspace: Workspace, tiny_sd3: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--workspace", str(ready_workspace.root), "check", "pairs", "--resolution", "64", "--base"]
    assert main([*start, str(tiny_sd3)]) == 0
    said = capsys.readouterr().out
    assert "of the pixels of their lines" in said and "map_lines_lost" in said and "through-vae" in said
    assert main([*start, str(tiny_base)]) == 0
    assert "ControlNets of this base read control images as pixels" in capsys.readouterr().out
