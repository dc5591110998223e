"""Copies an export into the folder of ComfyUI or AUTOMATIC1111, or uploads it to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.export.deliver import PROGRAMS, exports_in, open_folder
from engine.machine.units import format_bytes
from engine.workspace.remembered import remembered
from ui.export import export_jobs, sharing_panel
from ui.export.export_jobs import KIND
from ui.page.choices import shown_run
from ui.page.context import AppContext
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import View


def build(context: AppContext, live: Live, run: Any, checkpoint: Any) -> list[Any]:
    """Build the panels for the run and the checkpoint that are selected. Returns the buttons that start jobs."""
    with gr.Accordion("Copy it to ComfyUI or AUTOMATIC1111", open=True, elem_id="deliver"):
        file = gr.Dropdown([], value=None, label="Exported file", elem_id="deliver-file", interactive=True)
        programs = [_build_program(program) for program in PROGRAMS]
        replace = gr.Checkbox(label="Overwrite a file of the same name there", elem_id="deliver-replace")
        show = gr.Button("Open the exports folder", visible=context.local, elem_id="deliver-open")
        result = gr.HTML(elem_id="deliver-result")
    check = sharing_panel.build(context, live, run, checkpoint)
    with gr.Accordion("Upload it to the Hugging Face Hub", open=False, elem_id="hub") as hub:
        repository, token, private, card, upload = _build_hub()

    def recall() -> list[str]:
        known = remembered(context.workspace)
        return [known.get(name, "") for name in (*(program.name for program in PROGRAMS), "hub_repository")]

    def list_run(name: str | None) -> Any:
        return list_of(context.workspace.runs / name / "exports") if name else gr.Dropdown([], value=None)

    def copy_to(program: str) -> Callable[..., None]:
        def start(file: str | None, folder: str, overwrite: bool) -> None:
            _check_selected(file)
            job = export_jobs.copy_job(context, str(file), program, folder or "", bool(overwrite))
            context.start_job(KIND, "Copying", job)

        return start

    def start_upload(file: str | None, repository: str, token: str, private: bool) -> str:
        _check_selected(file)
        if not (repository or "").strip() or not (token or "").strip():
            raise UserError(
                "Nothing was uploaded.", "The repository or the token is empty.", "Fill in both, then press Upload."
            )
        job = export_jobs.upload_job(context, str(file), repository, token, bool(private))
        context.start_job(KIND, "Uploading", job)
        return ""  # empties the box: the token is not kept on the page either

    def open_exports(run: str | None) -> None:
        folder = context.workspace.runs / (run or "") / "exports"
        if not run or not folder.is_dir():
            raise UserError("There is no exports folder yet.", "This run was never exported.", "Export it first.")
        open_folder(folder)

    folders = [folder for folder, _ in programs]
    live.on(live.demo.load, recall, None, [*folders, repository])
    live.on(run.change, list_run, [run], [file])
    for program, (folder, copy) in zip(PROGRAMS, programs, strict=True):
        live.on(copy.click, copy_to(program.name), [file, folder, replace])
    live.on(upload.click, start_upload, [file, repository, token, private], [token], refresh=True)
    live.on(show.click, open_exports, [run])
    live.on([hub.expand, file.change], sharing_panel.card_note, [file], [card])
    live.outputs(
        [file],
        lambda view: (view.results.get(KIND), view.runs, view.shown_run),
        lambda view: [_newest(context, view)],
    )
    live.outputs([result], lambda view: view.results.get("deliver"), lambda view: [_result(view)])
    return [*(copy for _, copy in programs), check, upload]


def _build_program(program: Any) -> tuple[Any, Any]:
    """Build the folder and the button of one program."""
    with gr.Row(elem_classes="deliver"):
        folder = gr.Textbox(
            label=f"Folder of {program.title}",
            placeholder="where you installed it",
            max_lines=1,
            scale=3,
            elem_id=f"deliver-{program.name}-folder",
        )
        copy = gr.Button("Copy", scale=1, min_width=120, elem_id=f"deliver-{program.name}")
    return folder, copy


def _build_hub() -> tuple[Any, Any, Any, Any, Any]:
    """Build repository, token, privacy, what the model card leaves open, and the button of the upload."""
    repository = gr.Textbox(
        label="Repository",
        info="Your user name, a slash, a name for the model. It is created if it does not exist.",
        placeholder="anna/canny-birds",
        max_lines=1,
        elem_id="hub-repository",
    )
    token = gr.Textbox(
        label="Access token",
        type="password",
        max_lines=1,
        info="With write access, from huggingface.co/settings/tokens. Used for this upload only, never stored.",
        elem_id="hub-token",
    )
    private = gr.Checkbox(True, label="Private: only you can see it", elem_id="hub-private")
    gr.HTML(note("Uploads the ControlNet, its model card and example images. Your training images stay here."))
    card = gr.HTML(elem_id="hub-card")
    return repository, token, private, card, gr.Button("Upload", elem_id="hub-upload")


def _check_selected(file: str | None) -> None:
    if not file:
        raise UserError(
            "No export is selected.", "There is none yet, or none is selected in the list.", "Export first."
        )


def list_of(folder: Path, chosen: str = "") -> Any:
    """Return the list of exports in a folder. Single files come first: that is what the programs load."""
    made = sorted(exports_in(folder), key=lambda made: made.path.is_dir())
    found = [(f"{one.path.name} · {format_bytes(one.bytes)}", str(one.path)) for one in made]
    values = [value for _, value in found]
    return gr.Dropdown(found, value=chosen if chosen in values else next(iter(values), None))


def _newest(context: AppContext, view: View) -> Any:
    """Return the list with the newest export selected."""
    made = view.results.get(KIND)
    if made is not None and made.where:
        return list_of(Path(made.where).parent, made.where)
    run = shown_run(view)
    return list_of(context.workspace.runs / run / "exports") if run else gr.Dropdown([], value=None)


def _result(view: View) -> str:
    result = view.results.get("deliver")
    return note(result.note, "good") if result else ""
