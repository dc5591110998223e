"""Makes the images of the window in docs/images: the real app, the real demo, a real browser.

    python docs/make_screenshots.py [--steps 500] [--pictures 2000] [--base FOLDER]

Takes as long as the demo's training. Needs Chromium, Chrome or Edge.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine.workspace.paths import DEMO_BASE  # noqa: E402
from tests.browser.studio import browser_page, open_tab, studio  # noqa: E402

FOLDER = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1440, 960
LOADED = (
    "[...document.images].every((one) => one.complete || !one.offsetParent || "
    "one.getBoundingClientRect().top > innerHeight)"
)
"""Every image in the window is there."""
HOME = "/home/me"
PATHS = """(places) => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const shown = places.reduce((text, [from, to]) => text.replace(new RegExp(from, 'g'), to), node.data);
    if (shown !== node.data) node.data = shown;
  }
}"""
"""Shows the paths of this computer as those of another one: each pattern is replaced by a text."""


def shoot(page: Any, name: str, from_tabs: bool = False) -> None:
    """Take an image of the window. ``from_tabs``: scrolled to the tabs, below the card of the first steps."""
    for pause in (1500, 300):  # charts are drawn a moment after their data came, and move what is below
        if from_tabs:
            page.evaluate("document.querySelector('#tabs').scrollIntoView()")
        page.wait_for_function(LOADED, timeout=60_000)
        page.wait_for_timeout(pause)
    temporary = re.escape(tempfile.gettempdir()) + "/[^/]+"
    page.evaluate(PATHS, [[temporary, HOME], [re.escape(str(ROOT)), f"{HOME}/controlnet-studio"]])
    image = Image.open(io.BytesIO(page.screenshot()))
    FOLDER.mkdir(exist_ok=True)
    # 256 colours are enough for a window, and a quarter of the size
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)
    print(f"{name}.png", flush=True)


def wait_for(page: Any, selector: str, text: str, seconds: float) -> None:
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_contain_text(text, timeout=seconds * 1000)


def walk(page: Any, address: str, images: int, steps: int) -> None:
    """The way of the first-start card, an image at each stop."""
    page.goto(address)
    wait_for(page, "#first-start", "Two ways to start", 30)
    shoot(page, "first-start")
    page.click("#guide-demo")
    wait_for(page, "#first-start", "three clicks", 30)
    page.click("#first-options > button")
    page.fill("#first-count input", str(images))
    page.fill("#first-steps input", str(steps))
    page.click("#first-options > button")
    page.click("#first-1")
    wait_for(page, "#dataset-summary", f"{images:,} images", 600)
    shoot(page, "dataset")
    open_tab(page, "Conditions")
    page.click("#condition-type input")
    page.get_by_role("option", name="Canny edges", exact=True).click()
    page.wait_for_selector("#condition-preview img")
    shoot(page, "conditions")
    page.wait_for_selector("#first-2:not([disabled])")
    page.click("#first-2")
    wait_for(page, "#train-pictures-head", f"step {steps // 2 // 100 * 100:,}", 3600)
    shoot(page, "train-running", from_tabs=True)
    wait_for(page, "#train-status", "Finished", 3600)
    shoot(page, "train-finished", from_tabs=True)
    page.click("#first-3")
    page.wait_for_selector("#try-control img")
    page.click("#try-make")
    page.wait_for_selector("#try-results img", timeout=300_000)
    shoot(page, "try-it", from_tabs=True)
    open_tab(page, "Export")
    page.click("#export-make")
    wait_for(page, "#export-result", "The export is ready", 300)
    shoot(page, "export", from_tabs=True)
    open_tab(page, "Settings & help")
    shoot(page, "settings")
    page.get_by_role("radio", name="Dark", exact=True).click()
    open_tab(page, "Train")
    page.reload()  # charts take their colours when they are drawn
    wait_for(page, "#status-line", "Nothing is running", 30)
    open_tab(page, "Train")
    shoot(page, "train-dark", from_tabs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--base", default=str(DEMO_BASE), help="another base in the place of the demo's")
    options = parser.parse_args()
    program = (str(ROOT / "tests" / "browser" / "with_base.py"),)
    with (
        tempfile.TemporaryDirectory() as folder,
        studio(Path(folder) / "workspace", program=program, STUDIO_DEMO_BASE=options.base) as app,
        browser_page(WIDTH, HEIGHT) as page,
    ):
        walk(page, app.address, options.pictures, options.steps)


if __name__ == "__main__":
    main()
