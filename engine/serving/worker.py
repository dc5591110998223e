"""The thread that draws the jobs, one at a time: the HTTP side never touches a model."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.errors import UserError
from engine.inference.image_info import request_settings, save_png
from engine.jobs.control import AnyOf, Cancelled, CancelToken
from engine.jobs.faults import describe_crash
from engine.serving.bodies import try_requests
from engine.serving.jobs import Job, Jobs
from engine.serving.served_net import ServedNet

if TYPE_CHECKING:
    from engine.inference.session import TrySession

POLL_SECONDS = 0.5
STOP_SECONDS = 30.0
"""Loading a base cannot be interrupted: nobody waits longer for it, and it leaves nothing."""
Draw = Callable[["TrySession", CancelToken], None]
UseModels = Callable[[Draw, CancelToken], None]
"""``use_models(draw, token)`` calls ``draw(session, token)`` with a session, now or once one is free. It raises
Cancelled if the token is cancelled while it waits."""


class Worker:
    """Draws the jobs in a thread of its own until ``stop``."""

    def __init__(self, jobs: Jobs, served: ServedNet, use_models: UseModels) -> None:
        self._jobs, self._served, self._use_models = jobs, served, use_models
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End between two steps. The job that is being drawn gets no result, so the next start draws it."""
        self._stopping.set()
        self._thread.join(timeout=STOP_SECONDS)

    def raise_if_cancelled(self) -> None:
        """The worker is a token for what it draws: cancelled when it is to end."""
        if self._stopping.is_set():
            raise Cancelled

    def _run(self) -> None:
        while not self._stopping.is_set():
            if (job := self._jobs.next(POLL_SECONDS)) is not None:
                self.do(job)

    def do(self, job: Job) -> None:
        """Draw a job that ``Jobs.next`` has given out, and record how it ends. Raises nothing."""
        start = time.monotonic()
        warnings: tuple[str, ...] = ()

        def draw(session: TrySession, token: CancelToken) -> None:
            nonlocal warnings
            requests = try_requests(self._served, job.request, job.files())
            images = session.generate(requests, AnyOf(self, token), progress, self._served.categorical)
            warnings = session.warnings
            for number, (request, image) in enumerate(zip(requests, images, strict=True)):
                about = {"run": self._served.name, "net": self._net, "width": image.width, "height": image.height}
                save_png(job.image(number), image, request_settings(request) | about)
                job.drawn = number + 1

        def progress(done: int, total: int, _label: str) -> None:
            job.done, job.total = done, total

        try:
            if job.request.get("served") != self._served.identity:
                raise UserError(
                    "The image was not drawn.",
                    "The request was for the net that this server had before it was started again.",
                    "Send it again.",
                )
            self._use_models(draw, AnyOf(self, job))
        except Cancelled:
            if job.cancelled:
                self._jobs.end(job, "cancelled")
        except UserError as error:
            self._jobs.end(job, "failed", error=_words(error.what, error.why, error.try_this))
        except BaseException as error:  # whatever it is, the next job is drawn
            failure = describe_crash(error)
            print(failure.details, file=sys.stderr, flush=True)
            self._jobs.end(job, "failed", error=_words(failure.what, failure.why, failure.try_this))
        else:
            self._jobs.end(job, "done", warnings, seconds=time.monotonic() - start)

    @property
    def _net(self) -> str:
        return self._served.name if self._served.step is None else f"step-{self._served.step}"


def _words(what: str, why: str, try_this: str) -> dict[str, str]:
    return {"what": what, "why": why, "try_this": try_this}
