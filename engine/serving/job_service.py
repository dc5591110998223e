"""Accepts requests, waits for their jobs, and tells their state."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException

from engine.serving.bodies import IMAGES, check, read_images
from engine.serving.jobs import Job, Jobs
from engine.serving.served_net import ServedNet

MAX_WAIT = 600.0
POLL_SECONDS = 0.05
MAX_SEED = 2**31 - 1
"""Of seeds that are drawn here: every client can hold them."""


class JobService:
    """Accepts requests, waits for their jobs, and tells their state."""

    def __init__(self, jobs: Jobs, served: ServedNet) -> None:
        self.jobs, self.served = jobs, served

    async def accept(self, body: Mapping[str, Any]) -> Job:
        """Check a body and put it into the queue.

        Raises:
            QueueFull: too many are waiting.
            UserError: it cannot be drawn.
        """
        return await to_thread.run_sync(self._accept, body)

    def _accept(self, body: Mapping[str, Any]) -> Job:
        self.jobs.refuse_if_full()
        images = read_images(body)
        request = {name: value for name, value in body.items() if name not in IMAGES}
        request.setdefault("seed", secrets.randbelow(MAX_SEED))
        request["served"] = self.served.identity
        check(self.served, request, images)
        return self.jobs.add(request, images)

    async def wait(self, job: Job, seconds: float) -> None:
        """Wait until a job is over or the server stops, at most so long."""
        with anyio.move_on_after(min(max(seconds, 0.0), MAX_WAIT)):
            while not job.over and not self.jobs.stopping:
                await anyio.sleep(POLL_SECONDS)

    def find(self, id: str) -> Job:
        """The job of an id.

        Raises:
            HTTPException: there is none.
        """
        try:
            return self.jobs.get(id)
        except KeyError:
            raise HTTPException(404, "There is no such job. Finished ones are kept for an hour.") from None

    def describe(self, job: Job) -> dict[str, Any]:
        """What clients are told about a job."""
        told: dict[str, Any] = {"id": job.id, "state": job.state, "seed": job.request["seed"]}
        if not job.over:
            told |= {"ahead": self.jobs.ahead(job), "seconds_left": round(self.jobs.seconds_left(job), 1)}
            told |= {"progress": round(job.done / job.total, 3) if job.total else 0.0}
        told["images"] = [f"/v1/images/{job.id}/{number}.png" for number in range(job.drawn)]
        return told | {"warnings": list(job.warnings), "error": job.error}
