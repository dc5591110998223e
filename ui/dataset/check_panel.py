"""The Check panel of the Dataset tab: run the dataset check, look at its findings, leave images out, correct, undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.jobs.snapshot import JobKind
from ui.dataset import check_jobs
from ui.dataset.check_jobs import KIND
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.enlarge import gallery
from ui.page.jobs import job_controls, queue_button
from ui.page.live import Live
from ui.page.messages import note, progress_bar
from ui.page.view import View


def build(context: AppContext, live: Live, chosen: Any) -> None:
    """Build the panel for the dataset that ``chosen`` names."""
    CheckPanel(context, live).wire(live, chosen)


class CheckPanel:
    """Widgets of the panel, and the handlers that fill them."""

    def __init__(self, context: AppContext, live: Live) -> None:
        self._context = context
        with gr.Column(elem_id="doctor"):
            with gr.Row(elem_classes="tight"):
                with gr.Column(min_width=300):
                    gr.Markdown("Looks for problems in files, images, captions and maps that would harm training.")
                    self._summary = gr.HTML(elem_id="doctor-summary")
                self._start = gr.Button(
                    "Check this dataset", variant="primary", scale=0, min_width=220, elem_id="doctor-check"
                )
                self._add = queue_button(live, self._start)
                self._cancel = gr.Button("Cancel", visible=False, scale=0, min_width=96, elem_id="doctor-cancel")
            self._progress = gr.HTML(elem_id="doctor-progress")
            with gr.Row(elem_classes="tight", visible=False) as self._by_itself:
                self._by_itself_words = gr.HTML(elem_id="doctor-by-itself")
                self._by_itself_cancel = gr.Button(
                    "Cancel", size="sm", scale=0, min_width=96, elem_id="doctor-by-itself-cancel"
                )
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    self._finding = gr.Radio([], label="Findings", show_label=False, elem_id="doctor-findings")
                with gr.Column(scale=3, min_width=420):
                    self._build_details()
            self._build_viewer()
        self._list = [self._summary, self._finding]
        self._detail = [self._details, self._exclude, self._correct, self._undo, self._examples]
        self._viewer = [self._image, self._caption, self._number]

    def _build_details(self) -> None:
        self._details = gr.HTML(elem_id="doctor-details")
        with gr.Row(elem_classes="buttons"):
            self._exclude = gr.Button("Leave these out", visible=False, elem_id="doctor-exclude")
            self._correct = gr.Button("Correct these", visible=False, elem_id="doctor-correct")
            self._undo = gr.Button("Undo", visible=False, elem_id="doctor-undo")
        self._examples = gallery("doctor-examples", columns=4, downloads=False)

    def _build_viewer(self) -> None:
        gr.Markdown("### What the ControlNet sees\nEach image and its map, cropped as in training.")
        self._image = gr.Image(
            interactive=False,
            show_label=False,
            buttons=["fullscreen"],
            format="png",
            elem_id="doctor-seen",
            visible=False,
        )
        self._caption = gr.HTML(elem_id="doctor-about")
        with gr.Row(elem_classes="pager"):
            self._back = gr.Button("‹ Previous image", size="sm", elem_id="doctor-back")
            self._forth = gr.Button("Next image ›", size="sm", elem_id="doctor-next")
        self._number = gr.State(0)

    def wire(self, live: Live, chosen: Any) -> None:
        """Wire the events. ``chosen``: the list of datasets."""
        selection = [chosen, self._finding]
        filled = [*self._detail, *self._viewer]
        # The selection stays the page's own: the list may come twice, the second time after the user has selected.
        live.on(chosen.change, self._update_list, [chosen], self._list)
        live.on(
            [chosen.change, self._finding.change], self._show_finding, selection, filled, trigger_mode="always_last"
        )
        live.on(self._back.click, self._turn(-1), [*selection, self._number], self._viewer)
        live.on(self._forth.click, self._turn(1), [*selection, self._number], self._viewer)
        live.on(self._examples.select, self._show_example, selection, self._viewer)
        for button, decision in ((self._exclude, check_jobs.exclude), (self._undo, check_jobs.undo)):
            act = self._decide(decision)
            decided = live.on(button.click, act, selection, [*self._list, *filled], refresh=True)
            # Once more: details that were read before the decision may have reached the page after it.
            live.on(decided.then, self._show_finding, selection, filled)
        live.on([self._start.click, self._add.click], self._check, [chosen])
        live.on(self._correct.click, self._start_correcting, selection)
        job_controls(live, KIND, [], self._cancel, self._progress)

        live.on(self._by_itself_cancel.click, self._context.auto_check.cancel)
        live.outputs(
            [self._by_itself, self._by_itself_words, self._by_itself_cancel],
            lambda view: (view.auto_check, view.snapshot.alive),
            render_by_itself,
        )
        ended = gr.State("")
        live.outputs([ended], _ended, lambda view: [_ended(view)])
        # In two events: a user who selects a finding while the new list is on its way keeps it, and sees its details.
        listed = live.on(ended.change, self._update_list, [chosen], self._list)
        live.on(listed.then, self._show_finding, selection, filled)

    def _check(self, name: str | None) -> None:
        found = open_dataset(self._context, name).name
        queued = check_jobs.queued(self._context, found)
        self._context.start_job(KIND, f"Checking {found}", check_jobs.check(self._context, found), queued)

    def _start_correcting(self, name: str | None, selected: str) -> None:
        found = open_dataset(self._context, name).name
        queued = check_jobs.queued(self._context, found, selected)
        job = check_jobs.correct(self._context, found, selected)
        self._context.start_job(KIND, f"Correcting {found}", job, queued)

    def _show_list(self, name: str | None, selected: str | None = None) -> list[Any]:
        """Return summary and list of findings. ``selected`` stays selected if it is still in the list."""
        summary, entries = self._listing(name)
        kept = selected if selected in [value for _, value in entries] else check_jobs.ALL_IMAGES
        return [summary, gr.Radio(entries, value=kept if entries else None)]

    def _update_list(self, name: str | None) -> list[Any]:
        """Return summary and list of findings, and leave the selection to the page."""
        summary, entries = self._listing(name)
        return [summary, gr.Radio(entries) if entries else gr.Radio([], value=None)]

    def _listing(self, name: str | None) -> tuple[str, list[tuple[str, str]]]:
        if not pick_dataset(self._context, name):
            return "", []
        from engine.data.doctor import fix

        dataset = open_dataset(self._context, name)
        states = fix.states(dataset)
        return check_jobs.summary(dataset, states), check_jobs.choices(states, dataset.count())

    def _show_finding(self, name: str | None, selected: str | None) -> list[Any]:
        """Return everything that depends on the selected finding."""
        return [*self._finding_details(name, selected), *self._show_image(name, selected, 0)]

    def _finding_details(self, name: str | None, selected: str | None) -> list[Any]:
        """Return text, buttons and examples of a finding."""
        nothing = [*(gr.Button(visible=False) for _ in range(3)), gr.Gallery([], visible=False)]
        if not pick_dataset(self._context, name):
            return ["", *nothing]
        from engine.data.doctor import fix

        dataset = open_dataset(self._context, name)
        state = next((s for s in fix.states(dataset) if s.finding.name == selected), None)
        if state is None:
            return [check_jobs.details(None) + check_jobs.class_counts(dataset), *nothing]
        finding = state.finding
        hits = fix.open_hits(dataset, finding)
        text = check_jobs.details(state) + (check_jobs.files_listed(hits) if finding.unusable else "")
        images = [] if finding.unusable else check_jobs.examples(self._context, dataset, finding, hits)
        own_maps = dataset.condition is not None and dataset.condition.provided
        correctable = finding.correct is not None and (finding.correct != "map" or own_maps)
        columns = 2 if finding.name.startswith(check_jobs.ON_MAPS) else 4
        return [
            text,
            gr.Button(visible=bool(hits) and finding.excludable),
            gr.Button(visible=bool(hits) and correctable),
            gr.Button(visible=state.total > state.open),
            gr.Gallery(images, columns=columns, visible=bool(images)),
        ]

    def _show_image(self, name: str | None, selected: str | None, number: int) -> list[Any]:
        """Return one image as the ControlNet sees it, text about it, and its number."""
        if not pick_dataset(self._context, name):
            return [gr.Image(visible=False), "", 0]
        from engine.data.crop_plan import CropPlan
        from engine.data.doctor import fix

        dataset = open_dataset(self._context, name)
        found = selected in {state.finding.name for state in fix.states(dataset)}  # another dataset may lack it
        hits = check_jobs.hits_to_show(dataset, check_jobs.finding_named(str(selected))) if found else None
        plan = CropPlan.of(self._context.config_of(self._context.draft)[0].data)
        image, text, number = check_jobs.image_seen(dataset, hits, number, plan)
        return [gr.Image(image, visible=image is not None), text, number]

    def _turn(self, by: int) -> Callable[..., list[Any]]:
        return lambda name, selected, number: self._show_image(name, selected, number + by)

    def _decide(self, decision: Callable[[AppContext, str, str], None]) -> Callable[..., list[Any]]:
        """Return a handler that excludes or restores what a finding names, and redraws the panel."""

        def act(name: str, selected: str) -> list[Any]:
            decision(self._context, name, selected)
            return [*self._show_list(name, selected), *self._show_finding(name, selected)]

        return act

    def _show_example(self, name: str, selected: str, event: gr.SelectData) -> list[Any]:
        """Show the hit that a clicked example belongs to. A hit that compares two images has two examples."""
        from engine.data.doctor import fix

        shown = 0
        hits = fix.open_hits(open_dataset(self._context, name), check_jobs.finding_named(selected))
        for number, hit in enumerate(hits):
            shown += 2 if hit.other else 1
            if int(event.index) < shown:
                return self._show_image(name, selected, number)
        return self._show_image(name, selected, 0)


def _ended(view: View) -> str:
    """Return what changes when a check or an import has ended."""
    job = view.snapshot.version if view.snapshot.kind in (KIND, JobKind.DATASET) and not view.snapshot.alive else 0
    return f"{job} {view.auto_check.ended}"


def render_by_itself(view: View) -> list[Any]:
    """Render the progress of the automatic check, or why it failed, and its cancel button."""
    check = view.auto_check
    if not check.alive:
        return [gr.Row(visible=bool(check.failed)), note(check.failed, "warning"), gr.Button(visible=False)]
    if view.snapshot.alive:
        text = note(f"{check.dataset} is checked automatically as soon as “{view.snapshot.title}” has ended.")
    elif check.total:
        text = progress_bar(check.done, check.total, f"Checking {check.dataset} automatically")
    else:
        text = note(f"{check.dataset} is being checked …")
    return [gr.Row(visible=True), text, gr.Button(visible=True)]
