"""The card of the HTTP API: which runs may be computed by ONNX Runtime, and what is refused before a server starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.errors import UserError
from engine.machine.onnx_packages import DESCRIPTION, TO_RUN
from engine.runs.run import write_run
from engine.serving.served_net import ServedNet, computed_by
from engine.workspace.paths import Workspace
from ui.export.serving_panel import may_use_onnx
from ui.page.context import AppContext

Installed = Callable[..., None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Says which of the optional packages are installed."""

    def only(*there: str) -> None:
        absent = lambda names: [name for name in names if name not in there]  # noqa: E731
        for module in ("engine.machine.onnx_packages", "ui.export.serving_panel"):
            monkeypatch.setattr(f"{module}.missing_packages", absent)

    return only


def write(workspace: Workspace, name: str, base: Path) -> Path:
    config = RunConfig().model_dump(mode="json")
    config["model"] |= {"base": str(base)}
    write_run(workspace.runs / name, {"config": config, "origins": {}})
    return workspace.runs / name


def test_the_engine_is_offered_where_an_export_in_onnx_exists_or_can_be_made(
    workspace: Workspace, tiny_base: Path, tiny_sd3: Path, installed: Installed
) -> None:
    runs = [write(workspace, name, base) for name, base in (("circles", tiny_base), ("transformer", tiny_sd3))]
    context = AppContext(workspace)
    installed("onnx", "onnxruntime", "onnxscript")
    assert [may_use_onnx(context, name) for name in ("circles", "transformer", "gone", None)] == [True, *[False] * 3]
    installed(*TO_RUN)
    assert not may_use_onnx(context, "circles")  # nothing is there to compute, and nothing can be made
    (runs[0] / "exports" / "mine_onnx").mkdir(parents=True)
    (runs[0] / "exports" / "mine_onnx" / DESCRIPTION).write_text("{}", encoding="utf-8")
    assert may_use_onnx(context, "circles")
    installed()
    assert not may_use_onnx(context, "circles")


def test_an_engine_that_cannot_compute_is_refused_before_the_server_starts(
    workspace: Workspace, tiny_base: Path, installed: Installed
) -> None:
    served = ServedNet("circles", workspace.runs / "circles" / "checkpoints" / "step-000010" / "controlnet", "demo")
    assert computed_by(served, "torch").defaults == {"engine": "torch"}
    installed()
    with pytest.raises(UserError, match="cannot be drawn with ONNX Runtime") as raised:
        computed_by(served, "onnx")
    assert "requirements-onnx.txt" in raised.value.try_this
