"""The one timer: a view of the live job and the files goes to every page, and only what changed is sent."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.errors import UserError
from ui.context import AppContext
from ui.view import View

SECONDS = 1.0


@dataclass(frozen=True)
class Part:
    """A piece of the page. It is sent again when ``key(view)`` is another than the page has last seen."""

    outputs: tuple[Any, ...]
    key: Callable[[View], Hashable]
    render: Callable[[View], Sequence[Any]]


def changed_parts(
    parts: Sequence[Part],
    view: View,
    seen: dict[int, Hashable],
    on_fault: Callable[[int, Exception], None] | None = None,
) -> tuple[list[Any], dict[int, Hashable]]:
    """Updates for all outputs of all parts in order (``gr.skip()`` where nothing changed), and the new keys.

    ``on_fault``: told of a part that cannot be drawn; it stays as it was, and all the others are drawn.
    """
    updates: list[Any] = []
    now: dict[int, Hashable] = {}
    for number, part in enumerate(parts):
        try:
            now[number] = part.key(view)
            if number in seen and seen[number] == now[number]:
                updates += [gr.skip()] * len(part.outputs)
            else:
                updates += part.render(view)
        except Exception as error:
            if on_fault is None:
                raise
            on_fault(number, error)
            updates += [gr.skip()] * len(part.outputs)
    return updates, now


class Live:
    """Collects the parts while the tabs are built, then wires the timer, the first paint and the buttons."""

    def __init__(self, context: AppContext, demo: gr.Blocks) -> None:
        self.context = context
        self.demo = demo
        self.parts: list[Part] = []
        self.clicks: list[Any] = []
        self._faulty: set[int] = set()

    def fault(self, number: int, error: Exception) -> None:
        """A chart or list that cannot be drawn: told once, and nothing else is held up by it."""
        if number in self._faulty:
            return
        self._faulty.add(number)
        wrapped = UserError(
            "A part of this page cannot be shown.",
            f"{type(error).__name__}: {error}"[:300],
            "Work that is running is not touched by that. Reload the page; if it comes back, send the report to the "
            "project.",
        )
        wrapped.__cause__ = error
        self.context.show_problem(wrapped)

    def part(
        self, outputs: Sequence[Any], key: Callable[[View], Hashable], render: Callable[[View], Sequence[Any]]
    ) -> None:
        """Register a piece of the page; ``render`` returns one update for each output."""
        self.parts.append(Part(tuple(outputs), key, render))

    def after(self, event: Any) -> Any:
        """The page is brought up to date at once after this event, without waiting for the timer."""
        self.clicks.append(event)
        return event

    def asking(self, what: str) -> Callable[..., None]:
        """A handler that asks the running job for something: pause, stop, cancel, save_now or sample_now."""
        ask = getattr(self.context.runner, what)

        def handler(*inputs: Any) -> None:
            ask()

        return handler

    def wire(self) -> None:
        """Call once, inside the Blocks, when every tab is built."""
        outputs = [output for part in self.parts for output in part.outputs]
        seen = gr.State({})
        timer = gr.Timer(SECONDS)

        def refresh(seen_by_page: dict[int, Hashable]) -> Any:
            updates, now = changed_parts(self.parts, self.context.view(), seen_by_page, self.fault)
            return gr.skip() if now == seen_by_page else [*updates, now]

        how: dict[str, Any] = {
            "inputs": [seen],
            "outputs": [*outputs, seen],
            "show_progress": "hidden",
            "api_visibility": "private",
            "concurrency_limit": None,
        }
        timer.tick(refresh, **how)
        self.demo.load(refresh, **how)
        for event in self.clicks:
            event.then(refresh, **how)
