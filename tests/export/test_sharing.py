"""Before a net is shared: the author's answers and what is measured of the training data, in the model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.cli.main import main
from engine.data.dataset import Dataset
from engine.data.held_out import split
from engine.data.samples import Sample
from engine.errors import UserError
from engine.export import export
from engine.export.data_check import check_data
from engine.export.hub import files_of
from engine.export.sharing import (
    FILE,
    LONGEST,
    QUESTIONS,
    checkpoint_of,
    left_open,
    read_sharing,
    save_answers,
    save_check,
    words_text,
)
from engine.jobs.control import Cancelled, Control
from engine.runs.run import Run
from engine.workspace.paths import Workspace
from tests.checkpoint_folder import write_checkpoint
from ui.export import sharing_panel
from ui.export.sharing_panel import card_note, data_check_job, found_html
from ui.page.context import AppContext

NAME = "step-000500"


def trained_on(run: Run, workspace: Workspace) -> list[Sample]:
    dataset = Dataset.open(workspace.dataset_folder("pairs"))
    return list(split(dataset, run.config.data.held_out, run.held_out).train)


@pytest.fixture
def run(new_run: Any, ready_workspace: Workspace, loud_controlnet: Path) -> Run:
    """A run with a checkpoint and previews: the first is a training image, the second is noise."""
    run: Run = new_run()
    write_checkpoint(run.folder / "checkpoints" / NAME, loud_controlnet)
    previews = run.folder / "previews" / NAME
    previews.mkdir(parents=True)
    trained = trained_on(run, ready_workspace)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    copy = np.asarray(Image.open(trained[0].image).convert("RGB"))
    for number, drawn in enumerate((copy, noise)):
        row = np.concatenate([np.zeros_like(noise), drawn, noise[:, ::-1]], axis=1)
        Image.fromarray(drawn).save(previews / f"{number:02d}.webp", lossless=True)
        Image.fromarray(row).save(previews / f"{number:02d}-row.webp", lossless=True)
    names = ["00-row.webp", "01-row.webp"]
    about = {"step": 500, "pictures": names, "captions": ["a", "b"], "mean": {}}
    (previews / "scores.json").write_text(json.dumps(about), encoding="utf-8")
    return Run(run.folder)


def card_of(run: Run, format: str = "single_file") -> str:
    made = export(run.folder / "checkpoints" / NAME, format, run.exports, "mine", overwrite=True)
    assert made.card is not None
    return (made.card / "README.md").read_text(encoding="utf-8")


def test_a_card_says_that_nothing_was_answered_and_nothing_measured(run: Run) -> None:
    card = card_of(run)
    assert card.count("*not answered*") == len(QUESTIONS) and card.count("*not measured*") == 2
    assert len(left_open(read_sharing(run.folder), NAME)) == len(QUESTIONS) + 2 and checkpoint_of(card) == NAME


def test_a_copy_among_the_drawn_images_is_found_and_the_words_are_counted(run: Run, ready_workspace: Workspace) -> None:
    check = check_data(ready_workspace, run, run.checkpoints()[0])
    trained = trained_on(run, ready_workspace)
    assert trained[0].key in [one.key for one in check.copies] and {one.image for one in check.copies} == {0}
    assert (check.step, check.drawn, check.looked_at, check.of) == (500, 2, len(trained), len(trained))
    word, count = check.words[0]
    assert count == sum(word in sample.caption.lower().split() for sample in trained) <= check.captioned == len(trained)
    assert f"{word} {count} ({count / len(trained):.0%})" in words_text(check)
    save_check(run.folder, NAME, check)
    card = card_of(run)
    assert "1 of 2 images drawn at step 500" in card and trained[0].key not in card  # names of files are private
    assert trained[0].key in found_html(read_sharing(run.folder), NAME)  # and shown to their owner


@pytest.mark.parametrize("format", ["single_file", "diffusers"])
def test_answers_reach_the_cards_of_earlier_exports(run: Run, format: str) -> None:
    before = card_of(run, format)
    save_answers(run.folder, {"people": "none <b>of</b>\nthem --> "})
    readme = next(run.exports.glob("*/README.md"))
    after = readme.read_text(encoding="utf-8")
    assert "- **People in the images**: none &lt;b&gt;of&lt;/b&gt; them --&gt;\n" in after
    assert after.count("*not answered*") == len(QUESTIONS) - 1
    unchanged = before.replace("- **People in the images**: *not answered*\n", "")
    assert unchanged == after.replace("- **People in the images**: none &lt;b&gt;of&lt;/b&gt; them --&gt;\n", "")
    save_answers(run.folder, {"known_faults": "night"})
    assert read_sharing(run.folder).answers["people"]  # kept
    assert readme.read_text(encoding="utf-8").count("## Training data") == 1


def test_a_card_of_an_earlier_version_gets_the_section_and_a_strangers_file_stays(run: Run) -> None:
    old, other = (run.exports / name / "README.md" for name in ("old_card", "other"))
    for path, text in ((old, "---\nmade_with: ControlNet Studio 0.1\n---\n\n# Old\n"), (other, "# Mine\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    save_answers(run.folder, {"data_source": "my own"})
    assert old.read_text(encoding="utf-8").count("my own") == 1 and other.read_text(encoding="utf-8") == "# Mine\n"


def test_a_damaged_file_counts_as_unanswered_and_a_long_answer_changes_nothing(run: Run) -> None:
    save_answers(run.folder, {"people": "none"})
    with pytest.raises(UserError, match="at most 1,000"):
        save_answers(run.folder, {"people": "x" * (LONGEST + 1)})
    with pytest.raises(UserError, match="no text in UTF-8"):
        save_answers(run.folder, {"people": "\udcff"})  # a byte that the command line could not read
    assert read_sharing(run.folder).answers["people"] == "none"
    for damaged in ("{", "[]", '{"answers": 1, "checks": {}}', '{"answers": {}, "checks": {"a": {"copies": []}}}'):
        (run.folder / FILE).write_text(damaged, encoding="utf-8")
        assert read_sharing(run.folder).answers == {}


def test_a_check_without_dataset_says_so_and_can_be_cancelled(run: Run, ready_workspace: Workspace) -> None:
    control = Control()
    control.cancel()
    with pytest.raises(Cancelled):
        check_data(ready_workspace, run, run.checkpoints()[0], control.token)
    shutil.rmtree(ready_workspace.dataset_folder("pairs"))
    with pytest.raises(UserError, match="pairs"):
        check_data(ready_workspace, run, run.checkpoints()[0])
    assert not (run.folder / FILE).exists()


def test_the_window_warns_of_what_an_upload_leaves_open(run: Run, ready_workspace: Workspace) -> None:
    context = AppContext(ready_workspace)
    card_of(run)
    file = next(run.exports.glob("*.safetensors"))
    assert "Near copies of training images" in card_note(str(file)) and "Licence" in card_note(str(file))
    save_answers(run.folder, {one.name: "answered" for one in QUESTIONS})
    assert data_check_job(context, run.name, run.checkpoints()[0])(Control().token, lambda _event: None) == "completed"
    assert "answers all questions" in card_note(str(file))
    assert Path(context.results[sharing_panel.RESULT].where) == run.folder / NAME
    card = file.with_name(f"{file.stem}_card") / "README.md"
    assert card in [path for _, path in files_of(_only_export(run))]  # what is uploaded has the answers


def _only_export(run: Run) -> Any:
    from engine.export.deliver import exports_in

    return exports_in(run.exports)[0]


@pytest.mark.long
def test_the_command_line_asks_and_measures(
    run: Run, ready_workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--workspace", str(ready_workspace.root)]
    assert main([*place, "export", run.name, "--data-source", "my photographs", "--check-data"]) == 0
    said = capsys.readouterr().out
    assert "does not say yet: Licence of the training images; People in the images; Known faults." in said
    card = next(run.exports.glob("*/README.md")).read_text(encoding="utf-8")
    assert "**Where the training images come from**: my photographs" in card and "*not measured*" not in card
