"""The Captions panel of the Dataset tab: edit captions one by one or all at once, let a model write them, undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from ui.dataset import caption_jobs
from ui.dataset.caption_jobs import ADD, KIND, NAMES, REPLACE, TEMPLATE
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.jobs import job_controls, queue_button
from ui.page.live import Live
from ui.page.side_jobs import SideRunner
from ui.page.view import View

ROWS = 8
VIEWS = ("One by one", "All at once", "By a model", "History")
FIELDS = ("search", "by", "regex", "case", "words", "prefix", "suffix", "trigger", "template", "only_empty")


def build(context: AppContext, live: Live, chosen: Any) -> None:
    """Build the panel for the dataset that ``chosen`` names."""
    side = SideRunner(context)
    with gr.Column(elem_id="captions"):
        gr.Markdown("Your text files are never changed: edits are stored with the dataset, and can be undone.")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=240):
                summary = gr.HTML(elem_id="captions-about")
                undo = gr.Button("Undo the last change", interactive=False, elem_id="captions-undo")
            with gr.Column(scale=3, min_width=420):
                changed = gr.State(0)
                view = gr.Radio(list(VIEWS), value=VIEWS[0], show_label=False, container=False, elem_id="captions-view")
                with gr.Column() as one:
                    _build_table(context, live, chosen, changed)
                with gr.Column(visible=False) as every:
                    _build_operations(context, live, chosen, side)
                with gr.Column(visible=False) as model:
                    _build_model(context, live, chosen)
                with gr.Column(visible=False) as past:
                    history = gr.HTML(elem_id="captions-history")
                progress = gr.HTML(elem_id="captions-progress")
                cancel = gr.Button("Cancel", visible=False, elem_id="captions-cancel")
                result = gr.HTML(elem_id="captions-result")  # right below the button that was pressed

    def show_view(title: str) -> list[Any]:
        return [*(gr.Column(visible=title == name) for name in VIEWS), ""]  # the result belongs to the other view

    def refresh(name: str | None) -> list[Any]:
        operations, can_undo = caption_jobs.history(context, name)
        return [caption_jobs.summary(context, name), operations, gr.Button(interactive=can_undo)]

    live.on(view.change, show_view, [view], [one, every, model, past, result])
    live.on([chosen.change, changed.change], refresh, [chosen], [summary, history, undo])
    live.on(undo.click, lambda name: caption_jobs.undo(context, name), [chosen])
    live.outputs([changed, result], lambda view: view.results.get(KIND), _result)
    job_controls(live, KIND, [], cancel, progress, side=side)


def _result(view: View) -> list[Any]:
    result = view.results.get(KIND)
    return [result.number, caption_jobs.result_html(result.note, result.facts)] if result else [0, ""]


def _build_table(context: AppContext, live: Live, chosen: Any, changed: Any) -> None:
    """Build a page of captions to type in. ``changed``: a State that changes when the captions do."""
    with gr.Row(equal_height=False, elem_classes="tight"):
        which = gr.Radio(
            [("All", "all"), ("Empty", "empty"), ("Edited", "edited")],
            value="all",
            show_label=False,
            container=False,
            scale=2,
            min_width=260,
            elem_id="captions-which",
        )
        containing = gr.Textbox(
            placeholder="Only captions containing …",
            show_label=False,
            container=False,
            max_lines=1,
            scale=3,
            min_width=160,
            elem_id="captions-containing",
        )
    with gr.Row(equal_height=False):
        table = gr.Dataframe(
            headers=["Image", "Caption"],
            datatype="str",
            type="array",
            interactive=True,
            static_columns=[0],
            column_widths=["28%", "72%"],
            wrap=True,
            show_label=False,
            buttons=[],
            scale=4,
            max_height=900,
            elem_id="captions-table",
        )
        image = gr.Image(
            interactive=False,
            show_label=False,
            buttons=[],
            scale=1,
            min_width=130,
            height=150,
            type="filepath",
            elem_id="captions-picture",
            visible=False,
        )
    with gr.Row(elem_classes="pager"):
        back = gr.Button("‹ Previous", size="sm", elem_id="captions-back")
        where = gr.HTML(elem_id="captions-page")
        forth = gr.Button("Next ›", size="sm", elem_id="captions-forth")
    save = gr.Button("Save my edits", variant="primary", elem_id="captions-save")
    page = gr.State(0)

    def show(name: str | None, which: str, text: str, number: int) -> list[Any]:
        if not pick_dataset(context, name):
            return [[], "", 0]
        dataset = open_dataset(context, name)
        store, index, text = dataset.captions, dataset.index.path, (text or "").strip()
        total = store.count(index, which, text)
        pages = max(1, -(-total // ROWS))
        number = min(max(number, 0), pages - 1)
        rows = store.find(index, which, text, number * ROWS, ROWS)
        line = f"<p class='hint'>{total:,} found · page {number + 1:,} of {pages:,}</p>"
        return [[[row.key, row.caption] for row in rows], line, number]

    def save_edits(name: str | None, rows: list[list[str]]) -> None:
        caption_jobs.save_edits(context, name, {key: text or "" for key, text in rows if key})

    def show_image(name: str | None, event: gr.SelectData) -> Any:
        from engine.disk.images import thumbnail

        sample = open_dataset(context, name).sample(str(event.row_value[0]))
        path = thumbnail(sample.image, context.workspace.thumbnails, 256, sample.digest or None)
        return gr.Image(str(path), visible=True)

    def turn(by: int) -> Callable[..., list[Any]]:
        return lambda name, which, text, number: show(name, which, text, number + by)

    query, shown = [chosen, which, containing], [table, where, page]
    live.on(
        [chosen.change, which.change, containing.change],
        lambda name, which, text: show(name, which, text, 0),
        query,
        shown,
        trigger_mode="always_last",
    )
    live.on(changed.change, show, [*query, page], shown)
    live.on(back.click, turn(-1), [*query, page], shown)
    live.on(forth.click, turn(1), [*query, page], shown)
    live.on(save.click, save_edits, [chosen, table])
    live.on(table.select, show_image, [chosen], [image])


def _build_operations(context: AppContext, live: Live, chosen: Any, side: SideRunner) -> None:
    """Build the operations on all captions: preview first, then apply."""
    operation = gr.Dropdown(
        list(caption_jobs.OPERATIONS), value=REPLACE, label="Operation", interactive=True, elem_id="captions-operation"
    )
    made: dict[str, Any] = {}

    def text(name: str, label: str, hint: str = "") -> None:
        made[name] = gr.Textbox(label=label, info=hint or None, max_lines=1, elem_id=f"captions-{name}")

    with gr.Column() as replacing:
        with gr.Row():
            text("search", "Search for")
            text("by", "Replace with")
        with gr.Row():
            made["case"] = gr.Checkbox(False, label="Match case")
            made["words"] = gr.Checkbox(True, label="Whole words only")
            made["regex"] = gr.Checkbox(False, label="Regular expression", elem_id="captions-regex")
    with gr.Column(visible=False) as adding:
        with gr.Row():
            text("prefix", "At the start")
            text("suffix", "At the end")
        text("trigger", "Trigger word", "A word that calls up your style or subject. It is never added twice.")
    with gr.Column(visible=False) as filling:
        text(
            "template",
            "Template",
            "{name}: words of the file name. {folder}: words of its folder's name. {caption}: the current caption.",
        )
    with gr.Column(visible=False) as choosing:
        made["only_empty"] = gr.Checkbox(True, label="Only images without a caption")
    with gr.Row(elem_classes="buttons"):
        preview = gr.Button("Preview the changes", elem_id="captions-preview")
        apply = gr.Button("Change the captions", variant="primary", elem_id="captions-apply")

    groups = ((replacing, (REPLACE,)), (adding, (ADD,)), (filling, (TEMPLATE,)), (choosing, (TEMPLATE, NAMES)))
    live.on(
        operation.change,
        lambda name: [gr.Column(visible=name in operations) for _, operations in groups],
        [operation],
        [group for group, _ in groups],
    )

    def run(work: Callable[..., None]) -> Callable[..., None]:
        def start(name: str | None, what: str, *raw: Any) -> None:
            work(context, side, name, what, dict(zip(FIELDS, raw, strict=True)))

        return start

    inputs = [chosen, operation, *(made[name] for name in FIELDS)]
    live.on(preview.click, run(caption_jobs.preview), inputs)
    live.on(apply.click, run(caption_jobs.apply), inputs)


def _build_model(context: AppContext, live: Live, chosen: Any) -> None:
    """Build the form for captions by BLIP or Florence-2."""
    model = gr.Dropdown(
        ["florence-community/Florence-2-base", "Salesforce/blip-image-captioning-base"],
        value="florence-community/Florence-2-base",
        allow_custom_value=True,
        label="Captioning model",
        elem_id="captions-model",
        info="Downloaded once (about 1 GB). Or the path of your own BLIP or Florence-2 folder. "
        "Your images stay on this computer.",
    )
    with gr.Row():
        length = gr.Radio(
            [("Short", "short"), ("Detailed", "detailed"), ("Long", "long")],
            value="short",
            label="Length",
            info="BLIP is always short. Captions of more than 75 tokens (about 55 words) are read as “Long captions” "
            "on the Train tab says.",
        )
        batch = gr.Number(
            8, label="Batch size", info="Lower it if memory runs out.", precision=0, minimum=1, maximum=256
        )
    only_empty = gr.Checkbox(True, label="Only images without a caption")
    start = gr.Button("Write captions", variant="primary", elem_id="captions-write")
    add = queue_button(live, start)
    live.on(
        [start.click, add.click],
        lambda *given: caption_jobs.write_by_model(context, *given),
        [chosen, model, length, only_empty, batch],
    )
