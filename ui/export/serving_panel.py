"""The card of the HTTP API: serves a net to other programs on this computer while the window is open."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.machine.units import counted
from engine.serving import PORT
from ui.page.api_server import WindowApi
from ui.page.choices import NEWEST, pick_checkpoint
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note


def build(context: AppContext, live: Live, run: Any, checkpoint: Any) -> None:
    """Build the card for the run and the checkpoint that are selected."""
    api = WindowApi(context)
    with gr.Accordion("Serve it to other programs (HTTP API)", open=False, elem_id="serve"):
        gr.HTML(
            note(
                "Scripts on this computer can draw with the selected checkpoint while this window is open, and so can "
                "plugins for AUTOMATIC1111 that send a password, such as AI Render for Blender. docs/serving.md has "
                "examples."
            )
        )
        with gr.Row(elem_classes="deliver"):
            port = gr.Number(PORT, label="Port", precision=0, minimum=1, maximum=65535, elem_id="serve-port")
            start = gr.Button("Start the server", elem_id="serve-start", min_width=160)
            stop = gr.Button("Stop the server", visible=False, elem_id="serve-stop", min_width=160)
        state = gr.HTML(elem_id="serve-state")
        token = gr.Textbox(
            label="Token",
            info="Programs have to send it, as a bearer token or as the password. Each start makes a new one.",
            interactive=False,
            visible=False,
            buttons=["copy"],
            elem_id="serve-token",
        )

    def start_server(run: str | None, step: int | None, port: float | None) -> None:
        from engine.serving.served_net import serve_run

        if not run:
            raise UserError("The server was not started.", "No run is selected.", "Select a run.")
        chosen = pick_checkpoint(context, run, step)
        served = serve_run(context.workspace, run, None if step in (NEWEST, None) else chosen.step)
        api.start(served, int(port or PORT))

    live.on(start.click, start_server, [run, checkpoint, port])
    live.on(stop.click, lambda: api.stop())
    live.outputs([start, stop, port, state, token], lambda view: api.state(), lambda view: _shown(api))


def _shown(api: WindowApi) -> list[Any]:
    running = api.running
    return [
        gr.Button(visible=not running),
        gr.Button(visible=running),
        gr.Number(interactive=not running),
        _state(api) if running else "",
        gr.Textbox(api.token if running else "", visible=running),
    ]


def _state(api: WindowApi) -> str:
    assert api.server is not None
    served, url, counts = api.server.served, api.server.url, api.server.jobs.counts()
    step = "" if served.step is None else f", step {served.step:,}"
    busy = f"{counts['drawing']} being drawn, {counts['waiting']} waiting, {counted(counts['done'], 'request')} done"
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return note(f"{served.name}{step} is served at {url}: {busy}{failed}.", "good") + (
        f"<p class='note hint'>How it is used: <a href='{escape(url)}/docs' target='_blank'>{escape(url)}/docs</a></p>"
    )
