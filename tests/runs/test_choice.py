"""Which checkpoint is used, and what is said where a newer one is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.errors import UserError
from engine.nets.controlnet_files import locate_controlnet
from engine.nets.reading import read_net_file
from engine.nets.starting_controlnet import why_not_start
from engine.runs.choice import choose_checkpoint, left_out
from engine.runs.run import Run
from engine.training.new_run import missing
from engine.workspace.paths import Workspace
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


def test_a_damaged_checkpoint_or_a_run_is_refused_as_a_net_with_the_one_to_choose(
    loud_controlnet: Path, tiny_base: Path, workspace: Workspace
) -> None:
    folder = workspace.runs / "2026-01-01_r"
    for step in (4, 8, 12):
        write_checkpoint(folder / "checkpoints" / f"step-{step:06d}", loud_controlnet, step=step)
    (folder / "run.json").write_text(json.dumps({"config": RunConfig().model_dump(mode="json")}), encoding="utf-8")
    whole, short, unfinished = sorted((folder / "checkpoints").iterdir())
    for file in short.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:5000])
    (unfinished / "checkpoint.json").unlink()
    for path, what, why in (
        (short, "The checkpoint step-000008 cannot be used.", "shorter than it was written"),
        (short / "controlnet", "The checkpoint step-000008 cannot be used.", "shorter than it was written"),
        (unfinished, "The checkpoint step-000012 cannot be used.", "it was not written completely"),
        (folder, "2026-01-01_r is a run.", "step-000008 cannot be used: "),
    ):
        with pytest.raises(UserError) as refused:
            locate_controlnet(path)
        assert refused.value.what == what and why in refused.value.why
        assert refused.value.try_this == f"Choose {whole}."
        with pytest.raises(UserError, match=what):
            read_net_file(path)
        config = RunConfig.model_validate({"model": {"base": str(tiny_base), "controlnet": str(path)}})
        assert any(f"The ControlNet to start from: {what}" in said for said in missing(workspace, config))
    assert locate_controlnet(whole).parent == whole
    started = RunConfig.model_validate({"model": {"base": str(tiny_base), "controlnet": str(whole)}})
    assert not any("to start from" in said for said in missing(workspace, started))


def test_a_damaged_file_to_start_from_is_told_before_start(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"<html>not found</html>")
    assert "a.safetensors, cannot be read: " in why_not_start(str(tmp_path / "a.safetensors"))
    assert "was not found" in why_not_start(str(tmp_path / "b.safetensors"))
    assert "was not found" in why_not_start(str(tmp_path / "b"))
    assert "is not a ControlNet that can be used here" in why_not_start(str(tmp_path))
