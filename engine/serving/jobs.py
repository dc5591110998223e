"""The jobs of the server: a bounded queue, and one folder for each job, so that a killed server goes on with them.

A folder holds ``request.json`` and the request's images, then ``result.json`` and the drawn images. The files are the
truth: a job without a result waits.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from engine.disk.durable import atomic_write_bytes, atomic_write_text
from engine.disk.in_use import clear
from engine.errors import UserError
from engine.jobs.control import Cancelled
from engine.machine.units import counted

State = Literal["waiting", "drawing", "done", "failed", "cancelled"]

REQUEST, RESULT = "request.json", "result.json"
ID = re.compile(r"[0-9]{13}-[0-9a-f]{8}")
"""Milliseconds since 1970, so that names sort by time, and a random number."""
KEPT_SECONDS = 3600.0
"""How long a finished job is kept."""
KEPT_JOBS = 256
"""How many finished jobs are kept at most."""
FIRST_GUESS = 10.0
"""Seconds that an image is expected to take, until the first has been drawn."""


class QueueFull(UserError):
    """As many jobs wait as may wait.

    Args:
        seconds: until there will be room.
    """

    def __init__(self, waiting: int, seconds: float) -> None:
        super().__init__(
            "The queue is full.",
            f"{counted(waiting, 'request')} wait already.",
            f"Send it again in {round(seconds)} seconds.",
        )
        self.seconds = seconds


@dataclass
class Job:
    """A request for images, and what became of it. It is the token by which its drawing is cancelled."""

    id: str
    folder: Path
    request: Mapping[str, Any]
    """The body without its images; ``seed`` is set."""
    state: State = "waiting"
    done: int = 0
    total: int = 0
    """Denoising steps done, and in all; 0: unknown."""
    drawn: int = 0
    """Number of finished images."""
    warnings: tuple[str, ...] = ()
    error: Mapping[str, str] | None = None
    """What went wrong: "what", "why" and "try_this"."""
    ended: float = 0.0
    """When, in seconds since 1970."""
    cancelled: bool = field(default=False, repr=False)

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    @property
    def count(self) -> int:
        return int(self.request.get("count", 1))

    def files(self) -> dict[str, Path]:
        """The request's images, by name."""
        return {name: self.folder / name for name in self.request.get("images", ())}

    def image(self, number: int) -> Path:
        """The file of a drawn image."""
        return self.folder / f"{number}.png"

    def raise_if_cancelled(self) -> None:
        if self.cancelled:
            raise Cancelled


class Jobs:
    """The jobs of one server. All methods may be called from any thread.

    Args:
        folder: of this server; made with the first job. Jobs that it holds and that have no result wait again.
        most: how many may wait.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder, self._most = folder, most
        self._lock = threading.Condition()
        self._seconds_per_image = FIRST_GUESS
        self.stopping = False
        """The server is about to stop: no client waits any more."""
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        found = (_read(path) for path in paths if ID.fullmatch(path.name))
        self._jobs = {job.id: job for job in found if job is not None}
        self._forget_old()

    def add(self, request: Mapping[str, Any], images: Mapping[str, bytes]) -> Job:
        """Accept a job. It is on the disk when this returns.

        Raises:
            QueueFull: too many are waiting.
            OSError: the disk is full.
        """
        with self._lock:
            self._refuse_if_full()
            self._forget_old()
            name = f"{time.time_ns() // 1_000_000:013d}-{secrets.token_hex(4)}"
            job = Job(name, self._folder / name, {**request, "images": sorted(images)})
            try:
                for image, data in images.items():
                    atomic_write_bytes(job.folder / image, data)
                atomic_write_text(job.folder / REQUEST, json.dumps(job.request))
            except OSError:
                clear(job.folder)
                raise
            self._jobs[name] = job
            self._lock.notify_all()
            return job

    def get(self, name: str) -> Job:
        """The job of this id.

        Raises:
            KeyError: there is none, or it is no longer kept.
        """
        with self._lock:
            return self._jobs[name]

    def cancel(self, job: Job) -> None:
        """Cancel a job: at once if it waits, between two steps if it is being drawn, not at all if it is over."""
        with self._lock:
            job.cancelled = True
            if job.state == "waiting":
                self._end(job, "cancelled")

    def next(self, seconds: float) -> Job | None:
        """The oldest waiting job, which is being drawn from now on; None if none comes within ``seconds``."""
        with self._lock:
            self._lock.wait_for(lambda: bool(self._waiting()), seconds)
            job = next(iter(self._waiting()), None)
            if job is not None:
                job.state = "drawing"
            return job

    def end(
        self,
        job: Job,
        state: State,
        warnings: tuple[str, ...] = (),
        error: Mapping[str, str] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Record the end of a job that was being drawn.

        Args:
            seconds: that it took; 0: not to be counted.
        """
        with self._lock:
            job.warnings, job.error = warnings, error
            if seconds:
                self._seconds_per_image = seconds / job.count
            self._end(job, state)

    def ahead(self, job: Job) -> int:
        """How many jobs come before a waiting one."""
        with self._lock:
            waiting = self._waiting()
            drawing = sum(one.state == "drawing" for one in self._jobs.values())
            return waiting.index(job) + drawing if job in waiting else 0

    def seconds_left(self, job: Job) -> float:
        """An estimate of the time until a job is over."""
        if job.over:
            return 0.0
        with self._lock:
            waiting = self._waiting()
            before = waiting[: waiting.index(job)] if job in waiting else []
            drawing = [one for one in self._jobs.values() if one.state == "drawing"]
            images = sum(one.count for one in before) + sum(_left(one) for one in drawing)
            return self._seconds_per_image * (images + (job.count if job.state == "waiting" else 0))

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self._lock:
            states = [job.state for job in self._jobs.values()]
            return {state: states.count(state) for state in ("waiting", "drawing", "done", "failed", "cancelled")}

    def refuse_if_full(self) -> None:
        """Raise QueueFull if no job can be added, before the images of a request are decoded."""
        with self._lock:
            self._refuse_if_full()

    def stop_waiting(self) -> None:
        """End the waiting of all clients."""
        self.stopping = True

    def drawing(self) -> Job | None:
        """The job that is being drawn."""
        with self._lock:
            return next((job for job in self._jobs.values() if job.state == "drawing"), None)

    def _refuse_if_full(self) -> None:
        waiting = len(self._waiting())
        if waiting >= self._most:
            raise QueueFull(waiting, max(1.0, self._seconds_per_image))

    def _waiting(self) -> list[Job]:
        return [job for job in self._jobs.values() if job.state == "waiting"]

    def _end(self, job: Job, state: State) -> None:
        job.ended = time.time()
        fields = {"state": state, "warnings": job.warnings, "error": job.error, "drawn": job.drawn, "ended": job.ended}
        try:
            atomic_write_text(job.folder / RESULT, json.dumps(fields))
        except OSError as error:
            state = "failed"
            job.error = {
                "what": "The result could not be saved.",
                "why": f"{error.strerror or error}.",
                "try_this": "Make room on the disk of the workspace, and send the request again.",
            }
        job.state = state
        self._lock.notify_all()

    def _forget_old(self) -> None:
        over = sorted((job for job in self._jobs.values() if job.over), key=lambda job: job.ended, reverse=True)
        oldest = time.time() - KEPT_SECONDS
        for number, job in enumerate(over):
            if (number >= KEPT_JOBS or job.ended < oldest) and clear(job.folder):
                del self._jobs[job.id]


def _left(job: Job) -> float:
    return job.count * (1 - job.done / job.total if job.total else 1)


def _read(folder: Path) -> Job | None:
    """A job as its folder tells it. None, and the folder is removed, if it was never accepted."""
    try:
        request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        clear(folder)
        return None
    job = Job(folder.name, folder, request)
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return job
    job.state, job.warnings = result["state"], tuple(result["warnings"])
    job.error, job.drawn, job.ended = result["error"], result["drawn"], result["ended"]
    return job
