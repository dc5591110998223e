"""HTML in names, captions and errors is escaped by everything that produces HTML for the page."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.data.dataset import Dataset
from engine.data.scan import scan_folder
from engine.jobs.events import Checked, PreviewMade, Progress
from engine.jobs.snapshot import Curve, Failure, JobSnapshot
from engine.queue.entries import Entry
from engine.queue.entries import Result as QueueResult
from engine.workspace.paths import Workspace
from ui.app import build_app
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.view import QueueView, Result, View

EVIL = "<img src=x onerror=\"parent.fired=1\">'\"><script>parent.fired=2</script><a href='javascript:fired=3'>&lt;b&gt;"
IN_A_NAME = "<img src=x onerror=parent.fired=1>&amp;'\""
ALLOWED = ("navigator.clipboard", "this.checked;", "#troubleshooting", "document.getElementById('tab-")
"""Parts of the scripts of the problem panel, and of buttons that open a tab."""
SERVED = "gradio_api/file="
"""Where the addresses of the page's own images begin: files of folders that the app may serve."""
OF_AN_IMAGE = {"src", "alt", "class", "loading", "width", "height"}


class Harm(HTMLParser):
    """Collects what a browser would run or load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "img" and _is_own(dict(attributes)):
            return
        if tag in ("script", "img", "iframe", "object", "embed", "a", "style", "link", "base", "form"):
            self.found.append(tag)
        for name, value in attributes:
            own = any(word in (value or "") for word in ALLOWED)
            leads = name in ("href", "src", "action", "formaction", "data", "xlink:href")
            if (name.startswith("on") and not own) or leads:
                self.found.append(f"{tag} {name}={value}")


def _is_own(image: dict[str, str | None]) -> bool:
    """Tell whether an image is the page's own: one that is served here, or that of a dialog before it is opened."""
    return set(image) <= OF_AN_IMAGE and (image.get("src") or SERVED).startswith(SERVED)


def harm(html: str) -> list[str]:
    parser = Harm()
    parser.feed(html)
    parser.close()
    return parser.found


def texts(value: Any) -> Iterator[str]:
    """Return the texts of an update for a component that shows HTML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts(value.get("value"))
    elif hasattr(value, "value"):
        yield from texts(value.value)


def test_the_parser_sees_harm() -> None:
    assert harm(EVIL) and harm(IN_A_NAME) and harm("<p onmouseover='x()'>") and not harm("<p class='x'>&lt;img&gt;</p>")
    assert harm("<img src='https://elsewhere/x.png'>") and harm(f"<img src='{SERVED}x' srcset='https://elsewhere/x'>")
    assert harm(f"<img src='{SERVED}x' onload='x()'>") and not harm(f"<img src='{SERVED}x' alt='' loading='lazy'>")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, Any]) -> tuple[AppContext, Live, Any]:
    """The whole page over a workspace whose names and captions are all evil."""
    folder = tmp_path_factory.mktemp("evil") / "pictures"
    folder.mkdir()
    for number, photo in enumerate(photos.values()):
        try:
            path = folder / f"{number}{IN_A_NAME}.png"
            path.touch()
        except OSError:  # Windows does not allow such names
            path = folder / f"{number}.png"
        Image.fromarray(photo).resize((96, 64)).save(path)
        path.with_suffix(".txt").write_text(EVIL, encoding="utf-8")
    with contextlib.suppress(OSError):
        (folder / f"bad{IN_A_NAME}.png").write_bytes(b"no image")
    workspace = Workspace(tmp_path_factory.mktemp("work") / "workspace")
    Dataset.create(workspace, "evil", scan_folder(folder), folder)
    context = AppContext(workspace)
    demo, live = build_app(context)
    return context, live, demo


def evil_view(context: AppContext, alive: bool) -> View:
    """Return a view in which every text from outside is evil."""
    failure = Failure(EVIL, EVIL, EVIL, EVIL)
    drawn = context.workspace.root / f"drawn{'' if os.name == 'nt' else IN_A_NAME}.png"
    Image.new("RGB", (96, 32)).save(drawn)
    checks = tuple(Checked(step, step, 0.5, 0.5, 0.1, 0.2, 0.01, 0.5, 0.1) for step in (0, 50, 100))
    snapshot = JobSnapshot(
        version=7,
        kind="train",
        title=EVIL,
        alive=alive,
        outcome=None if alive else "failed",
        failure=failure,
        phase="running",
        progress=Progress(1, 2, EVIL),
        run_name=EVIL,
        total_steps=100,
        log=(EVIL, EVIL),
        loss=Curve(((1, 0.5), (2, 0.25))),
        scores=((1, {EVIL: 0.5}), (2, {EVIL: 0.6})),
        checks=checks,
        preview=PreviewMade(1, drawn.parent, (drawn, Path(IN_A_NAME)), (EVIL, EVIL), {EVIL: 0.5}, ((drawn, EVIL),)),
    )
    view = context.view()
    results = {
        kind: Result(3, facts=((EVIL, EVIL),), note=EVIL, where=f"/x/{EVIL}")
        for kind in (
            "dataset",
            "captions",
            "conditions",
            "doctor",
            "export",
            "average",
            "import",
            "compare",
            "try",
            "deliver",
            "hub",
            "trial",
            "demo",
        )
    }
    train = replace(view.train, headline=EVIL, hint=EVIL)
    entry = Entry(EVIL, "train", EVIL, {}, EVIL, 60.0)
    queue = QueueView((entry,), (QueueResult(EVIL, "train", EVIL, "failed", EVIL, 60.0, EVIL),), True)
    return replace(
        view,
        snapshot=snapshot,
        queue=queue,
        history=snapshot,
        problem=failure,
        results=results,
        train=train,
        shown_run=EVIL,
        datasets=(EVIL, "evil"),
        runs=(EVIL,),
        focus_dataset="evil",
    )


@pytest.mark.parametrize("alive", [True, False])
def test_no_live_output_lets_html_through(built: tuple[AppContext, Live, Any], alive: bool) -> None:
    context, live, _ = built
    view, seen = evil_view(context, alive), 0
    for outputs in live.registered:
        for output, update in zip(outputs.components, outputs.render(view), strict=True):
            if type(output).__name__ in ("HTML", "Markdown"):
                for html in texts(update):
                    assert harm(html) == [], (output.elem_id, html)
                    seen += "&lt;img" in html or "&lt;script" in html
    assert seen >= 5, "the evil words were not among what was looked at"


def test_no_event_handler_lets_html_through(built: tuple[AppContext, Live, Any]) -> None:
    """Call the handlers that show a dataset or a folder, as the page does."""
    context, _, demo = built
    seen: set[str] = set()
    given = {"dataset-list": "evil", "conditions-dataset": "evil", "State": 0, "dataset-folder": f"/x/{EVIL}"}
    for function in {(f.fn.__module__, f.fn.__qualname__): f for f in demo.fns.values() if f.fn}.values():
        names = [c.elem_id or type(c).__name__ for c in function.inputs]
        shown = [o for o in function.outputs if type(o).__name__ in ("HTML", "Markdown")]
        changes = function.fn.__qualname__.endswith(("handler", "start", "pick", "act", "_show_example"))
        if not shown or changes or not set(given) & set(names) - {"State"} or len(names) > 12:
            continue
        answer = function.fn(*(given.get(n, c.value) for n, c in zip(names, function.inputs, strict=True)))
        answer = answer if isinstance(answer, list | tuple) else [answer]
        for output, update in zip(function.outputs, answer, strict=True):
            if output in shown:
                for html in texts(update):
                    assert harm(html) == [], (output.elem_id, html)
                    seen |= {str(output.elem_id)} if "&lt;" in html else set()
    assert {"dataset-table", "dataset-problems"} <= seen, "the evil words were not among what was looked at"
    assert context.view().problem is None
