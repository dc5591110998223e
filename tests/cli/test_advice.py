"""The command line's advice: no tabs and buttons, the nearest name, the names there are, and files by their names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from engine.cli.advice import for_command_line
from engine.cli.main import EXIT_PROBLEM, main
from engine.cli.output import grouped
from engine.data.dataset import Dataset
from engine.data.importing import import_source
from engine.data.samples import Problem
from engine.data.scan import scan_folder
from engine.errors import choose_from, did_you_mean
from engine.workspace.paths import Workspace

ENGINE = Path(__file__).parents[2] / "engine"
OF_THE_WINDOW = re.compile(r"(?:Dataset|Conditions|Train|Try it|Export|next) tab|[Pp]ress [“A-Z]")


def texts() -> list[str]:
    """Texts of the engine that are not docstrings, each f-string as one text."""
    found = []
    for path in ENGINE.rglob("*.py"):
        if {"cli", "install"} & set(path.relative_to(ENGINE).parts):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inside = {id(v) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (bare | inside):
                found.append(node.value)
    return found


def test_what_the_engine_says_about_the_window_is_said_about_commands() -> None:
    about_the_window = [text for text in texts() if OF_THE_WINDOW.search(text)]
    assert len(about_the_window) > 15
    assert [text for text in map(for_command_line, about_the_window) if OF_THE_WINDOW.search(text)] == []


def test_the_nearest_name_is_offered() -> None:
    assert did_you_mean("train.learning_rate", ["train.steps", "optim.learning_rate"]) == (
        "Did you mean optim.learning_rate?"
    )
    assert did_you_mean("Cany", ["scribble", "canny"]) == "Did you mean canny?"
    assert did_you_mean("xyz", ["canny"]) == did_you_mean("", ["canny"]) == ""
    assert choose_from(["a", "b", "c"], limit=2) == "Choose one of these: a, b and 1 more."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--set", "train.learning_rate=1e3"], "Did you mean optim.learning_rate?"),
        (["train", "--dataset", "brids"], "Did you mean birds?"),
        (["train"], "No dataset is chosen. There are: birds."),
        (["train", "--dataset", "birds"], "make the condition maps with extract"),
        (["extract", "bird", "--type", "canny"], "There is no dataset called bird."),
        (["extract", "birds", "--type", "cany"], "Did you mean canny?"),
        (["extract", "birds", "--type", "canny", "--set", "lo=1"], "Did you mean low?"),
        (["extract", "birds", "--type", "canny", "--set", "low=300", "--set", "high=10"], "contradict each other"),
        (["resume", "2026-01-01_bird"], "Did you mean 2026-01-01_birds?"),
        (["export", "nope"], "Choose one of these: 2026-01-01_birds."),
        (["bases", "get", "dreamshaper"], "Did you mean dreamshaper8?"),
        (["train", "--preset", "12g"], "Did you mean 12gb?"),
    ],
)
def test_advice_speaks_of_the_command_line(
    tmp_path: Path, paired_folder: Path, arguments: list[str], words: str, capsys
) -> None:
    workspace = Workspace(tmp_path / "ws")
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((paired_folder / "images").glob("*"))[:2]:
        (images / path.name).write_bytes(path.read_bytes())
    Dataset.create(workspace, "birds", scan_folder(images), images)
    run = workspace.runs / "2026-01-01_birds"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}", encoding="utf-8")
    assert main(["--workspace", str(workspace.root), *arguments]) == EXIT_PROBLEM
    said = capsys.readouterr().err
    assert words in said
    assert " tab" not in said and "from the list" not in said


def test_files_with_the_same_problem_are_told_once() -> None:
    problems = [Problem(Path(f"{n}.png"), "The map is nearly empty.", "", "") for n in range(7)]
    assert grouped([*problems, Problem(Path("x.png"), "x.png cannot be read.", "It is empty.", "")]) == [
        "The map is nearly empty. (7 images: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more)",
        "x.png cannot be read. It is empty. (x.png)",
    ]


def test_a_name_that_was_changed_is_told(workspace: Workspace, paired_folder: Path) -> None:
    changed = import_source(workspace, str(paired_folder), "../../evil")
    assert changed.name == "evil" and "evil instead of ../../evil" in changed.notes[0]
    kept = import_source(workspace, str(paired_folder), "evil")
    assert not any("instead of" in note for note in kept.notes)
