"""What Try it does with a wish: draw it, as a job or between two steps of a training, keep it and show it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.disk.durable import atomic_write
from engine.errors import UserError
from engine.jobs.control import Cancelled, Token
from engine.jobs.runner import Emit, Work
from engine.jobs.snapshot import JobKind, Outcome
from engine.runs.run import Run
from ui.page.context import AppContext
from ui.page.jobs import progress_events
from ui.page.messages import progress_bar
from ui.try_it.try_control import Control, make_map
from ui.try_it.try_nets import Net

if TYPE_CHECKING:
    from engine.inference.request import TryRequest
    from engine.inference.session import TrySession
    from engine.jobs.control import CancelToken, OnProgress

KIND = JobKind.TRY
BORROWED = "try-borrowed"
"""The result under which pages see a drawing that a training does in between: its words, until it is over."""
LOOK = "try-look"
"""The result under which pages see a sketch of the image that is being drawn."""
WITH, WITHOUT, MAP = "with", "without", "control"


@dataclass(frozen=True)
class Wish:
    """What the user asked for."""

    run: str
    net: Net
    control: Control
    settings: dict[str, Any]
    """Plain values under the names of ``TryRequest``: prompt, steps, sampler and so on."""
    count: int = 1
    any_seed: bool = False
    compare: bool = True
    """Also without the ControlNet."""
    base: str = ""
    """Empty: the one that the run was trained on."""
    bases_folder: str = ""
    """Draw on every base in this folder instead."""
    image: Any = None
    mask: Any = None
    second: str = ""
    second_control: str | None = None
    thrift: int = 0


@dataclass
class _Made:
    """The drawn images with their titles, and what was said."""

    pictures: list[tuple[str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


def painted(value: Any) -> tuple[Any, Any]:
    """Image and mask (white where it was painted) from gradio's editor; None for what there is not."""
    background = (value or {}).get("background")
    if background is None or not background.getbbox():
        return None, None
    layers = [one for one in value.get("layers", []) if one is not None and one.getbbox()]
    if not layers:
        return background.convert("RGB"), None
    return background.convert("RGB"), layers[0].convert("RGBA").getchannel("A").point(lambda level: 255 * (level > 64))


def start(context: AppContext, wish: Wish) -> None:
    """Begin, wherever the base is: in a job, or in the training that is under way.

    Raises:
        UserError: something is missing. Busy: another job is running.
    """
    snapshot = context.runner.snapshot
    if not snapshot.is_training:
        context.start_job(KIND, "Drawing an image", try_it(context, wish))
        return
    if context.request is not None and not context.request.over:
        raise UserError("An image is being drawn.", "One at a time.", "Wait for it, or cancel it.")
    if wish.bases_folder:
        raise UserError(
            "Other bases cannot be tried while a training runs.",
            "There is room for one base in the card's memory.",
            "Wait until the training has ended, or pause it.",
        )
    context.clear_problem()
    context.set_result(BORROWED, note="Waiting for the training's next step.")
    threading.Thread(target=_borrow, args=(context, wish), name="try-borrowed", daemon=True).start()


def cancel(context: AppContext) -> None:
    """End the drawing, never the training that lends its models."""
    if context.request is not None and not context.request.over:
        context.request.cancel()
    elif context.runner.snapshot.kind == KIND:
        context.runner.cancel()


def try_it(context: AppContext, wish: Wish) -> Work:
    """The drawing as a job of its own."""

    def work(token: Token, emit: Emit) -> Outcome:
        draw = _drawing(context, wish, Run(context.workspace.runs / wish.run))
        try:
            draw(context.try_session(), token, progress_events(emit, "Drawing, steps"))
        finally:
            context.clear_result(LOOK)
        return "completed"

    return work


def _borrow(context: AppContext, wish: Wish) -> None:
    """In a thread of its own: the map is made, then the training asked, its answer awaited."""
    from engine.training.lending import borrowing

    def progress(done: int, total: int, _label: str) -> None:
        context.set_result(BORROWED, note=progress_bar(done, total, "Drawing between two steps of the training"))

    try:
        draw = _drawing(context, wish, Run(context.workspace.runs / wish.run))
        context.request = borrowing(context.workspace, lambda session, token: draw(session, token, progress))
        if not context.runner.send(context.request):
            raise UserError("The image was not drawn.", "The training has just ended.", "Try again.")
        context.request.wait()
    except Cancelled:
        pass  # as was asked
    except Exception as error:  # a thread of ours: its end is told on the panel, whatever it is
        context.show_problem(error)
    finally:
        context.clear_result(LOOK)
        context.clear_result(BORROWED)


def _drawing(context: AppContext, wish: Wish, run: Run) -> Callable[[TrySession, CancelToken, OnProgress], None]:
    """All that can be done before the models are there, and the rest as a function of them."""
    from engine.conditions import registry

    settings = dict(wish.settings)
    if wish.any_seed:
        settings["seed"] = secrets.randbelow(2**31)
    control, words = make_map(context, wish.control, run)
    request = _request(context, wish, run, settings, control)
    categorical = registry.get(str(run.condition["type"])).categorical

    def draw(session: TrySession, token: CancelToken, progress: OnProgress) -> None:
        began = time.monotonic()
        saving = session.memory_saving
        saving.level = max(saving.level, min(wish.thrift, saving.max_level))
        if wish.bases_folder:
            made = _on_all_bases(context, wish, request, session, token, progress, categorical)
        else:
            made = _seeds(context, wish, request, session, token, progress, categorical)
        first = f"{_net_words(wish)}, seed {request.seed}, {time.monotonic() - began:.0f} s."
        said = [first, *words, *made.words, *session.warnings, f"Saved in {context.workspace.outputs}."]
        context.set_result(KIND, pictures=tuple(made.pictures), note=" ".join(dict.fromkeys(said)))

    return draw


def _request(context: AppContext, wish: Wish, run: Run, settings: dict[str, Any], control: Any) -> TryRequest:
    from engine.disk.images import load_rgb
    from engine.inference.request import TryRequest

    values = dict(settings)
    if wish.image is None:
        values.pop("change", None)
    second = Path(wish.second.strip().strip('"')).expanduser() if wish.second.strip() else None
    return TryRequest(
        base=wish.base or run.config.model.base,
        controlnet=wish.net.path,
        control=control,
        image=wish.image,
        mask=wish.mask,
        second=second,
        second_control=load_rgb(wish.second_control) if wish.second_control else None,
        **values,
    )


def _seeds(
    context: AppContext, wish: Wish, first: TryRequest, session: Any, token: Any, progress: Any, categorical: bool
) -> _Made:
    """The wish at as many seeds as were asked for, and the first of them without the net."""
    from dataclasses import replace

    from engine.inference.sampling import fit_control

    requests = [replace(first, seed=first.seed + number) for number in range(wish.count)]
    plain = [replace(first, without_control=True)] if wish.compare else []
    drawn = session.generate([*requests, *plain], token, progress, categorical, _sketches(context))
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}_{wish.run}_{wish.net.name}"
    width, height = drawn[0].size
    map = fit_control(first.control, width, height, categorical).numpy()
    from PIL import Image

    control = _save(context, f"{stem}_seed-{first.seed}_{MAP}", Image.fromarray(map), wish, first, "")
    made = _Made([(str(control), "Control image")])
    for request, image in zip(requests, drawn, strict=False):
        path = _save(context, f"{stem}_seed-{request.seed}_{WITH}", image, wish, request, control.name)
        title = "With the ControlNet" if wish.count == 1 else f"Seed {request.seed}"
        made.pictures.append((str(path), title))
    if plain:
        path = _save(context, f"{stem}_seed-{first.seed}_{WITHOUT}", drawn[-1], wish, plain[0], control.name)
        made.pictures.append((str(path), "Without it"))
    return made


def _on_all_bases(
    context: AppContext, wish: Wish, request: TryRequest, session: Any, token: Any, progress: Any, categorical: bool
) -> _Made:
    """One image on each base of a folder; does the net transfer?"""
    from dataclasses import replace

    from engine.families.files import bases_in
    from engine.inference.transfer import transfer

    bases = [context.workspace.locate_base(request.base), *bases_in(Path(wish.bases_folder).expanduser())]
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}_{wish.run}_{wish.net.name}"
    made = _Made()
    for result in transfer(session, request, list(dict.fromkeys(bases)), token, progress, categorical):
        if result.image is None:
            made.words.append(f"{result.name}: {result.problem}")
            continue
        one = replace(request, base=result.base)
        path = _save(context, f"{stem}_{result.name}_seed-{request.seed}_{WITH}", result.image, wish, one, "")
        made.pictures.append((str(path), result.name))
    return made


def _sketches(context: AppContext) -> Callable[[Any], None]:
    """Sketches of what is being drawn, for the pages: two files in turn, so that a page never reads half of one."""
    number = 0

    def show(image: Any) -> None:
        nonlocal number
        number += 1
        path = context.workspace.thumbnails / f"try-look-{number % 2}.webp"
        with atomic_write(path, flushed=False) as temporary:
            image.save(temporary, "WEBP", quality=80)
        context.set_result(LOOK, where=str(path), note=f"{time.monotonic()}")  # every one is new to the pages

    return show


def _save(context: AppContext, name: str, image: Any, wish: Wish, request: TryRequest, control: str) -> Path:
    """A PNG in workspace/outputs with all its settings inside."""
    from engine.inference.image_info import request_settings, save_png

    settings = request_settings(request) | {"run": wish.run, "net": _net_words(wish), "control": control}
    settings |= {"width": image.width, "height": image.height}
    return save_png(context.workspace.outputs / f"{name}.png", image, settings)


def _net_words(wish: Wish) -> str:
    return "Live weights" if wish.net.live else wish.net.name.replace("step-", "Step ")
