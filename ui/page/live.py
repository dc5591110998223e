"""A view of the live job and the files goes to every page, and only what changed is sent.

At the start and end of every event the browser notes its progress at each output and input of all events that there
ever were, and searches the whole page for each of them. So there is no timer of gradio's: the page asks an address of
our own (ui/server/poll.py) whether something of a group of parts has changed, and only then presses a hidden button,
whose event fetches it (ui/page/poll.js). That event has no inputs; what a page has seen is kept here by its session;
and progress is noted in one place.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gradio as gr

from engine.errors import UserError
from ui.page.context import AppContext
from ui.page.view import View

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of an event handler that shows no progress overlay. Like every handler of the app it is no public API."""
PAGES = 64  # that are kept in mind; one that comes back after so many others is painted anew
Pace = Literal["quick", "now and then", "form"]
"""quick: changes with every step; form: many fields that change together, and seldom."""
PACES: tuple[Pace, ...] = get_args(Pace)


@dataclass(frozen=True)
class Part:
    """A piece of the page. It is sent again when ``key(view)`` is another than the page has last seen."""

    outputs: tuple[Any, ...]
    key: Callable[[View], Hashable]
    render: Callable[[View], Sequence[Any]]
    pace: Pace = "now and then"


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
    """Collects the parts while the tabs are built, then wires what fetches them and the buttons."""

    def __init__(self, context: AppContext, demo: gr.Blocks) -> None:
        self.context = context
        self.demo = demo
        self.parts: list[Part] = []
        self.clicks: list[Any] = []
        # On the page and yet not to be seen: what gradio itself hides is not there.
        self.beaten = [gr.Button(pace, elem_classes="beat") for pace in PACES]
        context.beats = self.beats
        self._last: dict[Pace, list[Hashable]] = {}
        self._beats = dict.fromkeys(PACES, 0)
        self._seen: OrderedDict[str, dict[Pace, dict[int, Hashable]]] = OrderedDict()
        self._lock = threading.Lock()
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
        self,
        outputs: Sequence[Any],
        key: Callable[[View], Hashable],
        render: Callable[[View], Sequence[Any]],
        pace: Pace = "now and then",
    ) -> None:
        """Register a piece of the page; ``render`` returns one update for each output."""
        self.parts.append(Part(tuple(outputs), key, render, pace))

    def after(self, event: Any) -> Any:
        """The page looks at once after this event."""
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
        for pace, button in zip(PACES, self.beaten, strict=True):
            outputs = [output for part in self.group(pace) for output in part.outputs]
            button.click(
                self._refresh(pace), None, outputs, trigger_mode="always_last", concurrency_limit=None, **QUIET
            )
        for event in self.clicks:
            event.then(None, None, None, js="() => window.studioLook?.()", api_visibility="private")
        for function in self.demo.fns.values():
            if function.show_progress == "hidden":
                function.show_progress_on = [self.beaten[0]]

    def beats(self) -> list[int]:
        """For each pace a number, another one once something of the group has changed; the same for all pages."""
        with self._lock:
            view = self.context.view()  # here: an older one must not come after a newer one
            for pace in PACES:
                keys = [self._key(part, view) for part in self.group(pace)]
                if keys != self._last.get(pace):
                    self._last[pace] = keys
                    self._beats[pace] += 1
            return list(self._beats.values())

    def _key(self, part: Part, view: View) -> Hashable:
        try:
            return part.key(view)
        except Exception as error:  # the others are looked at all the same
            self.fault(self.parts.index(part), error)
            return None

    def group(self, pace: Pace) -> list[Part]:
        """The parts of one pace, in their order."""
        return [part for part in self.parts if part.pace == pace]

    def seen_by(self, session: str | None) -> dict[Pace, dict[int, Hashable]]:
        """Keys of the parts as a page has last seen them; those of the oldest pages are forgotten."""
        with self._lock:
            seen = self._seen.setdefault(str(session), {pace: {} for pace in PACES})
            self._seen.move_to_end(str(session))
            while len(self._seen) > PAGES:
                self._seen.popitem(last=False)
            return seen

    def _refresh(self, pace: Pace) -> Callable[..., Any]:
        def refresh(request: gr.Request) -> Any:
            group, seen = self.group(pace), self.seen_by(request.session_hash)[pace]

            def on_fault(number: int, error: Exception) -> None:
                self.fault(self.parts.index(group[number]), error)

            updates, now = changed_parts(group, self.context.view(), seen, on_fault)
            if all(number in seen and seen[number] == key for number, key in now.items()):
                return gr.skip()
            seen.update(now)
            return updates if len(updates) > 1 else updates[0]

        return refresh
