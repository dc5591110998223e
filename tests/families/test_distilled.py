"""Turbo, Lightning, Hyper and LCM bases are recognized, and drawn with few steps and no guidance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.config.presets import resolve
from engine.families.distilled import Distilled, recognize, usual_settings
from engine.families.registry import describe, detect
from engine.inference.settings import run_defaults
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.view import Draft


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("stabilityai/sdxl-turbo", "Turbo", 4),
        ("dreamshaperXL_v21TurboDPMSDE.safetensors", "Turbo", 4),
        ("sdxl_lightning_8step.safetensors", "Lightning", 8),
        ("juggernautXL_lightning.safetensors", "Lightning", 4),
        ("Hyper-SDXL-1step-unet.safetensors", "Hyper", 1),
        ("someHyperXL.safetensors", "Hyper", 8),
        ("SimianLuo/LCM_Dreamshaper_v7", "LCM", 6),
        ("dmd2-sdxl-4steps", "DMD", 4),
        ("Hyper-Realistic_v3.safetensors", "", 0),
        ("hyperrealistic.safetensors", "", 0),
        ("turbocharged.safetensors", "", 0),
        ("lightningrod/plain-xl", "", 0),
    ],
)
def test_a_distilled_base_is_known_by_the_words_of_its_name(name: str, kind: str, steps: int) -> None:
    assert recognize(name) == (Distilled(kind, steps) if kind else None)


def test_a_familys_own_turbo_takes_its_own_number_of_steps(tiny_zimage: Path, tmp_path: Path) -> None:
    for name, steps in (("Z-Image-Turbo", 8), ("some-turbo-4steps", 4), ("Z-Image", 0)):
        (tmp_path / name).symlink_to(tiny_zimage, target_is_directory=True)
        assert recognize(str(tmp_path / name)) == (Distilled("Turbo", steps) if steps else None)


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}, "Turbo"),
        ({"_class_name": "LCMScheduler"}, "LCM"),
        ({"_class_name": "TCDScheduler"}, "Hyper"),
        ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "leading"}, ""),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, ""),
    ],
)
def test_or_by_its_scheduler(tmp_path: Path, schedule: dict[str, Any], kind: str) -> None:
    (tmp_path / "plain" / "scheduler").mkdir(parents=True)
    (tmp_path / "plain" / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule), encoding="utf-8")
    found = recognize(str(tmp_path / "plain"))
    assert (found.kind if found else "") == kind


def test_previews_and_try_it_of_its_runs_draw_few_steps_without_guidance(tiny_base: Path, workspace: Workspace) -> None:
    base = workspace.models / "some-turbo"
    shutil.copytree(tiny_base, base)
    assert "distilled (Turbo: 4 steps at guidance 1)" in describe(str(base))
    context = AppContext(workspace)
    draft = Draft("24gb", {"model": {"base": "some-turbo"}})
    config, origins = context.config_of(draft)
    assert (config.validation.sampling_steps, config.validation.guidance_scale) == (4, 1.0)
    assert origins["validation.sampling_steps"] == "distilled base"
    defaults = run_defaults(config)
    assert (defaults["steps"], defaults["guidance"]) == (4, 1.0)

    # What a preset or the user sets stays; so does every other base.
    own = {"validation": {"sampling_steps": 7}}
    assert resolve(*usual_settings(workspace, "some-turbo"), ("you", own))[0].validation.sampling_steps == 7
    assert usual_settings(workspace, str(tiny_base)) == usual_settings(workspace, "demo") == []

    # Samplers count their timesteps from the last one, as in distillation.
    family = detect(str(base))
    scheduler = family.default_scheduler(str(base), {})
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
