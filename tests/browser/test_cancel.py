"""Cancel ends what a user's own search pattern or program keeps busy, and the page goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.workspace.paths import Workspace
from tests.browser.acting import IN_A_BROWSER, click, fill, open_page, pick, shoot, wait_for
from tests.browser.studio import PATIENCE, ROOT, Studio, open_tab, page_of, studio
from tests.browser.test_dataset_journey import choose, view

pytestmark = [*IN_A_BROWSER, pytest.mark.long]
IMAGES, LETTERS = 400, 200
"""``(a+)+$`` takes 0.03 to 0.1 s on a caption of so many letters, so all of them take 10 to 40 s."""


@pytest.fixture
def app(tmp_path: Path) -> Any:
    (tmp_path / "photos").mkdir()
    for number in range(IMAGES):
        Image.new("RGB", (32, 32), (number % 256, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
        (tmp_path / "photos" / f"{number}.txt").write_text("a" * LETTERS + "!", encoding="utf-8")
    Dataset.create(Workspace(tmp_path / "workspace"), "slow", scan_folder(tmp_path / "photos"))
    with studio(tmp_path / "workspace", program=(str(ROOT / "tests" / "ui" / "server" / "cold.py"),)) as opened:
        yield opened


def test_a_slow_pattern_and_a_slow_program_are_cancelled(app: Studio, browser: Any, tmp_path: Path) -> None:
    program, number = tmp_path / "slow.py", tmp_path / "number"
    program.write_text(
        f"import os, pathlib, time\npathlib.Path({str(number)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n",
        encoding="utf-8",
    )
    with page_of(browser) as page:
        open_page(page, app)
        view(page, "Captions")
        choose(page, "#captions-view", "All at once")
        fill(page, "#captions-search textarea, #captions-search input", "(a+)+$")
        page.locator("#captions-regex input").check()
        page.get_by_label("Whole words only").uncheck()  # they would make the pattern fast
        click(page, "#captions-apply")
        wait_for(page, "#captions-progress", re.compile(r"[\d,]+ of 400"))
        shoot(page, "cancel-pattern")
        click(page, "#captions-cancel")
        wait_for(page, "#captions-result", "Cancelled. No caption was changed.", seconds=10)

        open_tab(page, "Conditions")
        pick(page, "#condition-type", "My own program")
        fill(page, "label:has-text('A Python file') :is(textarea, input)", str(program))
        click(page, "#condition-show")
        for _ in range(10 * PATIENCE):
            if number.exists() and number.read_text(encoding="utf-8"):
                break
            page.wait_for_timeout(100)
        shoot(page, "cancel-program")
        running = psutil.Process(int(number.read_text(encoding="utf-8")))
        assert running.is_running()
        click(page, "#condition-cancel")
        wait_for(page, "#condition-about", "Cancelled.", seconds=10)
        assert not running.is_running() or running.status() == psutil.STATUS_ZOMBIE
