"""Getting a base model: those on offer, with one click to download one, and those that other programs have."""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from engine.bases.catalog import CatalogBase, catalog_bases, hub_id, state_of
from engine.config.presets import suggest
from engine.families.facts import FACTS
from engine.jobs.control import Token
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import JobKind, Outcome
from engine.machine.units import counted, format_bytes, format_memory
from engine.queue.download_jobs import DownloadBase
from engine.workspace.paths import Workspace, bundled_bases
from ui.page.context import AppContext
from ui.page.guide.steps import after_html
from ui.page.jobs import DEMO, job_controls, queue_button
from ui.page.live import Live
from ui.page.messages import note
from ui.page.view import Draft, View

KIND = JobKind.BASES


def build_bases(context: AppContext, live: Live) -> None:
    """Build the folded panel below the base's field."""
    offered = catalog_bases()
    with gr.Accordion("Get a base model", open=False, elem_id="bases"):
        with gr.Row(equal_height=False):
            with gr.Column(min_width=260, elem_classes="snug"):
                gr.HTML(
                    note(
                        "A ControlNet is trained for one base model, which has to know images like yours. The demo "
                        "base knows only coloured shapes."
                    )
                )
                table = gr.HTML(elem_id="bases-list")
            with gr.Column(min_width=300, elem_classes="snug"):
                chosen = gr.Dropdown(
                    [(base.title, base.name) for base in offered],
                    value=offered[0].name,
                    label="Base to download",
                    info="From huggingface.co, only what training needs. An interrupted download "
                    "continues where it stopped.",
                    elem_id="bases-choice",
                )
                about = gr.HTML(about_base(offered[0]), elem_id="bases-about")
                download = gr.Button("Download and use it", size="md", elem_id="bases-download")
                add = queue_button(live, download)
            with gr.Column(min_width=300, elem_classes="snug"):
                folder = gr.Textbox(
                    label="Folder to search",
                    info="Bases of ComfyUI, AUTOMATIC1111 and other programs are used in place, not "
                    "copied. Leave empty to search the usual places.",
                    max_lines=1,
                    elem_id="bases-folder",
                )
                find = gr.Button("Find bases on this computer", size="md", elem_id="bases-find")
                message = gr.HTML(elem_id="bases-message")
                found = gr.Dropdown([], label="Bases found: choose one to use", visible=False, elem_id="bases-found")
        progress = gr.HTML(elem_id="bases-progress")
        cancel = gr.Button("Cancel", visible=False, size="md", elem_id="bases-cancel")

    def start_download(name: str) -> None:
        base = hub_id(name, offered)
        context.start_job(KIND, f"Downloading {base}", download_job(context, base), DownloadBase(base=base))

    def start_search(folder: str) -> None:
        context.start_job(KIND, "Looking for bases", find_job(context, folder or ""))

    described = {base.name: about_base(base) for base in offered}
    live.on(chosen.change, lambda name: described[name], [chosen], [about])
    live.on([download.click, add.click], start_download, [chosen])
    live.on(find.click, start_search, [folder])
    live.on(found.input, lambda path: choose_base(context, path) if path else None, [found])
    job_controls(live, KIND, [find], cancel, progress)
    live.outputs([table], _files_key, lambda view: [list_of_bases(context.workspace, offered)])
    live.outputs([message, found], lambda view: (view.results.get(KIND), after_html(view, "base")), render_result)


def list_of_bases(workspace: Workspace, offered: list[CatalogBase]) -> str:
    """The bases on offer as HTML, and whether each is there."""
    rows = []
    for base in offered:
        state = state_of(workspace, base.id)
        partly = state.kind == "partly downloaded"
        part = f", {format_bytes(state.have)} of about {base.download_gb:.1f} GB" if partly else ""
        rows.append(f"<li><b>{escape(base.title)}</b>: {state.kind}{part}</li>")
    return f"<ul class='reasons'>{''.join(rows)}</ul>"


def about_base(base: CatalogBase) -> str:
    """Describe a base as HTML: its use, its size and its licence."""
    takes = (
        f"{base.resolution} px, for graphics cards of {format_memory(base.min_vram_gib)} or more. The download is "
        f"about {base.download_gb:.1f} GB."
    )
    return note(base.use) + note(takes) + note(f"Licence {base.licence}: {base.licence_means}")


def choose_base(context: AppContext, base: str) -> None:
    """Put a base into the form of the next run. The demo's settings do not suit a real base: the preset for this card
    replaces them."""

    def choose(draft: Draft) -> Draft:
        model = {**draft.changes.get("model", {}), "base": base}
        of_demo = base not in bundled_bases() and context.preset_of(draft).name == DEMO
        preset = suggest(context.hardware.vram_gib).name if of_demo else draft.preset
        return Draft(preset, {**draft.changes, "model": model}, draft.number + 1)

    context.edit_draft(choose)


def download_job(context: AppContext, base: str) -> Work:
    """Return the job that downloads a base of the hub, and then chooses it."""

    def work(token: Token, emit: Emit) -> Outcome:
        context.clear_result(KIND)
        report = DownloadBase(base=base).do(context.workspace, "", token, emit)
        choose_base(context, base)
        context.set_result(KIND, note=f"{base} is downloaded and selected for the next run: {report.where}")
        return "completed"

    return work


def find_job(context: AppContext, folder: str) -> Work:
    """Return the job that looks for bases in a folder, which is remembered; without one, in the usual places."""

    def work(token: Token, emit: Emit) -> Outcome:
        from engine.bases.found_bases import find_everywhere, find_in

        context.clear_result(KIND)
        named = folder.strip()
        search = find_in(context.workspace, named, token) if named else find_everywhere(context.workspace, token)
        titles = {facts.name: facts.title for facts in FACTS}
        facts = tuple(
            (f"{base.name} ({titles.get(family, 'family not read yet')}, {base.whose})", str(base.path))
            for family, bases in search.by_family().items()
            for base in bases
        )
        parts = [f"{counted(len(facts), 'base')} found."]
        parts += [f"Skipped: {count:,} × {what}." for what, count in sorted(search.others.items())]
        parts += [f"{path} was not found. If it is on another drive, connect it." for path in search.missing]
        if search.ended == "time is up":
            parts.append("The search took too long and was stopped. Enter the folder to search.")
        context.set_result(KIND, note=" ".join(parts), facts=facts)
        return "completed"

    return work


def _files_key(view: View) -> Any:
    job = view.snapshot
    return job.kind == KIND and (job.alive, job.outcome), view.results.get(KIND)


def render_result(view: View) -> list[Any]:
    result = view.results.get(KIND)
    if result is None:
        return ["", gr.Dropdown([], value=None, visible=False)]
    said = note(result.note) + after_html(view, "base")
    return [said, gr.Dropdown(list(result.facts), value=None, visible=bool(result.facts))]
