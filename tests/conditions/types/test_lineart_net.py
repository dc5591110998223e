from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.conditions import registry
from engine.conditions.types.lineart_net import build, lineart_net, lineart_net_batch, load
from tests.conditions import tiny_models
from tests.conditions.types.test_types import photographs


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_both_weight_formats_work_on_batches(tmp_path: Path, ending: str) -> None:
    own = registry.resolve_parameters("lineart_net", {"model": str(tiny_models.lineart(tmp_path / f"net{ending}"))})
    images = [photographs()[0][:100, :161], photographs()[1][:163, :99], photographs()[2][:100, :161]]
    maps = lineart_net_batch(images, **own)
    assert [map.shape for map in maps] == [image.shape for image in images]
    for image, map in zip(images, maps, strict=True):
        assert np.abs(lineart_net(image, **own).astype(int) - map).max() <= 1 and len(np.unique(map)) > 10
    scorer = registry.get("lineart_net").scorer
    assert scorer is not None and scorer(maps[0], images[0], **own) == pytest.approx(1, abs=1e-3)
    doubled = lineart_net(images[0], model=own["model"], strength=2.0)
    assert np.abs(doubled.astype(int) - np.minimum(2 * maps[0].astype(int), 255)).max() <= 2


def test_the_full_net_has_the_layout_of_the_published_file() -> None:
    with torch.device("meta"):
        state = build().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert len(shapes) == 2 * (1 + 2 + 3 * 2 + 2 + 1)
    assert shapes["model0.1.weight"] == (64, 3, 7, 7) and shapes["model1.3.weight"] == (256, 128, 3, 3)
    assert shapes["model2.2.conv_block.5.weight"] == shapes["model2.0.conv_block.1.weight"] == (256, 256, 3, 3)
    assert shapes["model3.0.weight"] == (256, 128, 3, 3) and shapes["model4.1.weight"] == (1, 64, 7, 7)
    assert sum(value.numel() for value in state.values()) == 4_290_945


def test_the_output_follows_the_weights(tmp_path: Path) -> None:
    net = build(4, 1)
    with torch.no_grad():
        net.model4[1].weight.zero_()
        net.model4[1].bias.fill_(10.0)  # all paper
    torch.save(net.state_dict(), tmp_path / "paper.pth")
    assert not lineart_net(photographs()[0][:64, :64], model=str(tmp_path / "paper.pth"), strength=4.0).any()
    with torch.no_grad():
        net.model4[1].bias.fill_(-10.0)
    torch.save(net.state_dict(), tmp_path / "ink.pth")
    assert lineart_net(photographs()[0][:64, :64], model=str(tmp_path / "ink.pth"), strength=1.0).min() == 255


def test_an_unrelated_weights_file_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="model0"):
        load(tmp_path / "other.pth", "cpu")
