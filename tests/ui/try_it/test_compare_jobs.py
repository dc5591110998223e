"""Comparing checkpoints: reading the form, and the table of the grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.evaluation.grid import Column, Grid, RowLabel
from engine.workspace.paths import Workspace
from ui.page.context import AppContext
from ui.page.enlarge import served
from ui.try_it import compare_jobs
from ui.try_it.compare_jobs import WITHOUT, grid_request, size_text
from ui.try_it.grid_table import grid_html

FORM: dict[str, Any] = {
    "steps": [100, 300],
    "also": [WITHOUT],
    "images": [0, 2],
    "prompts": " a cat \n\na dog",
    "seeds": "0, 4-5",
    "strengths": "0.5; 1",
    "own": None,
    "negative": "",
    "sampling": 0,
    "guidance": 0,
}


def test_the_form_is_read_and_the_size_of_the_grid_is_shown() -> None:
    request = grid_request(FORM)
    assert (request.steps, request.without, request.live, request.prompts) == (
        (100, 300),
        True,
        False,
        ("a cat", "a dog"),
    )
    assert (request.seeds, request.strengths) == ((0, 4, 5), (0.5, 1.0))
    assert size_text(request).startswith("3 columns by 24 rows: 72 images")
    assert size_text(grid_request({**FORM, "prompts": "", "strengths": "", "seeds": ""})).startswith(
        "3 columns by 2 rows"
    )
    with pytest.raises(UserError, match="“many” was not understood"):
        grid_request({**FORM, "seeds": "many"})


@pytest.fixture
def grid() -> Grid:
    columns = (Column("without ControlNet", None, ""), Column("step 100", 100, "a"), Column("step 200", 200, "b"))
    rows = (RowLabel("held-out image 1", "a <b>cat</b>", 3, 0.5, "control", 64, 48),)
    return Grid("birds", "now", columns, rows, (("k1", "k2", None),), {}, ("step 200: <gone>",), best=100)


def test_the_table_marks_the_best_and_escapes_what_people_wrote(grid: Grid, tmp_path: Path) -> None:
    html = grid_html(grid, tmp_path)
    assert html.count("best according to the verdict") == 1
    assert html.index("step 100") < html.index("best according to the verdict") < html.index("step 200</th>")
    assert "a &lt;b&gt;cat" in html and "<b>cat" not in html and "&lt;gone&gt;" in html
    assert html.count("<img src=") == 3 and html.count("not drawn") == 1
    assert f"src='{served(tmp_path / 'k2.webp')}'" in html


def test_addresses_of_odd_folders_are_quoted() -> None:
    assert served(Path("/tmp/a b'c#d/k.webp")) == "gradio_api/file=/tmp/a%20b%27c%23d/k.webp"


def test_a_selection_that_nobody_changed_follows_the_checkpoints_of_a_run_in_progress() -> None:
    """A page that was open from the first checkpoint on showed that one alone when the run had finished."""
    assert compare_jobs.kept_selection([500], [500], [500, 1000, 2000], {500, 1000, 2000}) == [500, 1000, 2000]
    assert compare_jobs.kept_selection([500], [500, 1000], [1000, 2000], {500, 1000, 2000}) == [500], "the user's own"
    assert compare_jobs.kept_selection([500], [500, 1000], [1000, 2000], {1000, 2000}) == [1000, 2000], "it is gone"
    assert compare_jobs.kept_selection([], [], [500], {500}) == [500]


def test_a_run_that_is_gone_has_no_grid(workspace: Workspace) -> None:
    context = AppContext(workspace)
    assert compare_jobs.grid_of(context, "gone") is None
    assert compare_jobs.checkpoint_choices(context, None) == ([], [])
    assert compare_jobs.image_choices(context, "gone") == []
