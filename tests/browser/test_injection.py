"""Images whose names and captions are HTML are read and shown on every tab, and none of it runs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.browser.acting import IN_A_BROWSER
from tests.browser.studio import ROOT, open_tab, page_of, studio
from ui.app import TABS

pytestmark = [*IN_A_BROWSER, pytest.mark.long]  # in short: tests/ui/server/test_injection.py
EVIL = '<img src=x onerror="window.fired=1;alert(1)"><script>window.fired=2</script>\'">{{7*7}}'
COLD = (str(ROOT / "tests" / "ui" / "server" / "cold.py"),)
IN_A_NAME = "<img src=x onerror=window.fired=3>"


def test_names_and_captions_run_nothing(browser: Any, tmp_path: Path, photos: dict[str, Any]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, photo in enumerate(photos.values()):
        path = folder / f"{number}.png"
        with contextlib.suppress(OSError):  # Windows does not allow such names
            (folder / f"{number}{IN_A_NAME}.png").touch()
            path = folder / f"{number}{IN_A_NAME}.png"
        Image.fromarray(photo).resize((96, 64)).save(path)
        path.with_suffix(".txt").write_text(f"{number} {EVIL}", encoding="utf-8")
    (folder / "bad.png").write_bytes(b"<script>window.fired=4</script>")
    with studio(tmp_path / "workspace", program=COLD, DISPLAY="") as app, page_of(browser) as page:
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(app.address)
        page.wait_for_selector("#status-line .status")
        page.fill("#dataset-folder textarea, #dataset-folder input", f"/nowhere/{EVIL}")
        page.click("#dataset-read")
        page.locator("#problem").filter(has_text="does not exist").wait_for()
        page.locator("#problem").filter(has_text="{{7*7}}").wait_for()  # as text
        page.fill("#dataset-folder textarea, #dataset-folder input", str(folder))
        page.click("#dataset-read")
        page.locator("#dataset-summary").filter(has_text="4 images").wait_for()
        page.get_by_role("tab", name="Table").click()
        page.locator("#dataset-table").filter(has_text="{{7*7}}").wait_for()
        page.get_by_role("tab", name="Problems").click()
        page.locator("#dataset-problems").filter(has_text="bad.png").wait_for()
        for title, _, _ in TABS:
            open_tab(page, title)
            page.wait_for_timeout(300)
            assert page.evaluate("document.querySelectorAll('img[src=\"x\"], img[onerror]').length") == 0, title
        page.reload()
        page.locator("#dataset-summary").filter(has_text="4 images").wait_for(state="attached")
        assert page.evaluate("window.fired") is None
        assert dialogs == []
