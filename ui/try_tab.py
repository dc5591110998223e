"""Try it: a picture from a checkpoint and a control picture, beside the same picture without control."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import UserError
from ui import trying
from ui.choices import checkpoint_list, pick_checkpoint, run_list
from ui.context import AppContext
from ui.live import Live
from ui.messages import job_progress, note
from ui.picture import UserPicture
from ui.view import View

KIND = "try"
HELD_OUT, UPLOAD = "A held-out picture", "A picture of mine"
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(context: AppContext, live: Live) -> None:
    """Everything on the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=340):
            run = run_list(live, "Run", "try-run")
            checkpoint = checkpoint_list(context, live, run, "try-checkpoint")
            source = gr.Radio([HELD_OUT, UPLOAD], value=HELD_OUT, label="Control picture", elem_id="try-source")
            number = gr.State(0)
            with gr.Column(elem_classes="snug") as held_out:
                control = gr.Image(
                    label="Its map",
                    interactive=False,
                    type="filepath",
                    height=190,
                    buttons=["fullscreen"],
                    elem_id="try-control",
                )
                with gr.Row(elem_classes="pager"):
                    back = gr.Button("‹ Earlier", size="sm")
                    forth = gr.Button("Another ›", size="sm", elem_id="try-another")
            with gr.Column(visible=False, elem_classes="snug") as own:
                upload = UserPicture(label="Your picture", height=190, elem_id="try-upload")
                is_map = gr.Checkbox(
                    label="It is a condition map already",
                    info="Otherwise its map is made as it was made for the training pictures.",
                    elem_id="try-is-map",
                )
            prompt = gr.Textbox(label="Prompt", lines=2, elem_id="try-prompt", info="What the picture should show.")
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, info="The same seed draws the same picture.")
                strength = gr.Slider(0, 2, value=1, step=0.05, label="Control strength", info="0: off, 1: as trained.")
            with gr.Accordion("More", open=False):
                negative = gr.Textbox(label="Negative prompt", max_lines=1, info="What the picture should not show.")
                steps = gr.Slider(1, 100, value=20, step=1, label="Sampling steps", info="More is slower and finer.")
                guidance = gr.Slider(
                    1, 20, value=7.5, step=0.5, label="Guidance scale", info="Obedience to the prompt."
                )
                side = gr.Number(
                    0, label="Size (px)", precision=0, info="Side of the square; 0: as the run was trained."
                )
            make = gr.Button("Make the picture", variant="primary", elem_id="try-make")
            cancel = gr.Button("Cancel", visible=False, elem_id="try-cancel")
            progress = gr.HTML(elem_id="try-progress")
        with gr.Column(scale=3, min_width=420):
            results = gr.Gallery(
                show_label=False,
                columns=3,
                height="auto",
                object_fit="contain",
                buttons=["download", "fullscreen"],
                interactive=False,
                visible=False,
                elem_id="try-results",
            )
            words = gr.HTML(note("The picture appears here, beside the one without control."), elem_id="try-words")

    def show(run: str | None, at: int) -> tuple[Any, ...]:
        sample = trying.held_out(context, run, at)
        return (str(sample.thumbnail), sample.caption, at) if sample else (None, "", 0)

    def show_run(run: str | None) -> tuple[Any, ...]:
        return *show(run, 0), *trying.as_in_run(context, run)

    def start(
        run: str | None,
        step: int | None,
        source: str,
        at: int,
        upload: str | None,
        is_map: bool,
        prompt: str,
        seed: float,
        strength: float,
        negative: str,
        steps: float,
        guidance: float,
        side: float,
    ) -> None:
        chosen = pick_checkpoint(context, run, step)
        if source == UPLOAD and not upload:
            raise UserError(
                "There is no control picture.", "None was uploaded.", "Upload one, or use a held-out picture."
            )
        wish = trying.Wish(
            run or "",
            chosen,
            prompt or "",
            None if source == HELD_OUT else upload,
            is_map,
            at,
            int(seed or 0),
            strength,
            negative or "",
            int(steps),
            guidance,
            int(side or 0),
        )
        context.start_job(KIND, "Drawing a picture", trying.try_it(context, wish))

    held = [control, prompt, number]
    with_run = [*held, steps, guidance, strength]
    run.change(context.guarded(show_run), [run], with_run, **QUIET)
    back.click(context.guarded(lambda name, at: show(name, at - 1)), [run, number], held, **QUIET)
    forth.click(context.guarded(lambda name, at: show(name, at + 1)), [run, number], held, **QUIET)
    source.change(
        lambda kind: [gr.Column(visible=kind == HELD_OUT), gr.Column(visible=kind == UPLOAD)],
        [source],
        [held_out, own],
        **QUIET,
    )
    inputs = [
        run,
        checkpoint,
        source,
        number,
        upload,
        is_map,
        prompt,
        seed,
        strength,
        negative,
        steps,
        guidance,
        side,
    ]
    live.after(make.click(context.guarded(start, fills=False), inputs, None, **QUIET))
    live.after(cancel.click(live.asking("cancel"), None, None, **QUIET))
    live.part(
        with_run,
        lambda view: (view.runs, view.shown_run),
        lambda view: list(show_run(view.shown_run or next(iter(view.runs), None))),
    )
    live.part([make, cancel, progress], _job_key, _job)
    live.part([results, words], lambda view: view.results.get(KIND), _result)


def _job_key(view: View) -> Any:
    return view.snapshot if view.snapshot.kind == KIND else view.snapshot.alive


def _job(view: View) -> list[Any]:
    own = view.snapshot.kind == KIND and view.snapshot.alive
    other = view.snapshot.alive and not own
    words = job_progress(view.snapshot) if own else ""
    if other:
        words = note(f"“{view.snapshot.title}” is running: wait for it, or pause it, then try again.")
    return [gr.Button(interactive=not view.snapshot.alive), gr.Button(visible=own), words]


def _result(view: View) -> list[Any]:
    result = view.results.get(KIND)
    if result is None:
        return [gr.Gallery([], visible=False), gr.skip()]
    return [gr.Gallery(list(result.pictures), visible=True), note(result.note)]
