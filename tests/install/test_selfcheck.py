"""The self-check computes for real, on the card that the app will use."""

from __future__ import annotations

import pytest
import torch

from engine.install import selfcheck
from engine.machine import cards, device


def test_the_processor_passes_and_a_wrong_product_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert selfcheck.check_torch("cpu") == "the processor"
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda one, other: one)
    with pytest.raises(RuntimeError, match="a matrix product on cpu gave a wrong result"):
        selfcheck.check_torch("cpu")


def test_the_card_is_the_one_that_the_app_uses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one may be a graphics part that PyTorch has no kernels for."""
    order: list[str] = []
    monkeypatch.setattr(cards, "use_one", lambda: order.append("chosen"))
    monkeypatch.setattr(device, "torch_device", lambda: (order.append("asked"), device.PROCESSOR)[1])
    assert selfcheck.main(["card"]) == 1
    assert order == ["chosen", "asked"]
    assert "sees no card" in capsys.readouterr().out.splitlines()[-1]
