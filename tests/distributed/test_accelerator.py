"""What of accelerate's configuration is taken, and what is refused before anything is divided."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import PartialState

from engine.config import parse
from engine.distributed import accelerator as acceleration
from engine.distributed.accelerator import accelerator_for, check_shardable
from engine.distributed.agreement import agree_on_precision
from engine.distributed.parallel import Parallel
from engine.errors import UserError

BASE = {"model": {"base": "x"}, "data": {"dataset": "x"}, "optim": {"ema_decay": 0.0}, "train": {"precision": "fp32"}}


class Two:
    world_size = 2


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As one of two processes that accelerate has set up for DeepSpeed."""
    monkeypatch.setattr(acceleration.group, "current", Two)
    monkeypatch.setattr(acceleration, "PartialState", type("State", (), {}))  # the real one outlives the test
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    yield
    PartialState._reset_state()  # it is this process's, and tests that come later are alone


def ask(messages: list[Any] | None = None, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    config = parse({**BASE, **changes})
    return accelerator_for(config, dtype, True, (messages if messages is not None else []).append)


def test_alone_nothing_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert ask()[1] is Parallel


@pytest.mark.parametrize("stage", [0, 1])
def test_stages_that_divide_no_gradients_are_refused(stage: int, two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", str(stage))
    with pytest.raises(UserError, match=f"stage {stage} of ZeRO") as caught:
        ask()
    assert "zero_stage: 2" in caught.value.try_this


@pytest.mark.parametrize("text", ["{}", "{not json", None])
def test_a_file_of_deepspeeds_that_cannot_be_used_is_reported(
    text: str | None, two: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ds.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    with pytest.raises(UserError, match="DeepSpeed's configuration cannot be used"):
        ask()


def test_of_deepspeeds_file_the_runs_own_settings_are_put_aside_with_words(
    two: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"zero_optimization": {"stage": 3}, "optimizer": {"type": "Adam"}, "fp16": {"enabled": True}}
    given |= {"gradient_clipping": 9.0, "train_batch_size": 64}
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(given), encoding="utf-8")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    made: dict[str, Any] = {}

    class Made(Exception):
        pass

    def accelerator(**settings: Any) -> None:
        made.update(settings["deepspeed_plugin"].deepspeed_config)
        raise Made

    monkeypatch.setattr(acceleration, "Accelerator", accelerator)  # DeepSpeed itself may not be installed
    messages: list[Any] = []
    with pytest.raises(Made):
        ask(messages, train={"precision": "fp32", "batch_size": 3}, optim={"ema_decay": 0.0, "max_grad_norm": 0.5})
    assert "optimizer, fp16" in messages[0].text
    assert made["zero_optimization"]["stage"] == 3
    assert (made["gradient_clipping"], made["train_batch_size"], made["gradient_accumulation_steps"]) == (0.5, 6, 1)
    assert made["bf16"] == {"enabled": False} and "optimizer" not in made and "fp16" not in made


def test_what_cannot_be_divided_is_named_at_once(two: None) -> None:
    with pytest.raises(UserError, match="by DeepSpeed") as caught:
        ask(optim={"ema_decay": 0.9, "optimizer": "adafactor"}, train={"precision": "fp16"}, dtype=torch.float16)
    assert all(
        word in caught.value.why for word in ("ema_decay", "adafactor", "fp16 (only bf16 and fp32 can be sharded)")
    )


def test_what_is_computed_in_decides_and_not_what_was_asked_for(two: None) -> None:
    """A card without bf16 makes a run of it fp16; on a processor fp16 becomes fp32."""
    with pytest.raises(UserError, match="by DeepSpeed") as caught:
        ask(train={"precision": "bf16"}, dtype=torch.float16)
    assert "bf16 was requested, but at least one card does not support it" in caught.value.why
    check_shardable(parse({**BASE, "train": {"precision": "fp16"}}), torch.float32, "FSDP")


@pytest.mark.parametrize(
    ("named", "agreed", "words"),
    [
        (["bf16", "fp16"], "fp16", "can compute in bf16; all processes use fp16"),
        (["bf16", "bf16"], "bf16", ""),
        (["bf16", "fp16", "fp32"], "fp32", "all processes use fp32"),
        (["fp16", "bf16"], "fp16", "this card's own words"),
    ],
)
def test_unlike_cards_agree_on_a_precision(named: list[str], agreed: str, words: str) -> None:
    """The first process speaks."""
    group: Any = SimpleNamespace(gather=lambda mine: named)
    precision, remark = agree_on_precision(group, named[0], "" if named[0] == "bf16" else "this card's own words")
    assert precision == agreed and (words in remark if words else remark == "")
