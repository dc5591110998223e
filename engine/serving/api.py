"""The HTTP API: its addresses, and what it answers. Models are used by ``worker.py`` alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Annotated, Any

from anyio import to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from engine.errors import UserError
from engine.jobs.faults import describe_crash
from engine.machine.errors import is_disk_full
from engine.machine.units import counted
from engine.serving import a1111
from engine.serving.bodies import ImageBody
from engine.serving.job_service import JobService
from engine.serving.jobs import Jobs, QueueFull
from engine.serving.served_net import ServedNet
from engine.version import VERSION

Wait = Annotated[float, Query(allow_inf_nan=False, description="Seconds to wait for the job, at most 600.")]


def build_api(jobs: Jobs, served: ServedNet) -> FastAPI:
    """The application without its guard (``guard.py``)."""
    api = FastAPI(title="ControlNet Studio", version=VERSION, docs_url=None, redoc_url=None)
    service = JobService(jobs, served)
    api.add_exception_handler(UserError, _user_error)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(400, _unreadable)
    api.add_exception_handler(Exception, _crash)

    @api.post("/v1/images", summary="Draw images", status_code=202)
    async def draw(body: ImageBody, request: Request, wait: Wait = 0) -> Response:  # type: ignore[valid-type]
        """Answers 202 with the job's id; with ``wait`` (seconds) once it is over, or after that time. With the header
        ``Accept: image/png`` a job that is done within ``wait`` answers with its first image."""
        job = await service.accept(body.model_dump(exclude_none=True))  # type: ignore[attr-defined]
        await service.wait(job, wait)
        if job.state == "done" and "image/png" in request.headers.get("accept", ""):
            return FileResponse(job.image(0), media_type="image/png", headers={"x-job": job.id})
        return JSONResponse(service.describe(job), 200 if job.over else 202)

    @api.get("/v1/images/{id}", summary="State of a job")
    async def state(id: str, wait: Wait = 0) -> dict[str, Any]:
        """``state`` is waiting, drawing, done, failed or cancelled."""
        job = service.find(id)
        await service.wait(job, wait)
        return service.describe(job)

    @api.get("/v1/images/{id}/{number}.png", summary="An image that was drawn", response_class=FileResponse)
    async def image(id: str, number: int) -> Response:
        """A PNG with its settings inside. ``number`` begins at 0."""
        job = service.find(id)
        if not 0 <= number < job.drawn:
            raise HTTPException(404, f"The job is {job.state} and has {counted(job.drawn, 'image')}.")
        if not job.image(number).is_file():
            raise HTTPException(404, "The image was removed from the server's disk. Send the request again.")
        return FileResponse(job.image(number), media_type="image/png")

    @api.delete("/v1/images/{id}", summary="Cancel a job")
    async def cancel(id: str) -> dict[str, Any]:
        """A job that is being drawn ends after its present step."""
        job = service.find(id)
        await to_thread.run_sync(jobs.cancel, job)
        return service.describe(job)

    @api.get("/v1/health", summary="Whether the server works, and how many jobs it has")
    async def health() -> dict[str, Any]:
        return {"version": VERSION, "net": served.name, "jobs": jobs.counts()}

    @api.get("/v1/net", summary="The net and its defaults")
    async def net() -> dict[str, Any]:
        return served.card

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_docs(api.openapi()))

    a1111.add_routes(api, service)
    return api


async def _user_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, UserError)
    words = {"what": error.what, "why": error.why, "try_this": error.try_this}
    content = {"detail": f"{error.what} {error.why} {error.try_this}", "error": words}
    if isinstance(error, QueueFull):
        return JSONResponse(content, 429, headers={"retry-after": str(max(1, round(error.seconds)))})
    return JSONResponse(content, 422)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    """Without the values: an image in base64 would fill the answer."""
    assert isinstance(error, RequestValidationError)
    problems = [f"{'.'.join(map(str, one['loc'][1:])) or 'body'}: {one['msg']}." for one in error.errors()]
    return JSONResponse({"detail": " ".join(problems)}, 422)


async def _unreadable(_request: Request, _error: Exception) -> JSONResponse:
    """FastAPI's answer to bytes that it cannot parse says no more than that."""
    why = "The body of the request is not JSON in UTF-8, or it is compressed, or a number in it is far too long."
    return JSONResponse({"detail": f"{why} Send plain JSON."}, 400)


async def _crash(_request: Request, error: Exception) -> JSONResponse:
    """Words for what nobody foresaw, and for a full disk. The server prints the traceback."""
    failure = describe_crash(error)
    words = {"what": failure.what, "why": failure.why, "try_this": failure.try_this}
    status = 507 if is_disk_full(error) else 500
    return JSONResponse({"detail": " ".join(words.values()), "error": words}, status)


def _docs(schema: Mapping[str, Any]) -> str:
    """The OpenAPI description as a plain page, which loads nothing from elsewhere."""
    rows = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            text = f"{about.get('summary', '')}. {about.get('description', '')}"
            rows.append(f"<h3><code>{method.upper()} {escape(path)}</code></h3><p>{escape(text)}</p>")
    fields = [
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(one.get('description', ''))}</td></tr>"
        for name, one in schema["components"]["schemas"]["ImageBody"]["properties"].items()
    ]
    return (
        "<!doctype html><meta charset=utf-8><title>ControlNet Studio: API</title>"
        "<style>body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td{padding:.2rem .6rem;vertical-align:top}</style><h1>API of ControlNet Studio</h1>"
        "<p>Every request needs the header <code>Authorization: Bearer TOKEN</code>, with the token that was printed "
        "when the server started. The same description for programs: <a href='/openapi.json'>openapi.json</a>.</p>"
        f"{''.join(rows)}<h2>Body of <code>POST /v1/images</code></h2><table>{''.join(fields)}</table>"
    )
