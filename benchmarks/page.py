"""Processor time of the app and of its page in a real browser, at rest and during training. Needs Chromium.

    python -m benchmarks.page [--seconds 15]

Prints percentages of one core (docs/performance.md). For the page it counts the browser's main thread: scripts, layout
and painting.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.browser.acting import BUSY, click, open_page, wait_for
from tests.browser.demo_run import set_up
from tests.browser.studio import Studio, browser_page, studio


def app_seconds(app: Studio) -> float:
    return float(sum(psutil.Process(app.process.pid).cpu_times()[:2]))


def page_seconds(session: Any) -> float:
    found = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"])


def measure(title: str, app: Studio, page: Any, seconds: float) -> None:
    """Measure for ``seconds`` and print one row. During training the app's time includes that of training."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.wait_for_timeout(3000)
    began, app_before, page_before = time.perf_counter(), app_seconds(app), page_seconds(session)
    page.wait_for_timeout(1000 * seconds)
    passed = time.perf_counter() - began
    app_share, page_share = (app_seconds(app) - app_before) / passed, (page_seconds(session) - page_before) / passed
    print(f"{title:<46} app {app_share:5.1%}   page {page_share:5.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name, studio(Path(name) / "workspace") as app, browser_page() as page:
        open_page(page, app)
        measure("at rest, nothing clicked yet", app, page, seconds)
        set_up(page, app)
        measure("at rest, all tabs opened and settings changed", app, page, seconds)
        click(page, "#train-start")
        wait_for(page, "#status-line", BUSY)
        measure("while the demo trains", app, page, seconds)


if __name__ == "__main__":
    main()
