"""The abstract class of a job that can wait in the queue, and the report of what it has made.

The large libraries are imported when a job runs. Whether a dataset, a run or a checkpoint exists is checked when the
job's turn comes, since an earlier job may make it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from engine.config import Section
from engine.jobs.control import Token
from engine.jobs.runner import Emit
from engine.jobs.snapshot import JobKind, JobSnapshot, Outcome
from engine.workspace.paths import Workspace


@dataclass(frozen=True)
class JobReport:
    """What a job has made."""

    outcome: Outcome
    words: str
    where: str = ""
    """The file or folder that was made."""
    dataset: str = ""
    """The dataset that was made or changed."""
    run: str = ""
    """The run that was trained, or whose checkpoint was used."""


class QueuedJob(Section, ABC):
    """The settings of a job, and the job itself. Immutable; unknown keys are errors."""

    kind: ClassVar[str]
    """Its name in the queue's files and on the command line."""
    job_kind: ClassVar[JobKind]

    @property
    @abstractmethod
    def title(self) -> str:
        """What it does, with its object: "Training birds"."""

    @abstractmethod
    def do(self, workspace: Workspace, mark: str, token: Token, emit: Emit) -> JobReport:
        """Run the job. What an earlier attempt of the same entry has finished is not repeated.

        Args:
            mark: the entry's id, by which a run is found that an earlier attempt has begun.

        Raises:
            UserError, Cancelled.
        """

    def begun(self, workspace: Workspace, mark: str) -> JobSnapshot | None:
        """What pages show before the first event: the curves of a resumed run."""
        return None

    def expected_seconds(self, workspace: Workspace) -> float:
        """How long it is expected to take. 0: not known."""
        return 0.0
