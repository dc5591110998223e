"""What each trainable's facts say is what it does: trained weights, files, gradient checkpointing, a control net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.shapes import count
from engine.config import RunConfig, parse
from engine.config.presets import PRESETS_FOLDER, load_preset, resolve
from engine.estimate.memory import predict_from
from engine.families.files import LAYOUTS, read_configs
from engine.families.registry import detect
from engine.families.sizes import Sizes
from engine.training.setup import build_nets
from engine.tuning.build import BUILDERS
from engine.tuning.facts import CASES, facts_of
from engine.tuning.trainable import Placement, Trainable
from engine.tuning.trainable_facts import TrainableFacts

CPU = torch.device("cpu")
HEADERS = 64 * 1024
"""Bytes of the files' headers and of a config, at most."""
KINDS: dict[str, dict[str, Any]] = {
    "controlnet": {},
    "control_lora": {"model": {"control_lora_rank": 4}},
    "unlocked_decoder": {"objective": {"sd_locked": False}},
    "unlocked_decoder with a Control-LoRA": {"objective": {"sd_locked": False}, "model": {"control_lora_rank": 4}},
    "lora": {"tuning": {"what": "lora", "rank": 4}},
    "lora of attention": {"tuning": {"what": "lora", "rank": 4, "layers": "attention"}},
    "lora of linear layers": {"tuning": {"what": "lora", "rank": 4, "layers": "linear"}},
    "new_word": {"tuning": {"what": "word", "word": "zrp", "begun_as": "red", "vectors": 2}},
    "whole_base": {"tuning": {"what": "base"}},
    "svdiff": {"tuning": {"what": "svdiff"}},
}


@pytest.fixture(params=KINDS)
def config(request: pytest.FixtureRequest) -> RunConfig:
    """Settings that ask for the trainable, in bf16 with gradient checkpointing of what is trained."""
    train = {"precision": "bf16", "gradient_checkpointing": "controlnet"}
    asked = parse({**KINDS[request.param], "train": train})
    assert facts_of(asked).kind == request.param.split()[0]
    return asked


@pytest.fixture
def built(config: RunConfig, tiny_base: Path, tmp_path: Path) -> tuple[Any, Trainable, Sizes]:
    """The denoiser, the trainable, and their sizes as the estimate counts them."""
    base, family = str(tiny_base), detect(str(tiny_base))
    place = Placement(CPU, torch.bfloat16)
    denoiser, trainable = build_nets(tmp_path, config, family, base, place)
    return denoiser, trainable, family.facts.count(family.denoiser_config(base), 64, 77, facts_of(config).learned)


def trained_by(facts: TrainableFacts, sizes: Sizes) -> int:
    return sum(net.trained for net in (*facts.trained_beside(sizes), *facts.trained_of_base(sizes)))


def test_its_facts_are_what_it_does(config: RunConfig, built: tuple[Any, Trainable, Sizes], tmp_path: Path) -> None:
    (denoiser, trainable, sizes), facts = built, facts_of(config)
    learning = sum(parameter.numel() for parameter in trainable.parameters() if parameter.requires_grad)
    assert learning == trained_by(facts, sizes)
    assert (trainable.control_net is not None) == facts.learned.control == bool(trainable.nets)
    of_base = [
        p for name, p in denoiser.named_parameters() if not name.endswith((".up", ".down", ".shift"))
    ]  # but for factors
    frozen = not any(parameter.requires_grad for parameter in of_base)
    assert frozen == facts.base_is_frozen
    covers = [net is not None and net.is_gradient_checkpointing for net in (trainable.control_net, denoiser)]
    assert tuple(covers) == facts.checkpointed("controlnet")

    for average, numbers in ((False, facts.saved_weights(sizes)), (True, facts.averaged_weights(sizes))):
        folder = tmp_path / f"saved {average}"
        folder.mkdir()
        assert all(path.exists() for path in trainable.save(folder, average=average))
        written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert 4 * numbers <= written <= 4 * numbers + HEADERS
    assert facts.trains and facts.kind in BUILDERS and len(CASES) >= 3


def whole_xl(preset: str, text_rate: float) -> RunConfig:
    """A preset's settings for a whole XL."""
    layers = load_preset(PRESETS_FOLDER / f"{preset}.toml").layers("sdxl", "base")
    return resolve(*layers, ("test", {"tuning": {"what": "base", "text_rate": text_rate}}))[0]


def test_text_encoders_updated_in_the_backward_pass_keep_few_gradients() -> None:
    xl = read_configs(LAYOUTS / "sdxl")
    alone, with_text = (predict_from(whole_xl("24gb", rate), xl).training for rate in (0.0, 1e-6))
    assert whole_xl("24gb", 1e-6).optim.in_backward and with_text["gradients"] == alone["gradients"]
    assert with_text["text encoder"] > 1.4 * 2**30


@pytest.mark.long
@pytest.mark.parametrize(("preset", "family"), [("16gb", "sd1"), ("16gb", "sdxl")])
def test_a_step_of_a_whole_base_with_its_text_encoders_needs_what_is_estimated(preset: str, family: str) -> None:
    counted = count(preset, family, "base", tuning={"text_rate": 1e-6})
    assert sum(counted.estimated.training.values()) == pytest.approx(counted.training, rel=0.03)
