"""The declared settings of an image: what is made from the declarations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.inference.request import TryRequest
from engine.inference.settings import DrawSettings, SamplingOptions, declared, run_defaults

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_new_setting_needs_its_declaration_only(tmp_path: Path) -> None:
    """Form, command line, PNG, A1111 text, history, bounds and batches have it; see extra_setting.py."""
    command = [sys.executable, "-m", "tests.inference.extra_setting", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_setting_says_what_it_is() -> None:
    for name, one in declared().items():
        assert one.title and (one.help or one.slider), name
        assert one.a1111 == "" or one.a1111_control == "", name
        if one.slider is not None:
            low, high, step = one.slider
            assert one.problem(low) == one.problem(high) == "" and step > 0, name
        if one.default is not None:
            assert isinstance(one.default, one.kind) and one.problem(one.default) == "", name


def test_values_of_a_form_become_the_settings_own_type() -> None:
    settings = declared()
    assert settings["seed"].read(None) == 0 and settings["steps"].read(12.0) == 12
    assert settings["negative"].read(None) == "" and settings["guess"].read(None) is False
    assert settings["guidance"].read(7) == 7
    assert settings["second"].read(" ") is None
    assert settings["second"].read(' "~/nets/one" ') == Path.home() / "nets" / "one"


def test_bounds_in_words() -> None:
    settings = declared()
    assert settings["steps"].problem(1001) == "Sampling steps must be between 1 and 1,000."
    assert settings["width"].problem(32) == "Width must be between 64 and 2,048 px."
    assert settings["change"].problem(0) == "Denoising strength must be above 0 and at most 1."
    assert settings["guidance"].problem(float("nan")) != ""
    assert settings["sampler"].problem("fastest").startswith("There is no sampler called fastest; choose one of: ")
    assert settings["sampler"].problem("Euler a") == settings["sampler"].problem("euler_a") == ""


def test_a_run_gives_the_defaults_of_its_previews() -> None:
    drawn = {"sampling_steps": 9, "guidance_scale": 4.0, "strength": 0.5}
    config = RunConfig.model_validate({"model": {"clip_skip": 2}, "data": {"resolution": 768}, "validation": drawn})
    size = {"width": 768, "height": 768}
    assert run_defaults(config) == {
        "steps": 9,
        "guidance": 4.0,
        "strength": 0.5,
        "clip_skip": 2,
        "ingredients": "",
        **size,
    }


def test_what_is_sampled_and_what_is_requested_are_the_declared_settings() -> None:
    assert set(declared(SamplingOptions)) < set(declared(DrawSettings)) == set(declared(TryRequest))
