"""A folder in which it is not clear what is what: the page asks once, shows three pairs, and reads as it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.acting import IN_A_BROWSER, click, fill, open_page, pick, shoot, wait_for
from tests.browser.studio import ROOT, Studio, page_of, studio
from tests.data.test_found_in_the_wild import drawn, photo, write

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
COLD = (str(ROOT / "tests" / "ui" / "server" / "cold.py"),)


@pytest.fixture
def app(tmp_path: Path) -> Any:
    dead = "127.0.0.1:9"  # of proxies that would be asked, none answers
    proxies = {"HTTP_PROXY": f"http://{dead}", "ALL_PROXY": f"socks://{dead}", "no_proxy": "::1/128,[::1]"}
    with studio(tmp_path / "workspace", **proxies) as opened:
        yield opened


def test_the_page_asks_what_is_what_and_reads_it_so(app: Studio, browser: Any, tmp_path: Path) -> None:
    source = tmp_path / "mine"
    for n in "1234":
        photo(source / "image" / f"{n}.png")
        drawn(source / "canny" / f"{n}.png", source / "depth" / f"{n}.png")
        write(source / "image" / f"{n}.txt", f"noise number {n}")
    with page_of(browser) as page:
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(f"{error} {error.stack}"))
        open_page(page, app)
        fill(page, "#dataset-folder textarea, #dataset-folder input", str(source))
        wait_for(page, "#dataset-found", "images and condition maps in two folders")
        click(page, "#dataset-read")
        wait_for(page, "#question-why", "Several folders may contain the condition maps: canny, depth. canny was used.")
        page.wait_for_selector("#question-pairs img")
        shoot(page, "question")
        for number, role in ((0, "Ignored"), (1, "Condition map")):  # depth shall be the map
            pick(page, f"#question-role-{number}", role)
        click(page, "#question-read")
        wait_for(page, "#dataset-outcome", "4 images, 4 captions")
        wait_for(page, "#dataset-outcome", "4 images ignored, as you said")
        assert not page.locator("#question").is_visible()
        shoot(page, "question-answered")
        assert faults == []
    description = (app.workspace / "datasets" / "mine" / "dataset.json").read_text(encoding="utf-8")
    assert '"depth": "map"' in description and '"canny": "ignored"' in description
    assert "output values" not in app.printed() and "Traceback" not in app.printed(), app.printed()
