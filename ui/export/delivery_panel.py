"""The Export tab's second half: an export into ComfyUI's or AUTOMATIC1111's folder, or onto the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.export.deliver import PROGRAMS, exports_in, open_folder
from engine.machine.units import format_bytes
from engine.workspace.remembered import remembered
from ui.export import export_jobs
from ui.export.export_jobs import KIND
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import note
from ui.page.view import View


def build(context: AppContext, live: Live, run: Any) -> list[Any]:
    """Everything; returns the buttons that start jobs."""
    with gr.Accordion("Take it there", open=True, elem_id="deliver"):
        file = gr.Dropdown([], value=None, label="Which export", elem_id="deliver-file", interactive=True)
        buttons = []
        for program in PROGRAMS:
            with gr.Row(elem_classes="deliver"):
                folder = gr.Textbox(
                    label=f"Folder of {program.title}",
                    placeholder="where you installed it",
                    max_lines=1,
                    scale=3,
                    elem_id=f"deliver-{program.name}-folder",
                )
                copy = gr.Button("Copy", scale=1, min_width=120, elem_id=f"deliver-{program.name}")
            buttons.append((program.name, folder, copy))
        replace = gr.Checkbox(label="Replace a file of the same name there", elem_id="deliver-replace")
        show = gr.Button("Open the exports folder", visible=context.local, elem_id="deliver-open")
        told = gr.HTML(elem_id="deliver-told")
    with gr.Accordion("Upload to the Hugging Face hub", open=False, elem_id="hub"):
        repository = gr.Textbox(
            label="Repository",
            info="Your name there, a slash, a name for the net. It is made if it is not there.",
            placeholder="anna/canny-birds",
            max_lines=1,
            elem_id="hub-repository",
        )
        token = gr.Textbox(
            label="Token",
            type="password",
            max_lines=1,
            info="With the right to write, from huggingface.co/settings/tokens. Used for this upload, not kept.",
            elem_id="hub-token",
        )
        private = gr.Checkbox(True, label="Only I can see it", elem_id="hub-private")
        gr.HTML(note("The net goes up with its model card and example images. Your training images do not."))
        upload = gr.Button("Upload", elem_id="hub-upload")

    def recall() -> list[str]:
        known = remembered(context.workspace)
        return [known.get(name, "") for name in (*(program.name for program in PROGRAMS), "hub_repository")]

    def list_exports(run: str | None) -> Any:
        return _choices(context.workspace.runs / run / "exports") if run else gr.Dropdown([], value=None)

    def copy_to(program: str) -> Any:
        def start(file: str | None, folder: str, overwrite: bool) -> None:
            _need(file)
            job = export_jobs.copy_it(context, str(file), program, folder or "", bool(overwrite))
            context.start_job(KIND, "Copying", job)

        return start

    def start_upload(file: str | None, repository: str, token: str, private: bool) -> str:
        _need(file)
        if not (repository or "").strip() or not (token or "").strip():
            raise UserError(
                "Nothing was uploaded.", "The repository or the token is empty.", "Fill in both, and press Upload."
            )
        job = export_jobs.upload_it(context, str(file), repository, token, bool(private))
        context.start_job(KIND, "Uploading", job)
        return ""  # the box is emptied: the token is not kept on the page either

    def open_exports(run: str | None) -> None:
        folder = context.workspace.runs / (run or "") / "exports"
        if not run or not folder.is_dir():
            raise UserError("There is no exports folder yet.", "Nothing of this run was exported.", "Export first.")
        open_folder(folder)

    live.demo.load(recall, None, [*(folder for _, folder, _ in buttons), repository], **NO_PROGRESS)
    run.change(context.catch_errors(list_exports), [run], [file], **NO_PROGRESS)
    for name, folder, copy in buttons:
        live.refresh_after(
            copy.click(
                context.catch_errors(copy_to(name), has_outputs=False), [file, folder, replace], None, **NO_PROGRESS
            )
        )
    live.refresh_after(
        upload.click(context.catch_errors(start_upload), [file, repository, token, private], [token], **NO_PROGRESS)
    )
    live.refresh_after(show.click(context.catch_errors(open_exports, has_outputs=False), [run], None, **NO_PROGRESS))
    live.outputs(
        [file], lambda view: (view.results.get(KIND), view.runs, view.shown_run), lambda view: [_newest(context, view)]
    )
    live.outputs([told], lambda view: view.results.get("deliver"), lambda view: [_told(view)])
    return [*(copy for _, _, copy in buttons), upload]


def _need(file: str | None) -> None:
    if not file:
        raise UserError("Nothing was copied.", "There is no export yet, or none is chosen.", "Export first.")


def _choices(folder: Path, chosen: str = "") -> Any:
    """The exports of a folder; without a choice the newest single file, which is what the programs load."""
    made = sorted(exports_in(folder), key=lambda made: made.path.is_dir())
    found = [(f"{one.path.name} · {format_bytes(one.bytes)}", str(one.path)) for one in made]
    values = [value for _, value in found]
    return gr.Dropdown(found, value=chosen if chosen in values else next(iter(values), None))


def _newest(context: AppContext, view: View) -> Any:
    made = view.results.get(KIND)
    if made is not None and made.where:
        return _choices(Path(made.where).parent, made.where)
    run = view.shown_run or next(iter(view.runs), None)
    return _choices(context.workspace.runs / run / "exports") if run else gr.Dropdown([], value=None)


def _told(view: View) -> str:
    result = view.results.get("deliver")
    return note(result.note, "good") if result else ""
