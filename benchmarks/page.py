"""What the window costs: processor time of the app at rest, and of the page in a real browser. Needs Chromium.

    python -m benchmarks.page [--seconds 15]

Percent of one core. The page's is the time of its main thread (scripts, layout, painting), as the browser counts it.
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
    """One line of the table; in a training the app's time is training's."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    page.wait_for_timeout(3000)
    began, worked, drew = time.perf_counter(), app_seconds(app), page_seconds(session)
    page.wait_for_timeout(1000 * seconds)
    lasted = time.perf_counter() - began
    app_share, page_share = (app_seconds(app) - worked) / lasted, (page_seconds(session) - drew) / lasted
    print(f"{title:<44} app {app_share:5.1%}   page {page_share:5.1%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name, studio(Path(name) / "workspace") as app, browser_page() as page:
        open_page(page, app)
        measure("at rest, nothing touched yet", app, page, seconds)
        set_up(page, app)
        measure("at rest, all tabs seen and settings changed", app, page, seconds)
        click(page, "#train-start")
        wait_for(page, "#status-line", BUSY)
        measure("beside a training", app, page, seconds)


if __name__ == "__main__":
    main()
