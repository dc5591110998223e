"""Keeps every open page up to date and sends only what changed.

gradio's own timer is too expensive here: at the start and end of every event the browser records progress for each
output and input of all earlier events, and searches the whole page for each of them. Instead, the page
polls an address of our own (ui/server/serve.py) that says whether an update group has changed, and only then presses a
hidden button (ui/page/poll.js) whose event fetches the new values. That event has no inputs: what each page has seen is
kept here, by its session. Events without a progress overlay record their progress at one hidden button.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import gradio as gr

from engine.errors import UserError
from ui.page.context import AppContext
from ui.page.view import View

NO_PROGRESS: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of an event handler without a progress overlay. Like every handler of the app it is no public API."""
PAGES = 64
"""Pages whose state is remembered. An older page that comes back is redrawn completely."""
UpdateGroup = Literal["fast", "normal", "form"]
"""Outputs that are fetched together. fast: change with every step; form: the many fields of a form, which change
together and rarely; normal: everything else."""
GROUPS: tuple[UpdateGroup, ...] = get_args(UpdateGroup)


@dataclass(frozen=True)
class LiveOutputs:
    """Components that depend on the view. They are redrawn when ``key(view)`` differs from what the page last saw."""

    components: tuple[Any, ...]
    key: Callable[[View], Hashable]
    render: Callable[[View], Sequence[Any]]
    group: UpdateGroup = "normal"


def changed_updates(
    registered: Sequence[LiveOutputs],
    view: View,
    seen: dict[int, Hashable],
    on_error: Callable[[int, Exception], None] | None = None,
) -> tuple[list[Any], dict[int, Hashable]]:
    """Return the updates of all components in order (``gr.skip()`` where nothing changed), and the new keys.

    Args:
        seen: keys that the page has seen, by position in ``registered``.
        on_error: called for outputs that cannot be rendered; they stay as they are and the others are drawn.
    """
    updates: list[Any] = []
    keys: dict[int, Hashable] = {}
    for number, outputs in enumerate(registered):
        try:
            keys[number] = outputs.key(view)
            if number in seen and seen[number] == keys[number]:
                updates += [gr.skip()] * len(outputs.components)
            else:
                updates += outputs.render(view)
        except Exception as error:
            if on_error is None:
                raise
            on_error(number, error)
            updates += [gr.skip()] * len(outputs.components)
    return updates, keys


class Live:
    """Collects the live outputs while the tabs are built, then wires the events that refresh them."""

    def __init__(self, context: AppContext, demo: gr.Blocks) -> None:
        self.context = context
        self.demo = demo
        self.registered: list[LiveOutputs] = []
        # Hidden by CSS: gradio leaves a component with visible=False out of the page.
        self.refresh_buttons = [gr.Button(group, elem_classes="live-refresh") for group in GROUPS]
        self._refreshing: list[Any] = []
        self.events: dict[Callable[..., Any], list[Any]] = {}
        """The wired events of each handler."""
        self._keys: dict[UpdateGroup, list[Hashable]] = {}
        self._versions = dict.fromkeys(GROUPS, 0)
        self._seen: OrderedDict[str, dict[UpdateGroup, dict[int, Hashable]]] = OrderedDict()
        self._lock = threading.Lock()
        self._reported: set[int] = set()

    def outputs(
        self,
        components: Sequence[Any],
        key: Callable[[View], Hashable],
        render: Callable[[View], Sequence[Any]],
        group: UpdateGroup = "normal",
    ) -> None:
        """Keep components up to date. ``render`` returns one update for each of them."""
        self.registered.append(LiveOutputs(tuple(components), key, render, group))

    def on(
        self,
        event: Any,
        handler: Callable[..., Any],
        inputs: Any = None,
        outputs: Sequence[Any] | None = None,
        refresh: bool | None = None,
        **options: Any,
    ) -> Any:
        """Wire an event handler. Its errors appear on the problem panel, and no progress overlay is shown.

        Args:
            event: an event of a component, such as ``button.click``, or a list of events.
            refresh: let the page poll at once afterwards. By default it does if there are no outputs, because the
                handler then changes something that the page shows elsewhere.
            options: of gradio's events; they replace the usual ones.
        """
        checked = self.context.catch_errors(handler, has_outputs=outputs is not None)
        wire = functools.partial(gr.on, event) if isinstance(event, list) else event
        wired = wire(checked, inputs, outputs, **(NO_PROGRESS | options))
        self.events.setdefault(handler, []).append(wired)
        if refresh if refresh is not None else outputs is None:
            self.refresh_after(wired)
        return wired

    def refresh_after(self, event: Any) -> Any:
        """Let the page poll at once after this event. Returns the event."""
        self._refreshing.append(event)
        return event

    def job_command(self, name: str) -> Callable[..., None]:
        """Return a handler that tells the running job to pause, stop, cancel, save_now or preview_now."""
        command = getattr(self.context.runner, name)

        def handler(*inputs: Any) -> None:
            command()

        return handler

    def wire(self) -> None:
        """Wire the refresh events. Call once, inside the Blocks, when every tab is built."""
        for group, button in zip(GROUPS, self.refresh_buttons, strict=True):
            components = [component for outputs in self._group(group) for component in outputs.components]
            button.click(
                self._refresh(group),
                None,
                components,
                trigger_mode="always_last",
                **NO_PROGRESS,
            )
        for event in self._refreshing:
            event.then(None, None, None, js="() => window.studioPoll?.()", api_visibility="private")
        for function in self.demo.fns.values():
            if function.show_progress == "hidden":
                function.show_progress_on = [self.refresh_buttons[0]]
        self._answer_in_order()

    def _answer_in_order(self) -> None:
        """Let one handler serve its events one after the other, whichever component they came from.

        Otherwise the answer to an earlier event, with the selection or the state as it was then, may arrive last and
        stay. gradio's queue does that for each event that is wired (its limit is one at a time), so all events of a
        handler get the queue of the first. The browser alone does not: its "always_last" looks for a request in
        progress some moments before it sends its own.
        """
        for events in self.events.values():
            functions = [self.demo.fns[event["id"]] for event in events]
            for function in functions:
                function.concurrency_id = functions[0].concurrency_id

    def versions(self) -> list[int]:
        """Return a number for each group, which grows when something in the group changes. The same for all pages."""
        with self._lock:
            view = self.context.view()  # under the lock: no thread may compare an older view after a newer one
            for group in GROUPS:
                keys = [self._key(outputs, view) for outputs in self._group(group)]
                if keys != self._keys.get(group):
                    self._keys[group] = keys
                    self._versions[group] += 1
            return list(self._versions.values())

    def report(self, number: int, error: Exception) -> None:
        """Show that outputs cannot be drawn, once for each. The rest of the page keeps working."""
        if number in self._reported:
            return
        self._reported.add(number)
        wrapped = UserError(
            "A part of this page cannot be shown.",
            f"{type(error).__name__}: {error}"[:300],
            "Work that is running is not affected. Reload the page; if it happens again, send the report to the "
            "project.",
        )
        wrapped.__cause__ = error
        self.context.show_problem(wrapped)

    def _key(self, outputs: LiveOutputs, view: View) -> Hashable:
        try:
            return outputs.key(view)
        except Exception as error:  # the other outputs are still compared
            self.report(self.registered.index(outputs), error)
            return None

    def _group(self, group: UpdateGroup) -> list[LiveOutputs]:
        return [outputs for outputs in self.registered if outputs.group == group]

    def _seen_by(self, session: str | None) -> dict[UpdateGroup, dict[int, Hashable]]:
        """Return the keys that a page has seen. The pages that refreshed longest ago are forgotten."""
        with self._lock:
            seen = self._seen.setdefault(str(session), {group: {} for group in GROUPS})
            self._seen.move_to_end(str(session))
            while len(self._seen) > PAGES:
                self._seen.popitem(last=False)
            return seen

    def _refresh(self, group: UpdateGroup) -> Callable[..., Any]:
        def refresh(request: gr.Request) -> Any:
            registered, seen = self._group(group), self._seen_by(request.session_hash)[group]
            if not registered:
                return None  # gradio warns about an update without outputs

            def on_error(number: int, error: Exception) -> None:
                self.report(self.registered.index(registered[number]), error)

            updates, keys = changed_updates(registered, self.context.view(), seen, on_error)
            if all(number in seen and seen[number] == key for number, key in keys.items()):
                return gr.skip()
            seen.update(keys)
            return updates if len(updates) > 1 else updates[0]

        return refresh
