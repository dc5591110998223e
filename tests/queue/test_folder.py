"""The queue's folder: order, moves, removal, claims, what a killed process leaves, damaged files, a full disk."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from engine.errors import UserError
from engine.queue import folder as folder_module
from engine.queue.entries import UNREADABLE
from engine.queue.folder import KEPT, QueueFolder
from engine.workspace.paths import Workspace


@pytest.fixture
def queue(workspace: Workspace) -> QueueFolder:
    return QueueFolder(workspace)


def fill(queue: QueueFolder, *titles: str) -> dict[str, str]:
    """Add jobs. Returns the id of each title."""
    return {title: queue.add("maps", title, {"dataset": title}).id for title in titles}


def titles(queue: QueueFolder) -> list[str]:
    return [entry.title for entry in queue.waiting()]


def test_entries_keep_their_order_and_settings_for_another_process(queue: QueueFolder, workspace: Workspace) -> None:
    fill(queue, "a", "b", "c")
    other = QueueFolder(workspace)
    assert titles(other) == ["a", "b", "c"]
    assert other.waiting()[1].settings == {"dataset": "b"}


@pytest.mark.parametrize(
    ("title", "place", "expected"),
    [("c", 1, "cabd"), ("a", 4, "bcda"), ("a", 99, "bcda"), ("b", 3, "acbd"), ("d", -5, "dabc"), ("b", 2, "abcd")],
)
def test_move(queue: QueueFolder, title: str, place: int, expected: str) -> None:
    ids = fill(queue, *"abcd")
    queue.move(ids[title], place)
    assert "".join(titles(queue)) == expected


def test_many_moves_between_the_same_neighbours_keep_the_order(queue: QueueFolder) -> None:
    """The gap between two positions is used up after ten moves; then the others are renamed."""
    ids = fill(queue, *"abcd")
    for number in range(30):
        queue.move(ids["cd"[number % 2]], 2)
    assert "".join(titles(queue)) == "adcb"
    assert len(list(queue.folder.glob("*.json"))) == 4


def test_take_finish_and_what_is_kept(queue: QueueFolder, workspace: Workspace) -> None:
    fill(queue, "a", "b")
    entry = queue.take()
    assert entry is not None
    assert (entry.title, entry.state) == ("a", "running")
    assert titles(queue) == ["b"]
    assert queue.running() == entry
    with pytest.raises(UserError, match="It is running"):
        queue.remove(entry.id)
    with pytest.raises(UserError, match="It is running"):
        queue.move(entry.id, 2)
    queue.finish(entry, "failed", "There is no dataset called a.", 3.5)
    assert queue.running() is None
    (result,) = QueueFolder(workspace).results()
    assert (result.title, result.outcome, result.words, result.seconds) == (
        "a",
        "failed",
        "There is no dataset called a.",
        3.5,
    )
    queue.clear_results()
    assert queue.results() == []
    assert titles(queue) == ["b"]


def test_the_newest_results_are_kept(queue: QueueFolder) -> None:
    fill(queue, *(f"job {number}" for number in range(KEPT + 3)))
    while entry := queue.take():
        queue.finish(entry, "completed", "", 1.0)
    assert [result.title for result in queue.results()] == [f"job {n}" for n in range(KEPT + 2, 2, -1)]


def test_what_a_killed_process_was_doing_waits_in_front(queue: QueueFolder, workspace: Workspace) -> None:
    fill(queue, "a", "b")
    queue.take()
    again = QueueFolder(workspace)
    again.recover()
    assert titles(again) == ["a", "b"]


def test_a_job_whose_result_was_written_does_not_come_back(
    queue: QueueFolder, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was killed between the result and the removal of the entry."""
    fill(queue, "a", "b")
    entry = queue.take()
    assert entry is not None
    monkeypatch.setattr(folder_module, "clear", lambda path: True)
    queue.finish(entry, "completed", "", 1.0)
    monkeypatch.undo()
    again = QueueFolder(workspace)
    assert again.running() is not None
    again.recover()
    assert titles(again) == ["b"]
    assert again.running() is None


def test_an_entry_that_another_process_takes_away_is_passed_over(queue: QueueFolder, workspace: Workspace) -> None:
    ids = fill(queue, "a", "b")
    queue.waiting()  # read
    QueueFolder(workspace).remove(ids["a"])
    assert titles(queue) == ["b"]
    with pytest.raises(UserError, match="no longer waiting"):
        queue.remove(ids["a"])
    entry = queue.take()
    assert entry is not None
    assert entry.title == "b"


def test_a_job_that_is_taken_while_another_is_added_stays_in_front(
    queue: QueueFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is renamed while its folder is listed may be missing from the list."""
    fill(queue, "a")
    real, listed = Path.iterdir, []

    def iterdir(folder: Path) -> Any:
        listed.append(folder)
        return real(folder) if len(listed) > 1 else iter(())

    monkeypatch.setattr(Path, "iterdir", iterdir)
    fill(queue, "b")
    assert titles(queue) == ["a", "b"]
    assert len({entry.position for entry in queue.waiting()}) == 2


def test_a_damaged_entry_waits_for_its_turn_and_a_strange_file_is_ignored(queue: QueueFolder) -> None:
    ids = fill(queue, "a", "b")
    next(queue.folder.glob(f"*{ids['a']}.json")).write_text('{"kind": "maps", "ti', encoding="utf-8")
    (queue.folder / "notes.txt").write_text("mine", encoding="utf-8")
    queue = QueueFolder(Workspace(queue.folder.parent))
    first, second = queue.waiting()
    assert first.kind == UNREADABLE
    assert "Damaged" in first.title
    assert second.title == "b"


def test_a_damaged_result_is_left_out(queue: QueueFolder) -> None:
    fill(queue, "a")
    entry = queue.take()
    assert entry is not None
    queue.finish(entry, "completed", "", 1.0)
    (queue.folder / "results" / "99999999-broken.json").write_text("{", encoding="utf-8")
    assert [result.title for result in queue.results()] == ["a"]


def test_a_full_disk_is_a_sentence_and_leaves_nothing(queue: QueueFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_module, "atomic_write_text", full)
    with pytest.raises(UserError, match=r"was not added.*No space left") as caught:
        queue.add("maps", "Making maps of birds", {})
    assert "Free some disk space" in caught.value.try_this
    assert queue.entries() == []


def test_find_by_id_or_place(queue: QueueFolder) -> None:
    ids = fill(queue, "a", "b")
    assert queue.find(ids["b"]).title == "b"
    assert queue.find("1").title == "a"
    with pytest.raises(UserError, match=r"no job 3.*1 \("):
        queue.find("3")


def test_settings_that_are_no_text_are_refused_in_words(queue: QueueFolder) -> None:
    with pytest.raises(UserError, match="no text in UTF-8"):
        queue.add("maps", "Making maps", {"name": "\udcff"})  # a byte that the command line could not read
    assert queue.waiting() == []
