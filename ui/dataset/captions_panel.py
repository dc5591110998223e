"""Captions: read them, edit them, change them all, have them written, undo. Part of the Dataset tab."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.dataset import caption_jobs
from ui.dataset.caption_jobs import ADD, KIND, NAMES, REPLACE, TEMPLATE
from ui.page.choices import open_dataset, pick_dataset
from ui.page.context import AppContext
from ui.page.live import NO_PROGRESS, Live
from ui.page.messages import job_progress
from ui.page.view import View

ROWS = 8
VIEWS = ("One by one", "All at once", "By a model", "History")
FIELDS = ("search", "by", "regex", "case", "words", "prefix", "suffix", "trigger", "template", "only_empty")


def build(context: AppContext, live: Live, chosen: Any) -> None:
    """The whole panel, for the dataset that ``chosen`` names."""
    with gr.Column(elem_id="captions"):
        gr.Markdown("Your own text files stay as they are: edits are kept with the dataset, and can be undone.")
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=240):
                about = gr.HTML(elem_id="captions-about")
                undo = gr.Button("Undo the last change", interactive=False, elem_id="captions-undo")
            with gr.Column(scale=3, min_width=420):
                changed = gr.State(0)
                view = gr.Radio(list(VIEWS), value=VIEWS[0], show_label=False, container=False, elem_id="captions-view")
                with gr.Column() as one:
                    _table(context, live, chosen, changed)
                with gr.Column(visible=False) as every:
                    _operations(context, live, chosen)
                with gr.Column(visible=False) as model:
                    _model(context, live, chosen)
                with gr.Column(visible=False) as past:
                    listed = gr.HTML(elem_id="captions-history")
                progress = gr.HTML(elem_id="captions-progress")
                cancel = gr.Button("Cancel", visible=False, elem_id="captions-cancel")
                told = gr.HTML(elem_id="captions-told")  # right below the button that was pressed

    def turn(to: str) -> list[Any]:
        return [*(gr.Column(visible=to == name) for name in VIEWS), ""]  # what was told belongs to the other view

    view.change(turn, [view], [one, every, model, past, told], **NO_PROGRESS)

    def look(name: str | None) -> list[Any]:
        words, possible = caption_jobs.history(context, name)
        return [caption_jobs.facts(context, name), words, gr.Button(interactive=possible)]

    def take_back(name: str | None) -> None:
        caption_jobs.undo(context, name)

    gr.on([chosen.change, changed.change], context.catch_errors(look), [chosen], [about, listed, undo], **NO_PROGRESS)
    live.refresh_after(undo.click(context.catch_errors(take_back, has_outputs=False), [chosen], None, **NO_PROGRESS))
    live.refresh_after(cancel.click(live.job_command("cancel"), **NO_PROGRESS))
    live.outputs([changed, told], lambda view: view.results.get(KIND), _told)
    live.outputs([progress, cancel], lambda view: view.snapshot if view.snapshot.kind == KIND else None, _job)


def _told(view: View) -> list[Any]:
    result = view.results.get(KIND)
    return [result.number, caption_jobs.result(result.note, result.facts)] if result else [0, ""]


def _job(view: View) -> list[Any]:
    own = view.snapshot.kind == KIND
    return [job_progress(view.snapshot) if own else "", gr.Button(visible=own and view.snapshot.alive)]


def _table(context: AppContext, live: Live, chosen: Any, changed: Any) -> None:
    """A page of captions to type in."""
    with gr.Row(equal_height=False, elem_classes="tight"):
        which = gr.Radio(
            [("All", "all"), ("Empty", "empty"), ("Edited", "edited")], value="all", show_label=False,
            container=False, scale=2, min_width=260, elem_id="captions-which",
        )  # fmt: skip
        words = gr.Textbox(
            placeholder="Only those that contain …", show_label=False, container=False, max_lines=1, scale=3,
            min_width=160, elem_id="captions-containing",
        )  # fmt: skip
    with gr.Row(equal_height=False):
        table = gr.Dataframe(
            headers=["Image", "Caption"], datatype="str", type="array", interactive=True, static_columns=[0],
            column_widths=["28%", "72%"], wrap=True, show_label=False,
            buttons=[], scale=4, max_height=900, elem_id="captions-table",
        )  # fmt: skip
        image = gr.Image(
            interactive=False, show_label=False, buttons=[], scale=1, min_width=130, height=150, type="filepath",
            elem_id="captions-picture", visible=False,
        )  # fmt: skip
    with gr.Row(elem_classes="pager"):
        back = gr.Button("‹ Earlier", size="sm", elem_id="captions-back")
        where = gr.HTML(elem_id="captions-page")
        forth = gr.Button("Later ›", size="sm", elem_id="captions-forth")
    save = gr.Button("Save what I typed", variant="primary", elem_id="captions-save")
    page = gr.State(0)

    def show(name: str | None, which: str, words: str, number: int) -> list[Any]:
        if not pick_dataset(context, name):
            return [[], "", 0]
        dataset = open_dataset(context, name)
        store, index, words = dataset.captions, dataset.index.path, (words or "").strip()
        total = store.count(index, which, words)
        pages = max(1, -(-total // ROWS))
        number = min(max(number, 0), pages - 1)
        rows = store.find(index, which, words, number * ROWS, ROWS)
        line = f"<p class='hint'>{total:,} found · page {number + 1:,} of {pages:,}</p>"
        return [[[row.key, row.caption] for row in rows], line, number]

    def keep(name: str | None, rows: list[list[str]]) -> None:
        caption_jobs.save_by_hand(context, name, {key: text or "" for key, text in rows if key})

    def look(name: str | None, event: gr.SelectData) -> Any:
        from engine.disk.images import thumbnail

        sample = open_dataset(context, name).sample(str(event.row_value[0]))
        path = thumbnail(sample.image, context.workspace.thumbnails, 256, sample.digest or None)
        return gr.Image(str(path), visible=True)

    inputs, shown = [chosen, which, words, page], [table, where, page]
    first = context.catch_errors(lambda name, which, words: show(name, which, words, 0))
    triggers = [chosen.change, which.change, words.change]
    gr.on(triggers, first, inputs[:3], shown, trigger_mode="always_last", **NO_PROGRESS)
    changed.change(context.catch_errors(show), inputs, shown, **NO_PROGRESS)
    back.click(
        context.catch_errors(lambda name, which, words, at: show(name, which, words, at - 1)),
        inputs,
        shown,
        **NO_PROGRESS,
    )
    forth.click(
        context.catch_errors(lambda name, which, words, at: show(name, which, words, at + 1)),
        inputs,
        shown,
        **NO_PROGRESS,
    )
    live.refresh_after(save.click(context.catch_errors(keep, has_outputs=False), [chosen, table], None, **NO_PROGRESS))
    table.select(context.catch_errors(look), [chosen], [image], **NO_PROGRESS)


def _operations(context: AppContext, live: Live, chosen: Any) -> None:
    """One operation on all captions: tried out first, then carried out."""
    operation = gr.Dropdown(
        list(caption_jobs.OPERATIONS), value=REPLACE, label="What to do", interactive=True, elem_id="captions-operation"
    )
    made: dict[str, Any] = {}

    def text(name: str, label: str, hint: str = "") -> None:
        made[name] = gr.Textbox(label=label, info=hint or None, max_lines=1, elem_id=f"captions-{name}")

    with gr.Column() as replacing:
        with gr.Row():
            text("search", "Search for")
            text("by", "Replace by")
        with gr.Row():
            made["case"] = gr.Checkbox(False, label="Match upper and lower case")
            made["words"] = gr.Checkbox(True, label="Whole words only")
            made["regex"] = gr.Checkbox(False, label="Regular expression", elem_id="captions-regex")
    with gr.Column(visible=False) as adding:
        with gr.Row():
            text("prefix", "In front")
            text("suffix", "Behind")
        text("trigger", "Trigger word", "A word that calls up your style or subject. Never added twice.")
    with gr.Column(visible=False) as filling:
        text(
            "template",
            "The caption",
            "{name} becomes the words of the file's name, {folder} its folder's, {caption} the present one.",
        )
    with gr.Column(visible=False) as choosing:
        made["only_empty"] = gr.Checkbox(True, label="Only images without a caption")
    with gr.Row(elem_classes="buttons"):
        preview = gr.Button("Show what would change", elem_id="captions-preview")
        start = gr.Button("Change them", variant="primary", elem_id="captions-apply")

    groups = ((replacing, (REPLACE,)), (adding, (ADD,)), (filling, (TEMPLATE,)), (choosing, (TEMPLATE, NAMES)))
    operation.change(
        lambda name: [gr.Column(visible=name in when) for _, when in groups],
        [operation], [group for group, _ in groups], **NO_PROGRESS,
    )  # fmt: skip
    inputs = [chosen, operation, *(made[name] for name in FIELDS)]

    def handler(do: Any) -> Any:
        def handle(name: str | None, what: str, *raw: Any) -> None:
            do(context, name, what, dict(zip(FIELDS, raw, strict=True)))

        return context.catch_errors(handle, has_outputs=False)

    live.refresh_after(preview.click(handler(caption_jobs.try_out), inputs, None, **NO_PROGRESS))
    live.refresh_after(start.click(handler(caption_jobs.carry_out), inputs, None, **NO_PROGRESS))


def _model(context: AppContext, live: Live, chosen: Any) -> None:
    """Captions by BLIP or Florence-2."""
    model = gr.Dropdown(
        ["florence-community/Florence-2-base", "Salesforce/blip-image-captioning-base"],
        value="florence-community/Florence-2-base", allow_custom_value=True, label="Model", elem_id="captions-model",
        info="Downloaded once (about 1 GB), or a folder of yours with BLIP or Florence-2. "
        "No image leaves this computer.",
    )  # fmt: skip
    with gr.Row():
        length = gr.Radio(
            [("Short", "short"), ("Detailed", "detailed"), ("Long", "long")], value="short", label="Length",
            info="BLIP is always short. The base reads about 50 words at most.",
        )  # fmt: skip
        batch = gr.Number(
            8, label="Images at a time", info="Fewer need less memory.", precision=0, minimum=1, maximum=256
        )
    only_empty = gr.Checkbox(True, label="Only images without a caption")
    start = gr.Button("Write captions", variant="primary", elem_id="captions-write")
    work = context.catch_errors(lambda *given: caption_jobs.write_by_model(context, *given), has_outputs=False)
    live.refresh_after(start.click(work, [chosen, model, length, only_empty, batch], None, **NO_PROGRESS))
