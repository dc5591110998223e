"""Averages of checkpoints are what the arithmetic says, and trimming takes nothing but the resume state."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from engine.errors import UserError
from engine.export import export
from engine.export.checkpoint_average import average_checkpoints, averaged_checkpoints, ema_shares
from engine.runs.checkpoints import Checkpoint, list_checkpoints, read_checkpoint
from engine.runs.cleanup import trim
from tests.checkpoint_folder import write_checkpoint

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def run(loud_controlnet: Path, tmp_path: Path) -> Path:
    """Three checkpoints, the net times 1, 2 and 4, each with a resume state."""
    folder = tmp_path / "run"
    for step, factor in ((100, 1), (200, 2), (400, 4)):
        made = write_checkpoint(folder / "checkpoints" / f"step-{step:06d}", loud_controlnet, step=step)
        weights = load_file(loud_controlnet / WEIGHTS)
        save_file({n: w * factor for n, w in weights.items()}, made / "controlnet" / WEIGHTS, {"format": "pt"})
        (made / "training_state").mkdir()
        (made / "training_state" / "state.json").write_text("{}" * 500, encoding="utf-8")
        about = json.loads((made / "checkpoint.json").read_text(encoding="utf-8"))
        about["files"]["training_state/state.json"] = 1000
        (made / "checkpoint.json").write_text(json.dumps(about), encoding="utf-8")
    assert all(checkpoint.resumable for checkpoint in list_checkpoints(folder))
    return folder


def net(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "controlnet" / WEIGHTS)


def test_the_plain_average(run: Path, loud_controlnet: Path) -> None:
    made = average_checkpoints(list_checkpoints(run), run / "merged")
    single = load_file(loud_controlnet / WEIGHTS)
    assert all(torch.allclose(weight, single[name] * 7 / 3) for name, weight in net(made).items())
    checkpoint = read_checkpoint(made)
    assert checkpoint is not None and not checkpoint.resumable and not checkpoint.has_ema
    assert checkpoint.about["merged"]["steps"] == [100, 200, 400]
    assert [c.folder for c in averaged_checkpoints(run)] == [made]
    assert len(list_checkpoints(run)) == 3  # the run's own checkpoints stay what they were


def test_only_one_weight_at_a_time_is_in_fp64(run: Path) -> None:
    """Of an XL net the sums would take 10 GB, beside 5 GB for each file."""

    class Largest(TorchDispatchMode):
        alive: ClassVar[dict[int, int]] = {}
        peak = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
                storage = made.untyped_storage()
                if storage._cdata not in self.alive:
                    self.alive[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, storage._cdata)
                self.peak = max(self.peak, sum(self.alive.values()))
            return made

    with Largest() as counted:
        made = average_checkpoints(list_checkpoints(run), run / "merged")
    largest = max(weight.numel() for weight in net(made).values())
    assert 0 < counted.peak <= 3 * 8 * largest, "its sum, and the parts of it that are added"


def test_an_average_made_afterwards_is_the_one_that_would_have_run_along() -> None:
    """Weights that stay the same between two saves: then it is the very same number."""
    decay, values = 0.99, {100: 1.0, 200: 2.0, 400: 4.0}
    running = values[100]  # before the first save nothing is known but the first save
    for step in range(1, 401):
        current = next(value for saved, value in values.items() if step <= saved)
        running = decay * running + (1 - decay) * current
    fakes: list[Any] = [type("C", (), {"step": step})() for step in values]
    shares = ema_shares(fakes, decay)
    assert sum(shares) == pytest.approx(1)
    assert sum(s * v for s, v in zip(shares, values.values(), strict=True)) == pytest.approx(running)


def test_later_checkpoints_count_more(run: Path, loud_controlnet: Path) -> None:
    made = average_checkpoints(list_checkpoints(run), run / "merged", "calm", "ema", decay=0.99)
    first, second = 0.99**300, 0.99**200
    factor = first * 1 + (second - first) * 2 + (1 - second) * 4
    single = load_file(loud_controlnet / WEIGHTS)
    assert all(torch.allclose(weight, single[name] * factor) for name, weight in net(made).items())
    assert made.name == "calm"


def test_an_average_is_exported_like_any_checkpoint(run: Path, tmp_path: Path) -> None:
    made = export(
        average_checkpoints(list_checkpoints(run)[1:], run / "merged"), "single_file", tmp_path / "out", "mine", "fp32"
    )
    assert torch.equal(load_file(made.path)["conv_in.bias"], net(next((run / "merged").iterdir()))["conv_in.bias"])


def test_what_cannot_be_averaged(run: Path, loud_controlnet: Path, tmp_path: Path) -> None:
    checkpoints = list_checkpoints(run)
    with pytest.raises(UserError, match="at least two"):
        average_checkpoints(checkpoints[:1], run / "merged")
    with pytest.raises(UserError, match="1 is not a valid decay"):
        average_checkpoints(checkpoints, run / "merged", kind="ema", decay=1)
    other = write_checkpoint(tmp_path / "step-000009", loud_controlnet, family="sdxl")
    stranger = read_checkpoint(other)
    assert isinstance(stranger, Checkpoint)
    with pytest.raises(UserError, match="different families or shapes"):
        average_checkpoints([*checkpoints, stranger], run / "merged")
    weights = net(checkpoints[0].folder)
    weights["conv_in.bias"][0] = float("nan")
    save_file(weights, checkpoints[0].folder / "controlnet" / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match="One of them is broken"):
        average_checkpoints(checkpoints, run / "merged")
    assert not (run / "merged").exists()
    average_checkpoints(checkpoints[1:], run / "merged", "mine")
    with pytest.raises(UserError, match="already exists"):
        average_checkpoints(checkpoints[1:], run / "merged", "mine")


def test_a_full_disk_leaves_no_half_average(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.export.checkpoint_average.save_file", fill)
    with pytest.raises(UserError, match="not averaged.*No space"):
        average_checkpoints(list_checkpoints(run), run / "merged")
    assert not list((run / "merged").iterdir())


def test_trimming_keeps_the_weights_and_the_newest_state(run: Path) -> None:
    before = [net(checkpoint.folder)["conv_in.bias"] for checkpoint in list_checkpoints(run)]
    assert trim(run) == (2, 2000)
    after = list_checkpoints(run)
    assert [checkpoint.resumable for checkpoint in after] == [False, False, True]
    assert all(torch.equal(a, net(c.folder)["conv_in.bias"]) for a, c in zip(before, after, strict=True))
    assert trim(run) == (0, 0)
    assert trim(run, keep=0) == (1, 1000)
