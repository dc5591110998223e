"""An LCM-LoRA under the demo's ControlNet: two steps follow the control image as well as twenty. Minutes long."""

from __future__ import annotations

import pytest

from benchmarks.fewer_steps import LORA, NET, measure, trained
from engine.bases.merging import ready_base
from engine.evaluation.adherence import compare, normalize
from engine.export import export
from engine.workspace.paths import Workspace


@pytest.mark.long
def test_two_steps_follow_the_control_image_as_well_as_twenty(workspace: Workspace) -> None:
    """Adherence of 64 held-out pairs (docs/fewer-steps.md has the figures)."""
    net = trained(workspace, NET, "controlnet", {})
    run = trained(workspace, LORA, "lcm", {"model": {"controlnet": str(net.checkpoints()[-1].folder)}})
    base = ready_base(workspace, "demo")
    made = export(run.checkpoints()[-1].folder, "single_file", run.exports, LORA, "fp32", base=base)
    usual, few = measure(workspace, net, made.path, few=(1, 2))
    two, gap = normalize(few[2][0]), compare(usual, few[2][0])
    assert two is not None and gap is not None and two.value > 0.8 and gap.value > -0.05, (two, gap)
    fast, bare = few[1]  # two steps are easy for this base as it is
    help_in_one = compare(bare, fast)
    assert help_in_one is not None and help_in_one.low > 0, help_in_one
