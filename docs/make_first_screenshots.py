"""Makes the images of docs/first-controlnet.md: the checklist for one's own images, up to Start.

    python docs/make_first_screenshots.py

The window is the real one. Three things are in the place of what is not here: the card (an RTX 3060 with 12 GB is named
to the app, so that it proposes what it would propose there), the hub (a server on this machine, which sends the demo
base with the configs and the id of Stable Diffusion 1.5), and the images (parts of four photographs of scikit-image).
"""

from __future__ import annotations

import functools
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from docs.make_screenshots import shoot, wait_for  # noqa: E402
from engine.workspace.paths import DEMO_BASE  # noqa: E402
from tests.bases.hub import files_of_base, serving  # noqa: E402
from tests.browser.studio import browser_page, studio  # noqa: E402

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
WIDTH, HEIGHT = 1440, 900
NAMES = {
    "astronaut": "a portrait of an astronaut in an orange suit",
    "coffee": "a cup of coffee on a wooden table",
    "chelsea": "a ginger cat, close up",
    "rocket": "a rocket on its launch pad at night",
}
COUNT, SIDE = 60, 640
NEXT = "#first-start button.go.next"


def make_images(folder: Path) -> None:
    """Write parts of the photographs, with captions beside them."""
    from skimage import data

    folder.mkdir()
    chance = random.Random(1)
    for number in range(COUNT):
        name = list(NAMES)[number % len(NAMES)]
        photo = Image.fromarray(np.asarray(getattr(data, name)()))
        side = int(min(photo.size) * chance.uniform(0.7, 1.0))
        left, top = (chance.randint(0, length - side) for length in photo.size)
        part = photo.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        part.save(folder / f"{number:02d}-{name}.jpg", quality=92)
        (folder / f"{number:02d}-{name}.txt").write_text(NAMES[name], encoding="utf-8")


def files_named_sd15() -> dict[str, bytes]:
    """The demo base's files with the configs of Stable Diffusion 1.5, by which the app estimates time and memory."""
    configs = ROOT / "engine" / "families" / "layouts" / "sd1"
    files = files_of_base(DEMO_BASE)
    return files | {name: (configs / name).read_bytes() for name in files if (configs / name).is_file()}


def walk(page: Any, address: str, images: Path) -> None:
    """The checklist's way, an image at each stop."""
    page.set_default_timeout(30_000)
    page.goto(address)
    wait_for(page, "#first-start", "Two ways to start", 30)
    page.click("#guide-own")
    wait_for(page, "#guide-own-way", "What the net follows", 30)
    shoot(page, "first-1-checklist")
    page.fill("#dataset-folder input, #dataset-folder textarea", str(images))
    page.keyboard.press("Tab")
    wait_for(page, "#dataset-found", f"{COUNT} images", 30)
    page.click("#dataset-read")
    wait_for(page, "#dataset-summary", f"{COUNT} images", 60)
    page.evaluate("scrollTo(0, 0)")
    shoot(page, "first-2-dataset")
    wait_for(page, "#guide-title", "Make them", 30)
    page.click(NEXT)
    page.wait_for_selector("#condition-preview img")
    page.wait_for_timeout(1500)
    shoot(page, "first-3-maps", from_tabs=True)
    page.click("#maps-make")
    wait_for(page, "#maps-result", "maps are ready", 120)
    page.click("#maps-result button.go")
    page.wait_for_selector("#bases-download")
    page.wait_for_timeout(1000)
    page.locator("#bases-download").scroll_into_view_if_needed()
    shoot(page, "first-4-base")
    page.click("#bases-download")
    wait_for(page, "#guide-title", "✓ Base", 120)
    wait_for(page, "#cautions", "dataset check found", 120)
    page.click("#bases-message button.go")
    page.wait_for_timeout(3000)
    shoot(page, "first-5-start", from_tabs=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as made, serving(SD15, files_named_sd15()) as hub:
        folder = Path(made)
        make_images(folder / "my-photos")
        program = (str(Path(__file__).resolve()), "--app")
        settings = {"HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(folder / "cache")}
        with studio(folder / "workspace", program=program, **settings) as app, browser_page(WIDTH, HEIGHT) as page:
            walk(page, app.address, folder / "my-photos")


def app_with_a_card(arguments: list[str]) -> int:
    """The app, to which a card of 12 GB is named."""
    from engine.families import files, registry
    from engine.families.facts import FACTS
    from engine.machine import hardware

    here = hardware.detect()
    card = replace(here, device="cuda", name="NVIDIA GeForce RTX 3060", vram_gib=12.0, banner="")
    hardware.detect = functools.lru_cache(lambda: card)  # type: ignore[assignment]
    files.denoiser_parameters = lambda workspace, base: FACTS[0].parameters  # the demo base's weights are fewer
    registry.misfit = lambda base, index, parts: ""  # and do not match the configs of Stable Diffusion 1.5
    from ui import launch

    return launch.main(arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--app"]:
        sys.exit(app_with_a_card(sys.argv[2:]))
    main()
