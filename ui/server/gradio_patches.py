"""Workarounds for gradio 6.31. Each says what is wrong and where, so that it can go once gradio has fixed it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

STUBS_MODULE, STUBS_FUNCTION = "gradio.component_meta", "create_or_modify_pyi"

NO_QUEUE_STATISTICS = {"GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9)}
"""Environment variables that switch off the queue's statistics (queueing.py, Queue.push, compute_analytics_summary).

The queue records each event of each page and, after each, builds a pandas table of the last 10,000 for a dashboard that
this app does not serve. After 3,000 events one refresh of a page cost 32 ms of CPU time, up from 18 ms. gradio has no
switch for it (gradio-app/gradio#13756 only bounds the record), so keep one event and build the table every 10^9 events.
"""
QUEUE_SECONDS = 0.02
"""Seconds between two looks of the queue for new events (queueing.py, Queue.start_processing).

Except on Windows gradio looks every millisecond, which takes a tenth of a CPU core for as long as the app is open and
gets in the way of the training thread.
"""


class _StubsFinder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if fullname != STUBS_MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def run_and_replace(module: ModuleType) -> None:
            run(module)
            _replace_stub_writer(module)

        spec.loader.exec_module = run_and_replace  # type: ignore[method-assign]
        return spec


def _replace_stub_writer(module: ModuleType) -> None:
    if hasattr(module, STUBS_FUNCTION):
        setattr(module, STUBS_FUNCTION, lambda *arguments: None)


def trust_the_first_answer() -> None:
    """Treat the server as reachable once it has answered (blocks.py, launch; networking.py, url_ok).

    gradio asks its own server twice when it starts: without a time limit, and then again for 3 seconds. Where a busy
    computer needs longer, it ends the app with an error about share links and proxies.
    """
    from gradio import networking

    networking.url_ok = lambda url: True


def import_without_stubs() -> None:
    """Halve gradio's import time. Call before gradio is first imported; later calls have no effect.

    At each import gradio parses the source of all its components and rewrites their type stubs (.pyi) in site-packages:
    two seconds on a slow machine, for files that only editors read. An import hook replaces that one function. Where a
    later gradio has no such function, nothing is changed.
    """
    if STUBS_MODULE not in sys.modules:
        sys.meta_path.insert(0, _StubsFinder())


def define_without_stubs() -> None:
    """Keep gradio from writing a type stub beside a module that defines components. Call before the class statement."""
    import gradio.component_meta

    _replace_stub_writer(gradio.component_meta)


def keep_component_ids() -> None:
    """Stop the memory leak of open pages. Call before pages are served; a second call has no effect.

    gradio keeps what each open page shows in a SessionState, keyed by component id. For every update, ``gr.skip()``
    included, Blocks.postprocess_data (blocks.py) builds the component again and stores it under the old id, but the new
    component has an id of its own. When that one is next given a plain value, it is looked up under its own id, not
    found, and stored there too. Nothing ever removes it: an open Train tab lost a megabyte for every ten redraws of the
    charts. Here a component takes the id that it is stored under.
    """
    from gradio.blocks import Block
    from gradio.state_holder import SessionState

    store = SessionState.__setitem__
    if getattr(store, "keeps_ids", False):
        return

    def store_with_its_id(self: SessionState, key: int, value: Any) -> None:
        if isinstance(value, Block):
            value._id = key
        store(self, key, value)

    store_with_its_id.keeps_ids = True  # type: ignore[attr-defined]
    SessionState.__setitem__ = store_with_its_id  # type: ignore[method-assign]


def slow_down_queue(demo: Any) -> None:
    """Let the queue of a Blocks look for events every QUEUE_SECONDS."""
    demo._queue.sleep_when_free = QUEUE_SECONDS
