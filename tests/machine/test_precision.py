"""Which precision a device can compute in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.machine.precision import usable_precision


@pytest.mark.parametrize(("wanted", "usable"), [("fp16", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_a_processor_computes_in_fp32_where_fp16_is_wanted(wanted: str, usable: str) -> None:
    precision, remark = usable_precision(wanted, torch.device("cpu"))
    assert precision == usable and bool(remark) == (wanted != usable)


def test_each_card_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two unlike cards, in a thread where torch would look at the first."""
    current: list[Any] = [0]

    class Chosen:
        def __init__(self, device: torch.device) -> None:
            self._device = device

        def __enter__(self) -> None:
            current.append(self._device.index)

        def __exit__(self, *_: Any) -> None:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", Chosen)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[-1] == 0)
    assert usable_precision("bf16", torch.device("cuda:0")) == ("bf16", "")
    assert usable_precision("bf16", torch.device("cuda:1"))[0] == "fp16"
    assert usable_precision("fp16", torch.device("cuda:1")) == ("fp16", "")
