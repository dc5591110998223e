"""The card of the HTTP API: serves a net to other programs on this computer while the window is open."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.families.files import configs_of
from engine.inference.engines import ENGINES
from engine.machine.onnx_packages import DESCRIPTION, TO_EXPORT, TO_RUN, TORCH, missing_packages
from engine.machine.units import counted
from engine.serving import PORT
from engine.tuning.facts import facts_of
from ui.page.api_server import WindowApi
from ui.page.choices import NEWEST, pick_checkpoint, run_of
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
        engine = gr.Dropdown(
            [(one.title, one.name) for one in ENGINES],
            value=TORCH,
            label="Engine",
            info="ONNX Runtime draws with the checkpoint's export in the format “Folder for ONNX Runtime”. While a "
            "run trains, only PyTorch can draw.",
            visible=False,
            elem_id="serve-engine",
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

    def offer_engine(run: str | None, chosen: str) -> Any:
        offered = may_use_onnx(context, run)
        return gr.Dropdown(value=chosen if offered else TORCH, visible=offered)

    def start_server(run: str | None, step: int | None, engine: str, port: float | None) -> None:
        from engine.serving.served_net import computed_by, serve_run

        if not run:
            raise UserError("The server was not started.", "No run is selected.", "Select a run.")
        chosen = pick_checkpoint(context, run, step)
        served = serve_run(context.workspace, run, None if step in (NEWEST, None) else chosen.step)
        api.start(computed_by(served, engine), int(port or PORT))

    live.on(run.change, offer_engine, [run, engine], [engine])
    live.on(start.click, start_server, [run, checkpoint, engine, port])
    live.on(stop.click, lambda: api.stop())
    live.outputs([start, stop, engine, port, state, token], lambda view: api.state(), lambda view: _shown(api))


def may_use_onnx(context: AppContext, name: str | None) -> bool:
    """Whether a run's checkpoints can be drawn with ONNX Runtime: one has been exported, or can be."""
    run = run_of(context, name)
    if run is None or missing_packages(TO_RUN) or facts_of(run.config).exported_as != "control net":
        return False
    if any(run.exports.glob(f"*/{DESCRIPTION}")):
        return True
    try:
        facts = configs_of(context.workspace, run.config.model.base).facts
    except UserError:
        return False  # the base is gone
    return "onnx" in facts.control_files.formats and not missing_packages(TO_EXPORT)


def _shown(api: WindowApi) -> list[Any]:
    running = api.running
    return [
        gr.Button(visible=not running),
        gr.Button(visible=running),
        gr.Dropdown(interactive=not running),
        gr.Number(interactive=not running),
        _state(api) if running else "",
        gr.Textbox(api.token if running else "", visible=running),
    ]


def _state(api: WindowApi) -> str:
    assert api.server is not None
    served, url, counts = api.server.served, api.server.url, api.server.jobs.counts()
    step = "" if served.step is None else f", step {served.step:,}"
    engine = str(served.defaults.get("engine", TORCH))
    by = "" if engine == TORCH else f" with {next(one.title for one in ENGINES if one.name == engine)}"
    busy = f"{counts['drawing']} being drawn, {counts['waiting']} waiting, {counted(counts['done'], 'request')} done"
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return note(f"{served.name}{step} is served{by} at {url}: {busy}{failed}.", "good") + (
        f"<p class='note hint'>How it is used: <a href='{escape(url)}/docs' target='_blank'>{escape(url)}/docs</a></p>"
    )
