"""The doctor on the Dataset tab: check a set, look at what was found, leave out, correct, undo."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.jobs.snapshot import JobKind
from ui.dataset import check_jobs
from ui.dataset.check_jobs import KIND
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import job_progress
from ui.page.view import View


def build(context: AppContext, live: Live, chosen: Any) -> None:
    """The whole panel, for the dataset that ``chosen`` names."""
    with gr.Column(elem_id="doctor"):
        with gr.Row(elem_classes="tight"):
            with gr.Column(min_width=300):
                gr.Markdown("Looks for what spoils a training: in files, images, captions and maps.")
                summary = gr.HTML(elem_id="doctor-summary")
            start = gr.Button("Check this dataset", variant="primary", scale=0, min_width=220, elem_id="doctor-check")
            cancel = gr.Button("Cancel", visible=False, scale=0, min_width=96, elem_id="doctor-cancel")
        progress = gr.HTML(elem_id="doctor-progress")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=300):
                finding = gr.Radio([], label="Findings", show_label=False, elem_id="doctor-findings")
            with gr.Column(scale=3, min_width=420):
                details = gr.HTML(elem_id="doctor-details")
                with gr.Row(elem_classes="buttons"):
                    leave = gr.Button("Leave these out", visible=False, elem_id="doctor-exclude")
                    repair = gr.Button("Correct these", visible=False, elem_id="doctor-correct")
                    back = gr.Button("Undo", visible=False, elem_id="doctor-undo")
                gallery = gr.Gallery(
                    columns=4, height="auto", object_fit="contain", interactive=False, show_label=False,
                    visible=False, buttons=["fullscreen"], elem_id="doctor-examples",
                )  # fmt: skip
        gr.Markdown("### What the net sees\nAfter the crop that training uses.")
        seen = gr.Image(
            interactive=False, show_label=False, buttons=["fullscreen"], format="png", elem_id="doctor-seen",
            visible=False,
        )  # fmt: skip
        about = gr.HTML(elem_id="doctor-about")
        with gr.Row(elem_classes="pager"):
            earlier = gr.Button("‹ Earlier image", size="sm", elem_id="doctor-back")
            later = gr.Button("Next image ›", size="sm", elem_id="doctor-next")
        at = gr.State(0)

    listed = [summary, finding]
    told = [details, leave, repair, back, gallery]
    looked = [seen, about, at]

    def list_findings(name: str | None, selected: str | None = None, keep: bool = False) -> list[Any]:
        """Summary and list; ``keep``: whatever is chosen on the page by now stays chosen."""
        if not pick_dataset(context, name):
            return ["", gr.Radio([], value=None)]
        from engine.data.doctor import fix

        dataset = open_dataset(context, name)
        states = fix.states(dataset)
        entries = check_jobs.choices(states, dataset.count())
        if keep:
            return [check_jobs.summary(dataset, states), gr.Radio(entries)]
        kept = selected if selected in [entry[1] for entry in entries] else check_jobs.EVERY
        return [check_jobs.summary(dataset, states), gr.Radio(entries, value=kept)]

    def tell(name: str | None, selected: str | None) -> list[Any]:
        if not pick_dataset(context, name):
            return ["", *(gr.Button(visible=False) for _ in range(3)), gr.Gallery([], visible=False)]
        from engine.data.doctor import fix

        dataset = open_dataset(context, name)
        state = next((s for s in fix.states(dataset) if s.finding.name == selected), None)
        if state is None:
            hidden = [gr.Button(visible=False)] * 3
            return [check_jobs.details(None), *hidden, gr.Gallery([], visible=False)]
        kind = state.finding
        hits = fix.open_hits(dataset, kind)
        words = check_jobs.details(state) + (check_jobs.files_listed(hits) if kind.unusable else "")
        images = [] if kind.unusable else check_jobs.examples(context, dataset, kind, hits)
        own_maps = dataset.condition is not None and dataset.condition.provided
        correctable = kind.correct is not None and (kind.correct != "map" or own_maps)
        return [
            words,
            gr.Button(visible=bool(hits) and not kind.unusable),
            gr.Button(visible=bool(hits) and correctable),
            gr.Button(visible=state.total > state.open),
            gr.Gallery(images, columns=2 if kind.name.startswith(check_jobs.ON_MAPS) else 4, visible=bool(images)),
        ]

    def look(name: str | None, selected: str | None, number: int) -> list[Any]:
        if not pick_dataset(context, name):
            return [gr.Image(visible=False), "", 0]
        dataset = open_dataset(context, name)
        hits = check_jobs.to_look_at(dataset, check_jobs.finding_named(selected)) if selected else None
        from engine.data.crop_plan import CropPlan

        plan = CropPlan.of(context.config_of(context.draft)[0].data)
        image, words, number = check_jobs.looked_at(dataset, hits, number, plan)
        return [gr.Image(image, visible=image is not None), words, number]

    def turn(by: int) -> Any:
        return context.catch_errors(lambda name, selected, number: look(name, selected, number + by))

    def act(what: Any) -> Any:
        def handler(name: str, selected: str) -> list[Any]:
            what(context, name, selected)
            return [*list_findings(name, selected), *tell(name, selected), *look(name, selected, 0)]

        return context.catch_errors(handler)

    def pick(name: str, selected: str, event: gr.SelectData) -> list[Any]:
        return look(name, selected, _hit_of(context, name, selected, int(event.index)))

    chosen.change(context.catch_errors(list_findings), [chosen], listed, **NO_PROGRESS)
    retell = context.catch_errors(lambda name, selected: [*tell(name, selected), *look(name, selected, 0)])
    gr.on(
        [chosen.change, finding.change],
        retell,
        [chosen, finding],
        [*told, *looked],
        trigger_mode="always_last",
        **NO_PROGRESS,
    )
    earlier.click(turn(-1), [chosen, finding, at], looked, **NO_PROGRESS)
    later.click(turn(1), [chosen, finding, at], looked, **NO_PROGRESS)
    gallery.select(context.catch_errors(pick), [chosen, finding], looked, **NO_PROGRESS)
    everything = [*listed, *told, *looked]
    live.refresh_after(leave.click(act(check_jobs.exclude), [chosen, finding], everything, **NO_PROGRESS))
    live.refresh_after(back.click(act(check_jobs.undo), [chosen, finding], everything, **NO_PROGRESS))

    def begin(name: str | None) -> None:
        found = open_dataset(context, name).name
        context.start_job(KIND, f"Checking {found}", check_jobs.check(context, found))

    def begin_correcting(name: str | None, selected: str) -> None:
        found = open_dataset(context, name).name
        context.start_job(KIND, f"Correcting {found}", check_jobs.correct(context, found, selected))

    live.refresh_after(start.click(context.catch_errors(begin, has_outputs=False), [chosen], **NO_PROGRESS))
    live.refresh_after(
        repair.click(context.catch_errors(begin_correcting, has_outputs=False), [chosen, finding], **NO_PROGRESS)
    )
    live.refresh_after(cancel.click(live.job_command("cancel"), **NO_PROGRESS))
    live.outputs([start, cancel, progress], _job_key, _job)
    ended = gr.State(0)
    live.outputs([ended], lambda view: _ended(view), lambda view: [_ended(view)])
    # Two steps: who chooses a finding while the list is on its way keeps it, and sees that one.
    listing = ended.change(
        context.catch_errors(lambda name: list_findings(name, keep=True)), [chosen], listed, **NO_PROGRESS
    )
    listing.then(retell, [chosen, finding], [*told, *looked], **NO_PROGRESS)


def _hit_of(context: AppContext, name: str, selected: str, place: int) -> int:
    """Which finding an image of the gallery belongs to: where two are compared, both are shown."""
    from engine.data.doctor import fix

    shown = 0
    hits = fix.open_hits(open_dataset(context, name), check_jobs.finding_named(selected))
    for number, hit in enumerate(hits):
        shown += 2 if hit.other else 1
        if place < shown:
            return number
    return 0


def _ended(view: View) -> int:
    """Changes when a check or a new scan has ended."""
    return view.snapshot.version if view.snapshot.kind in (KIND, JobKind.DATASET) and not view.snapshot.alive else 0


def _job_key(view: View) -> Any:
    return view.snapshot if view.snapshot.kind == KIND else view.snapshot.alive


def _job(view: View) -> list[Any]:
    own = view.snapshot.kind == KIND and view.snapshot.alive
    words = job_progress(view.snapshot) if own else ""
    return [gr.Button(interactive=not view.snapshot.alive), gr.Button(visible=own), words]
