"""gradio's script for dropdowns, with its fault mended: as long as gradio has it, and no longer."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ui.server.list_script import MendedLists, assets_folder, mended


def test_one_script_has_the_fault_and_is_served_without_it() -> None:
    faulty = [path.name for path in assets_folder().glob("Index-*.js") if mended(path.name)]
    assert len(faulty) == 1, "gradio has mended or moved it: see whether ui/server/list_script.py can go"
    name = faulty[0]
    original, served = (assets_folder() / name).read_text(encoding="utf-8"), mended(name)
    assert served is not None and served.decode().count('??[""])[0]') >= 1
    assert served.decode().replace('??[""])[0]', "][0]").count("filtered_indices") == original.count("filtered_indices")

    async def other(request: Request) -> PlainTextResponse:
        return PlainTextResponse("gradio's own")

    app = Starlette(routes=[Route("/{path:path}", other)], middleware=[Middleware(MendedLists)])
    client = TestClient(app)
    answer = client.get(f"/assets/{name}")
    assert answer.content == served and answer.headers["content-type"].startswith("text/javascript")
    for elsewhere in ("/assets/index.js", "/assets/Index-nothing.js", "/assets/Index-..%2F..%2Findex.html", "/"):
        assert client.get(elsewhere).text == "gradio's own"
