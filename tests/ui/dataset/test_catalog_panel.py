"""The panel with sets of images on the Dataset tab: what it lists, and that a set is read and selected."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.data.dataset_catalog import catalog_datasets, dataset_named
from engine.workspace.paths import Workspace
from tests.bases.hub import LocalHub, serving, use
from tests.data.tiny_sets import fill50k
from ui.dataset.catalog_panel import KIND, about_set, get_job, list_of_sets
from ui.page.context import AppContext

FILL = dataset_named("fill50k")


@pytest.fixture
def hub(photos: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving(FILL.id, fill50k(photos), "dataset") as running:
        use(running, tmp_path, monkeypatch)
        yield running


def test_a_set_is_downloaded_read_and_selected(workspace: Workspace, hub: LocalHub) -> None:
    context = AppContext(workspace)
    assert "coloured circles</b>: not downloaded" in list_of_sets(workspace, catalog_datasets())
    context.start_job(KIND, "Getting it", get_job(context, FILL))
    assert context.runner.wait(30) and context.runner.snapshot.outcome == "completed"
    assert context.focus_dataset == "fill50k" == context.config_of(context.draft)[0].data.dataset
    assert "fill50k: 3 images, 3 captions." in context.results[KIND].note
    assert "coloured circles</b>: downloaded" in list_of_sets(workspace, catalog_datasets())


def test_a_refused_download_fails_with_the_reason_and_changes_nothing(workspace: Workspace, hub: LocalHub) -> None:
    hub.refuse["/resolve/"] = (403, {"X-Error-Code": "GatedRepo"})
    context = AppContext(workspace)
    context.start_job(KIND, "Getting it", get_job(context, FILL))
    assert context.runner.wait(30) and context.runner.snapshot.failure is not None
    assert "accepted its terms" in context.runner.snapshot.failure.why
    assert KIND not in context.results and context.focus_dataset == ""


def test_each_set_says_what_it_teaches_and_its_licence() -> None:
    for one in catalog_datasets():
        text = about_set(one)
        assert one.licence_means in text and f"{one.images:,} images" in text
