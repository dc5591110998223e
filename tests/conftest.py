"""How the tests run: on one thread, and in which order and which process. The shared fixtures are in plugin.py."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded: tests share the machine with other work

from typing import Any

import pytest

pytest_plugins = ["tests.plugin"]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums over several threads may differ in the last bit from one run to the next.

    OpenCV's threads wait for each other by spinning, which on a busy machine makes small images twenty times slower.
    """
    try:
        import cv2
        import torch
    except ImportError:  # the installer's tests run before torch is there
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


_frozen: tuple[Path, int] = (Path(), 0)
"""The file whose tests run, and how many modules were loaded when objects were frozen last."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """At the start of each file, and once large libraries were loaded, freeze all objects: the collector skips them.

    Drawing and training collect garbage to free memory. Each time that walks over a million objects of torch,
    diffusers and transformers, and takes half of the time of such a test. Frozen objects are missing in
    ``gc.get_objects``: tests that count objects use tests/living.py.
    """
    global _frozen
    file, loaded = _frozen
    if item.path != file or len(sys.modules) > loaded + 400:
        _frozen = item.path, len(sys.modules)
        gc.collect()
        gc.freeze()


FIRST = ("tests/training/", "tests/nets/", "tests/export/", "tests/browser/", "tests/")
"""Folders of the tests that take longest. If these began last, one process would wait for the other at the end."""
OWN_APP = ("test_dataset_journey.py", "test_injection.py", "test_window_may_go.py")
"""Browser tests with an app of their own; all others look at one run of the demo, which is trained once."""
FORKED = (
    "tests/training/test_kills.py",
    "tests/distributed/test_processes.py",
    "tests/data/test_text_cache.py",
    "tests/cli/test_main.py",
    "tests/cli/test_queue.py",
    "tests/ui/server/test_shutdown.py",
)
"""They share the process of tests/forked.py, whose start takes some eight seconds of computing."""


def work_of(nodeid: str) -> str:
    """Name of the group that a test belongs to. A group stays together in one process: a file, or files that share."""
    file = nodeid.split("::", 1)[0]
    if file.startswith("tests/browser/") and not file.endswith(OWN_APP):
        return "the demo's run"
    return "forked" if file in FORKED else file


class Collected:
    """What was collected before ``-m`` and ``-k`` left some of it out; tests/test_troubleshooting.py reads it."""

    def __init__(self) -> None:
        self.files: set[Path] = set()
        self.answers: list[tuple[str, str]] = []
        """A heading of docs/troubleshooting.md, and the name of a test that holds what it says."""


def pytest_configure(config: pytest.Config) -> None:
    config.collected = Collected()  # type: ignore[attr-defined]


def pytest_collectstart(collector: pytest.Collector) -> None:
    if isinstance(collector, pytest.Module):
        collector.config.collected.files.add(collector.path)  # type: ignore[attr-defined]


def pytest_itemcollected(item: pytest.Item) -> None:
    for mark in item.iter_markers("answers"):
        item.config.collected.answers += [(heading, item.name) for heading in mark.args]  # type: ignore[attr-defined]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In one of several processes: the demo's run first, then by folders; a file stays together."""
    forking = {item.nodeid.split("::")[0] for item in items if "forks" in getattr(item, "fixturenames", ())}
    if missing := sorted(forking - set(FORKED)):
        raise pytest.UsageError(f"{', '.join(missing)} would start a second process of tests/forked.py: see FORKED")
    if hasattr(config, "workerinput"):
        place = {item.nodeid: next(n for n, name in enumerate(FIRST) if item.nodeid.startswith(name)) for item in items}
        items.sort(key=lambda item: -1 if work_of(item.nodeid) == "the demo's run" else place[item.nodeid])


@pytest.hookimpl(optionalhook=True)  # one process alone has no scheduler
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class LoadWork(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return work_of(nodeid)

    return LoadWork(config, log) if config.getoption("dist") == "loadfile" else None
