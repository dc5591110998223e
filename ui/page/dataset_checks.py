"""The dataset check that runs by itself, and its look at the next run's control images through the base's VAE."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from engine.errors import UserError
from engine.jobs.control import CancelToken, OnProgress
from ui.page.auto_check import AutoCheck
from ui.page.next_run import NextRun


class DatasetChecks(NextRun):
    """The part of the context that checks datasets. Methods may be called from any thread."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        """
        Args:
            busy: returns whether a job is running, for which the check pauses.
        """
        self.auto_check = AutoCheck(busy, self._check_dataset, self.files_changed)
        self.seen_through_vae = ""
        """The dataset whose control images the automatic check looks at through the next run's VAE."""
        self._through_vae: Any = None

    @abstractmethod
    def files_changed(self) -> None:
        """Read the folders again for the next view."""

    def check_by_itself(self, dataset: str) -> None:
        """Check a dataset with new images or maps in the background, while no job runs. Demo sets need no check."""
        from engine.data.dataset import Dataset
        from engine.demo.sets import is_of_demo_shapes

        try:
            source = Dataset.open(self.workspace.dataset_folder(dataset)).source
        except UserError:
            return  # it does not exist: the job that should have made it reports why
        if not is_of_demo_shapes(self.workspace, source):
            self.auto_check.begin(dataset)

    def _check_dataset(self, name: str, token: CancelToken, progress: OnProgress, workers: int) -> None:
        from engine.data.crop_plan import CropPlan
        from engine.data.dataset import Dataset
        from engine.data.doctor.check import check
        from engine.data.doctor.lost_lines import measure_lines
        from engine.demo.sets import is_of_demo_shapes

        config = self.config_of(self.draft)[0]
        data = config.data
        dataset = Dataset.open(self.workspace.dataset_folder(name))
        if not is_of_demo_shapes(self.workspace, dataset.source):
            check(dataset, data.resolution, data.held_out, token, progress, workers)
        if name == data.dataset:
            measure_lines(self.workspace, dataset, config.model.base, CropPlan.of(data), token, progress)

    def measure_lines_of_next_run(self) -> None:
        """Look at the next run's control images through the base's VAE in the background, if its nets read latents.

        This happens once for each base, dataset and crop settings: after a cancel it does not start again.
        """
        from engine.data.crop_plan import CropPlan
        from engine.data.dataset import Dataset
        from engine.data.doctor.lost_lines import place_of
        from engine.data.through_vae import pairs_to_reconstruct, read_reconstruction

        config = self.config_of(self.draft)[0]
        located, plan = place_of(self.workspace, config.model.base), CropPlan.of(config.data)
        self.seen_through_vae = config.data.dataset if located else ""
        if not located or not config.data.dataset:
            return
        dataset = Dataset.open(self.workspace.dataset_folder(config.data.dataset))
        key = (located, plan, dataset.name, dataset.condition)
        if key == self._through_vae or dataset.condition is None:
            return
        self._through_vae = key
        if any(
            read_reconstruction(self.workspace.cache, located, dataset, one, plan) is None
            for one in pairs_to_reconstruct(dataset)
        ):
            self.auto_check.begin(dataset.name)
