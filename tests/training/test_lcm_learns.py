"""An LCM-LoRA under the demo's ControlNet: two steps follow the control image as well as twenty. Minutes long."""

from __future__ import annotations

import pytest

from benchmarks.fewer_steps import LORA, NET, measure, scores, trained
from engine.bases.merging import ready_base
from engine.evaluation.adherence import normalize
from engine.export import export
from engine.workspace.paths import Workspace


@pytest.mark.long
def test_two_steps_follow_the_control_image_as_well_as_twenty(workspace: Workspace) -> None:
    """Adherence of 64 held-out pairs (docs/fewer-steps.md has the figures)."""
    net = trained(workspace, NET, "controlnet", {})
    run = trained(workspace, LORA, "lcm", {"model": {"controlnet": str(net.checkpoints()[-1].folder)}})
    base = ready_base(workspace, "demo")
    made = export(run.checkpoints()[-1].folder, "single_file", run.exports, LORA, "fp32", base=base)
    found = measure(workspace, net, made.path, few=(1, 2))
    adherence, gap = found[2]
    assert adherence.value > 0.8 and gap.value > -0.05, found
    without = normalize(scores(workspace, net, None, 1, 1.0, "lcm"))  # two steps are easy for this base as it is
    assert without is not None and found[1][0].value > without.value, found
