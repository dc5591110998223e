"""The part of AUTOMATIC1111's API that plugins of image editors need to draw with a ControlNet.

txt2img and img2img with ``alwayson_scripts.controlnet``, and what plugins ask before them. The names are those of
AUTOMATIC1111's web UI and of its extension sd-webui-controlnet.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from engine.errors import UserError
from engine.inference.samplers import BALANCES, DEFAULT, SAMPLERS
from engine.machine.units import counted
from engine.serving.bodies import MAX_COUNT, ImageBody
from engine.serving.job_service import JobService

WAIT = 600.0
NO_MAP = (None, "", "none", "None")
"""Modules that mean: the image is the finished control image."""
NOTHING: dict[str, Any] = {
    "/sdapi/v1/upscalers": [{"name": "None", "model_name": None, "model_path": None, "model_url": None, "scale": 1}],
    "/sdapi/v1/loras": [],
    "/sdapi/v1/hypernetworks": [],
    "/sdapi/v1/embeddings": {"loaded": {}, "skipped": {}},
    "/sdapi/v1/sd-vae": [],
    "/sdapi/v1/prompt-styles": [],
    "/sdapi/v1/schedulers": [],
    "/sdapi/v1/face-restorers": [],
    "/sdapi/v1/realesrgan-models": [],
    "/sdapi/v1/latent-upscale-modes": [],
    "/sdapi/v1/scripts": {"txt2img": ["controlnet"], "img2img": ["controlnet"]},
    "/sdapi/v1/cmd-flags": {"api": True},
    "/controlnet/settings": {"control_net_max_models_num": 1, "control_net_unit_count": 1},
}
"""Answers to what plugins ask when they start, about things that this server does not have."""
REFRESHED = ("refresh-checkpoints", "refresh-loras", "refresh-vae", "refresh-embeddings")
"""Addresses under /sdapi/v1 that read folders again: there is nothing new to find."""
UNUSED = ("enable_hr", "restore_faces", "tiling", "refiner_checkpoint", "script_name")
"""Fields that ask for something that the app does not do: answered with a warning where they are on."""


def add_routes(api: FastAPI, service: JobService) -> None:
    """Add the addresses under /sdapi and /controlnet."""
    net = service.served.name
    modules = ["none", *([service.served.condition] if service.served.make_map else [])]

    @api.post("/sdapi/v1/txt2img", tags=["AUTOMATIC1111"], summary="Draw images, and wait for them")
    async def txt2img(body: dict[str, Any]) -> dict[str, Any]:
        return await _draw(service, body, {})

    @api.post("/sdapi/v1/img2img", tags=["AUTOMATIC1111"], summary="Draw over an image, and wait for it")
    async def img2img(body: dict[str, Any]) -> dict[str, Any]:
        start = body.get("init_images") or []
        if not isinstance(start, list) or len(start) != 1:
            said = counted(len(start), "image") if isinstance(start, list) else "no list of images"
            raise UserError("The image cannot be drawn.", f"init_images has {said}.", "Send one image in a list.")
        body = _with_control_image(body, start[0])
        over = {"image": start[0], "mask": body.get("mask"), "change": body.get("denoising_strength")}
        return await _draw(service, body, over)

    @api.post("/sdapi/v1/skip", tags=["AUTOMATIC1111"], summary="The same as interrupt")
    @api.post("/sdapi/v1/interrupt", tags=["AUTOMATIC1111"], summary="Cancel what is being drawn")
    async def interrupt() -> dict[str, Any]:
        if job := service.jobs.drawing():
            service.jobs.cancel(job)
        return {}

    @api.get("/sdapi/v1/progress", tags=["AUTOMATIC1111"], summary="Progress of what is being drawn")
    async def progress() -> dict[str, Any]:
        job = service.jobs.drawing()
        share = job.done / job.total if job and job.total else 0.0
        left = service.jobs.seconds_left(job) if job else 0.0
        state = {"job_count": service.jobs.counts()["waiting"] + bool(job), "sampling_step": job.done if job else 0}
        return {"progress": share, "eta_relative": left, "state": state, "current_image": None, "textinfo": None}

    @api.get("/sdapi/v1/samplers", tags=["AUTOMATIC1111"], summary="Names of the samplers")
    async def samplers() -> list[dict[str, Any]]:
        return [{"name": one.title, "aliases": [one.name], "options": {}} for one in SAMPLERS]

    @api.get("/sdapi/v1/sd-models", tags=["AUTOMATIC1111"], summary="The base")
    async def models() -> list[dict[str, Any]]:
        return [{"title": _base(service), "model_name": _base(service), "hash": None, "sha256": None, "filename": ""}]

    @api.get("/sdapi/v1/options", tags=["AUTOMATIC1111"], summary="The base")
    async def options() -> dict[str, Any]:
        return {"sd_model_checkpoint": _base(service)}

    @api.post("/sdapi/v1/options", tags=["AUTOMATIC1111"], summary="Accepts the present base only")
    async def set_options(body: dict[str, Any]) -> dict[str, Any]:
        wanted = body.get("sd_model_checkpoint")
        if wanted not in (None, _base(service)):
            raise HTTPException(422, f"The base is fixed when the server starts; it is {_base(service)}.")
        return {}

    @api.get("/controlnet/version", tags=["AUTOMATIC1111"], summary="Version of the ControlNet extension's API")
    async def version() -> dict[str, Any]:
        return {"version": 2}

    @api.get("/controlnet/model_list", tags=["AUTOMATIC1111"], summary="The net")
    async def model_list() -> dict[str, Any]:
        return {"model_list": [net]}

    @api.get("/controlnet/module_list", tags=["AUTOMATIC1111"], summary="How control images are made")
    async def module_list() -> dict[str, Any]:
        return {"module_list": modules, "module_detail": {one: {"model_free": False, "sliders": []} for one in modules}}

    @api.get("/controlnet/control_types", tags=["AUTOMATIC1111"], summary="The only kind of control image")
    async def control_types() -> dict[str, Any]:
        every = {"module_list": modules, "model_list": [net], "default_option": "none", "default_model": net}
        return {"control_types": {"All": every}}

    def answer_with(answer: Any) -> Callable[[], Any]:
        async def constant() -> Any:
            return answer

        return constant

    for path, answer in NOTHING.items():
        api.get(path, tags=["AUTOMATIC1111"], summary="For plugins: nothing to choose")(answer_with(answer))
    for name in REFRESHED:
        api.post(f"/sdapi/v1/{name}", tags=["AUTOMATIC1111"], summary="For plugins: does nothing")(answer_with({}))


def _base(service: JobService) -> str:
    return str(service.served.card["base"])


async def _draw(service: JobService, body: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    ours, notes = translate(body)
    job = await service.accept({**ours, **{name: value for name, value in over.items() if value is not None}})
    await service.wait(job, WAIT)
    if job.state != "done":
        words = job.error or {"what": "The image was not drawn.", "why": f"The request is {job.state}.", "try_this": ""}
        raise HTTPException(500 if job.over else 504, " ".join(words.values()).strip())
    images = [base64.b64encode(job.image(number).read_bytes()).decode() for number in range(job.drawn)]
    seeds = [job.request["seed"] + number for number in range(job.drawn)]
    info = {"seed": seeds[0], "all_seeds": seeds, "warnings": [*notes, *job.warnings], "job": job.id}
    return {"images": images, "parameters": {}, "info": json.dumps(info)}


def translate(body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The body of our own API for one of theirs, and a sentence for each thing that cannot be done.

    Raises:
        UserError: there is no ControlNet in it, or more than one.
    """
    units = _units(body)
    if len(units) != 1:
        raise UserError(
            "The image cannot be drawn.",
            f"{len(units)} ControlNet units are switched on, and this server has one net.",
            "Switch on one unit, with an image.",
        )
    unit, notes = units[0], [f"{name} is not supported and was ignored." for name in UNUSED if body.get(name)]
    sampler, said = _sampler(str(body.get("sampler_name") or body.get("sampler_index") or ""), body.get("scheduler"))
    image = unit.get("image") or unit.get("input_image")
    image = image.get("image") if isinstance(image, Mapping) else image
    module = unit.get("module")
    ours: dict[str, Any] = {
        "prompt": body.get("prompt"),
        "negative": body.get("negative_prompt"),
        "steps": body.get("steps"),
        "guidance": body.get("cfg_scale"),
        "width": body.get("width"),
        "height": body.get("height"),
        "sampler": sampler,
        "strength": unit.get("weight"),
        "start": unit.get("guidance_start"),
        "end": unit.get("guidance_end"),
        "balance": _balance(unit.get("control_mode")),
        "map" if module in NO_MAP else "photo": image,
    }
    if str(seed := body.get("seed", "")).isdecimal():  # -1 means any
        ours["seed"] = seed
    ours["count"] = _count(body)
    try:
        checked = ImageBody(**{name: value for name, value in ours.items() if value is not None})
    except ValueError as error:
        problems = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())  # type: ignore[attr-defined]
        raise UserError("The image cannot be drawn.", f"{problems}.", "Correct the value.") from error
    return checked.model_dump(exclude_none=True), [*notes, *said]


def _with_control_image(body: Mapping[str, Any], image: Any) -> dict[str, Any]:
    """A body whose unit, where it has no image, has the one that is drawn over, as in the extension."""
    units = [{**unit, "image": unit.get("image") or unit.get("input_image") or image} for unit in _units(body)]
    return {**body, "alwayson_scripts": {"controlnet": {"args": units}}}


def _units(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    scripts = body.get("alwayson_scripts")
    found = scripts.get("controlnet", scripts.get("ControlNet")) if isinstance(scripts, Mapping) else None
    units = found.get("args") if isinstance(found, Mapping) else None
    return [
        one
        for one in (units if isinstance(units, list) else [])
        if isinstance(one, Mapping) and one.get("enabled", True)
    ]


def _count(body: Mapping[str, Any]) -> int:
    """Number of images; one that cannot be drawn is left to the check of the body."""
    sizes = [body.get(name, 1) for name in ("batch_size", "n_iter")]
    return sizes[0] * sizes[1] if all(isinstance(one, int) and one > 0 for one in sizes) else MAX_COUNT + 1


def _sampler(name: str, scheduler: Any) -> tuple[str | None, list[str]]:
    if not name:
        return None, []
    names = {key.lower(): one.name for one in SAMPLERS for key in (one.name, one.title)}
    known = names.get(f"{name} {scheduler}".lower()) or names.get(name.lower())
    return known or DEFAULT, [] if known else [f"There is no sampler called {name}; {DEFAULT} was used."]


def _balance(mode: Any) -> str | None:
    """Their control mode is a number or a title."""
    if isinstance(mode, int):
        return BALANCES[mode].name if 0 <= mode < len(BALANCES) else None
    return next((one.name for one in BALANCES if one.title == mode), None)
