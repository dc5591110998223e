"""SIGKILL at random moments loses nothing that was saved, leaves nothing behind, and changes no bit of the result."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.runs.run import Run
from tests.compare_runs import assert_same_run
from tests.forked import Forks
from tests.training.kills import Trainings, kill_often, prepare

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


@pytest.mark.answers("The last checkpoint is half-written")
@pytest.mark.parametrize(("kills", "steps"), [(2, 12), pytest.param(50, 260, marks=pytest.mark.long)])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    tmp_path: Path, forks: Forks, kills: int, steps: int
) -> None:
    workspace, straight, killed = prepare(tmp_path, steps)
    trainings = Trainings(forks, workspace)
    kill_often(trainings, straight, 0)
    report = kill_often(trainings, killed, kills)
    assert report.completed and report.kills == kills
    assert_same_run(Run(straight), Run(killed))
