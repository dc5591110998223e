"""The user's own control image, from the camera and from the clipboard; and the folded panels of Try it."""

from __future__ import annotations

from typing import Any

from tests.browser.acting import IN_A_BROWSER, click, shoot, unfold, wait_for, wait_for_count
from tests.browser.demo_run import DemoRun
from tests.browser.studio import open_tab

pytestmark = IN_A_BROWSER
COPY_A_RING = """async () => {
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = 128;
  const pen = canvas.getContext('2d');
  pen.fillRect(0, 0, 128, 128);
  pen.strokeStyle = 'white';
  pen.lineWidth = 2;
  pen.arc(64, 64, 30, 0, 7);
  pen.stroke();
  const image = await new Promise(done => canvas.toBlob(done, 'image/png'));
  await navigator.clipboard.write([new ClipboardItem({'image/png': image})]);
}"""


def test_an_image_from_the_camera_and_one_from_the_clipboard(page: Any, demo: DemoRun) -> None:
    page.context.grant_permissions(["camera", "clipboard-read", "clipboard-write"], origin=demo.app.address)
    open_tab(page, "Try it")
    page.wait_for_selector("#try-control img")
    page.get_by_role("radio", name="My own", exact=True).check()
    heic = {"name": "IMG_1.jpg", "mimeType": "image/jpeg", "buffer": b"\0\0\0\x18ftypheic" + bytes(400)}
    page.locator("#try-upload input[type=file]").set_input_files(heic)
    page.get_by_text("save it as JPEG").first.wait_for()  # gradio may say it twice
    page.get_by_role("button", name="Capture from camera").wait_for()  # the field is empty again
    wait_for_count(page, "#try-upload img", 0)
    page.get_by_role("button", name="Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#try-upload video')?.videoWidth > 0")
    page.locator("#try-upload .button-wrap button").first.click()
    wait_for(page, "#try-advice", "provide a map, and tick the box")
    shoot(page, "try-camera")

    page.locator("#try-upload").get_by_role("button", name="Remove Image").click()
    page.evaluate(COPY_A_RING)
    page.get_by_role("button", name="Paste from clipboard").click()
    wait_for(page, "#try-advice", "This already looks like a map")
    page.get_by_label("This is already a control image").check()
    click(page, "#try-make")
    page.wait_for_selector("#try-results img")
    wait_for(page, "#try-words", "Saved in")
    shoot(page, "try-pasted")


def test_every_folded_panel_opens(page: Any) -> None:
    size = page.viewport_size
    page.set_viewport_size({"width": 900, "height": 900})
    open_tab(page, "Try it")
    page.get_by_role("radio", name="Held-out image", exact=True).check()  # another test may have chosen its own
    page.wait_for_selector("#try-control img")
    tops = "(name) => document.querySelector(name).getBoundingClientRect().top"
    tabs, button, made = (page.evaluate(tops, name) for name in ("#tabs", "#try-make", "#try-made"))
    page.set_viewport_size(size)  # other tests have the same page
    assert button - tabs < 670 and made < button, "the button and the drawn image are in one view"
    inside = {
        "try-more": "#try-sampler",
        "try-say": "#try-balance",
        "try-over": "#try-picture",
        "try-second": "#try-second-map",
        "try-base": "#try-transfer",
        "try-history": "#try-restore",
    }
    for panel, widget in inside.items():
        unfold(page, panel)
        page.wait_for_selector(widget, state="visible")
