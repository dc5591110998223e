"""Which checkpoint is used, and what is said where a newer one is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.errors import UserError
from engine.runs.choice import choose_checkpoint, left_out
from engine.runs.run import Run
from tests.checkpoint_folder import write_checkpoint


def test_a_damaged_newer_checkpoint_is_told(loud_controlnet: Path, tmp_path: Path) -> None:
    folder = tmp_path / "2026-01-01_r"
    for step in (4, 8):
        write_checkpoint(folder / "checkpoints" / f"step-{step:06d}", loud_controlnet, step=step)
    (folder / "run.json").write_text(
        json.dumps({"config": RunConfig().model_dump(mode="json"), "condition": {}}), encoding="utf-8"
    )
    run = Run(folder)
    assert choose_checkpoint(run)[0].step == 8 and choose_checkpoint(run)[1] == []
    for file in (folder / "checkpoints" / "step-000008").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:5000])
    chosen, said = choose_checkpoint(run)
    assert left_out(folder, chosen) == said and "Step 4 is used" in said[0]
    assert chosen.step == 4 and "step-000008 cannot be used" in said[0] and "Step 4 is used instead" in said[0]
    assert choose_checkpoint(run, 4)[1] == []
    with pytest.raises(UserError, match="shorter than it was written"):
        choose_checkpoint(run, 8)
    with pytest.raises(UserError, match="of step 5"):
        choose_checkpoint(run, 5)
