"""The report that people send to strangers: useful, and without their folders, names, captions and addresses."""

from __future__ import annotations

import platform
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.data.caption_store import CaptionStore
from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.disk.sqlite import connect
from engine.errors import UserError
from engine.jobs.events import Message, PreviewMade
from engine.jobs.faults import describe_crash
from engine.jobs.snapshot import Failure, JobSnapshot, fold
from engine.runs.recorder import Recorder
from engine.runs.run import Run
from engine.support.report import compose
from engine.support.scrub import caption_in, scrub
from engine.training.new_run import create_run
from engine.workspace.paths import APP_FOLDER, Workspace

HOME = "/home/erika.mustermann"
CAPTION = "Erika's dog Rex at the lake in summer, with the red ball that he got for his birthday"


@pytest.fixture
def run(
    workspace: Workspace,
    paired_folder: Path,
    make_config: Callable[..., RunConfig],
    tmp_path: Path,
) -> Run:
    folder = tmp_path / "Erika's images"
    shutil.copytree(paired_folder, folder)
    for kind in ("images", "conditions"):
        (folder / kind / "00.png").rename(folder / kind / "rex am see.png")
    (folder / "images" / "00.txt").unlink()
    (folder / "images" / "rex am see.txt").write_text(CAPTION, encoding="utf-8")
    dataset = Dataset.create(workspace, "mustermann-dogs", scan_folder(folder))
    with connect(CaptionStore(dataset.folder).path) as connection:
        connection.execute("INSERT INTO edits VALUES (?, ?)", (dataset.samples()[1].key, "Uncle Herbert waving"))
    settings = {"data.dataset": "mustermann-dogs", "train.steps": 77, "model.base": str(APP_FOLDER / "engine/demo")}
    config = make_config(**settings).model_copy(update={"name": "herberts net"})
    return create_run(workspace, config, {})


def failed(run: Run) -> tuple[Failure, JobSnapshot]:
    """A failure as the runner makes it, in mid-run."""
    recorder = Recorder(run.folder, lambda event: None)
    snapshot = JobSnapshot(kind="train", run_folder=run.folder)
    for words in (
        f"Reading {HOME}/My Pictures/rex am see.png",
        "Memory ran out at step 12",
        f"caption: {CAPTION[:60]}",
    ):
        recorder(Message(words))
        snapshot = fold(snapshot, Message(words), 0.0)
    snapshot = fold(snapshot, PreviewMade(5, run.folder, (), ("a secret prompt of mine",)), 0.0)
    try:
        Run(Path(HOME) / "nothing")
    except UserError as error:
        details = "".join(traceback.format_exception(error))
    details += f"\nValueError: cannot tokenize '{CAPTION}' (a secret prompt of mine) Uncle Herbert waving"
    why = f"{HOME}/Erika und ich/rex am see.png: Permission denied. See https://nas.mustermann.example/share?id=7"
    return Failure(
        "rex am see.png cannot be read.", why, "Look into C:\\Users\\Erika M\\Bilder\\rex.png.", details
    ), snapshot


def test_nothing_private_is_in_the_public_report(run: Run, workspace: Workspace) -> None:
    failure, snapshot = failed(run)
    report = compose(failure, workspace, snapshot, run.name)
    for private in (
        "rika",
        "mustermann",
        "Rex",
        "rex",
        "birthday",
        "secret prompt",
        "Herbert",
        "herbert",
        "Images",
        "Bilder",
        "nas.",
        str(Path.home()),
        str(workspace.root),
        str(workspace.root.parent),
        run.name,
    ):
        assert private not in report.public, f"{private!r} in:\n{report.public}"
    if len(platform.node()) > 2:
        assert platform.node() not in report.public.split()


def test_what_helps_is_in_it(run: Run, workspace: Workspace) -> None:
    failure, snapshot = failed(run)
    run.note_machine(name="RTX 3060", vram_gib=12.0)
    public = compose(failure, workspace, snapshot, run.name).public
    for useful in (
        "Permission denied",
        "Memory ran out at step 12",
        "train.steps=77",
        "train.precision=fp32",
        "data.resolution=64",
        "torch ",
        "diffusers ",
        "Card: ",
        platform.system(),
        "trained on RTX 3060, 12 GB; saved at step 0 of 77",
        "UserError",
        "<caption>",
        'File "engine/runs/run.py", line',
        'File "python/pathlib.py", line',
        "ValueError: cannot tokenize",
        '"run.json"',
    ):
        assert useful in public, f"{useful!r} not in:\n{public}"


def test_the_whole_report_has_it_all(run: Run, workspace: Workspace) -> None:
    failure, snapshot = failed(run)
    whole = compose(failure, workspace, snapshot, run.name).full
    for words in (CAPTION, HOME, "https://nas.mustermann.example", "a secret prompt of mine"):
        assert words in whole


def test_a_report_without_a_run_or_with_a_damaged_one(run: Run, workspace: Workspace) -> None:
    failure = describe_crash(ZeroDivisionError("division by zero"))
    assert "ZeroDivisionError" in compose(failure, workspace, JobSnapshot()).public
    (run.folder / "run.json").write_text("{", encoding="utf-8")
    (workspace.datasets / "mustermann-dogs" / "dataset.json").write_text("{", encoding="utf-8")
    assert "ZeroDivisionError" in compose(failure, workspace, JobSnapshot(), run.name).public


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("/mnt/My disk/a b/c d.png is gone.", "<path>.png is gone."),
        ("open '/mnt/My disk/a b' failed", "open '<path>' failed"),
        ("D:\\Bilder\\Anna Lena\\x.jpg: locked", "<path>.jpg: locked"),
        ("\\\\nas\\anna\\x.jpg", "<path>.jpg"),
        ("~/anna/x.txt", "<path>.txt"),
        ("anna.png is too small (3 x 4).", "<file>.png is too small (3 x 4)."),
        ("ftp://host/x and file:///home/anna/x", "<address> and <address>"),
        ("loss 0.12 / 0.34, 3/4 of it, and/or", "loss 0.12 / 0.34, 3/4 of it, and/or"),
        ("base runwayml/stable-diffusion-v1-5", "base runwayml/stable-diffusion-v1-5"),
        ("step 1,000 saved", "step 1,000 saved"),
    ],
)
def test_scrub(text: str, clean: str) -> None:
    assert scrub(text) == clean


def test_a_caption_that_was_cut_short_is_known_by_its_beginning() -> None:
    assert list(caption_in(CAPTION, f"could not encode {CAPTION[:50]}...")) == [(CAPTION[:50], "<caption>")]
    assert list(caption_in("ab", "ab")) == [], "two letters are in every other word"
