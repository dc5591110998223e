"""The HTTP API of a window: its server, and drawing for it with the window's models or those of a training."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.jobs.control import AnyOf, CancelToken, Token
from engine.jobs.runner import Busy, Emit, JobRunner
from engine.jobs.snapshot import JobKind, Outcome
from ui.page.context import AppContext
from ui.page.model_jobs import Draw, ModelJobs

if TYPE_CHECKING:
    from engine.inference.session import TrySession
    from engine.serving.served_net import ServedNet
    from engine.serving.server import ApiServer

TITLE = "Drawing for another program"
RETRY_SECONDS = 0.3
"""How often a request that waits for another job of the window looks whether that has ended."""


class WindowApi:
    """Starts and stops the server of a window. A request waits while another job has the models.

    While a training runs, it is drawn between two of its steps.
    """

    def __init__(self, context: AppContext) -> None:
        self._jobs = ModelJobs(context, (JobKind.SERVE,), JobRunner())
        self.context = context
        self.server: ApiServer | None = None
        self.token = ""

    @property
    def running(self) -> bool:
        return self.server is not None and self.server.running

    def start(self, served: ServedNet, port: int) -> None:
        """Start to serve a net, instead of the one that is served now.

        Raises:
            UserError: the port cannot be used.
        """
        from engine.serving.server import ApiServer, read_token

        self.stop()
        self.token = read_token(None)
        self.server = ApiServer(self.context.workspace, served, self._use_models, self.token, port)
        self.server.start()

    def stop(self) -> None:
        """Answer no more requests."""
        if self.server is not None:
            self.server.stop()
            self.server = None

    def state(self) -> tuple[Any, ...]:
        """What the page shows of it, for comparison."""
        if self.server is None or not self.server.running:
            return ()
        return self.server.url, self.server.served, tuple(self.server.jobs.counts().items())

    def _use_models(self, draw: Draw, token: CancelToken) -> None:
        over = threading.Event()
        raised: list[BaseException] = []

        def work(_token: Token, _emit: Emit, use_models: Callable[[Draw], None]) -> Outcome:
            def draw_it(session: TrySession, other: CancelToken) -> None:
                draw(session, AnyOf(token, other))

            try:
                use_models(draw_it)
            except BaseException as error:  # the client is told, not the page
                raised.append(error)
            finally:
                over.set()
            return "completed"

        while True:
            token.raise_if_cancelled()
            try:
                self._jobs.start_quietly(JobKind.SERVE, TITLE, work)
                break
            except Busy:
                time.sleep(RETRY_SECONDS)
        over.wait()
        if raised:
            raise raised[0]
