"""The HTTP API: a real server on a port of its own, a tiny base, and clients that speak HTTP."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from engine.disk.durable import atomic_write_text
from engine.errors import UserError
from engine.inference.image_info import read_settings
from engine.inference.request import TryRequest
from engine.inference.session import TrySession
from engine.jobs.control import CancelToken
from engine.serving import jobs as jobs_module
from engine.serving.guard import MAX_BODY
from engine.serving.jobs import Jobs
from engine.serving.served_net import ServedNet, serve_file
from engine.serving.server import ApiServer, read_token
from engine.serving.worker import Draw, Worker
from engine.workspace.paths import Workspace

TOKEN = "a-token-for-the-tests"
WAITING = 12


def in_base64(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass
class Serving:
    """A running server, a client with its token, and a switch that holds its worker."""

    server: ApiServer
    client: httpx.Client
    session: TrySession
    go_on: threading.Event

    def post(self, body: dict[str, Any], **parameters: Any) -> httpx.Response:
        return self.client.post("/v1/images", json=body, params=parameters)

    def state(self, id: str, wait: float = 0) -> dict[str, Any]:
        return dict(self.client.get(f"/v1/images/{id}", params={"wait": wait}).json())

    def pixels(self, address: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.client.get(address).content)))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, loud_controlnet: Path) -> Iterator[Serving]:
    workspace = Workspace(tmp_path_factory.mktemp("serving") / "workspace")
    session, go_on = TrySession(workspace, device="cpu"), threading.Event()
    go_on.set()

    def use_models(draw: Draw, token: CancelToken) -> None:
        while not go_on.wait(0.02):
            token.raise_if_cancelled()
        draw(session, token)

    defaults = {"width": 64, "height": 64, "steps": 2}
    served = ServedNet("ring", loud_controlnet, str(tiny_base), make_map=invert, defaults=defaults)
    server = ApiServer(workspace, served, use_models, TOKEN, port=0, waiting=WAITING)
    server.start()
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
        yield Serving(server, client, session, go_on)
    server.stop()


def invert(image: Image.Image) -> Image.Image:
    return Image.fromarray(255 - np.asarray(image))


@pytest.fixture
def body(edges: Image.Image) -> dict[str, Any]:
    return {"prompt": "red circle", "seed": 3, "map": in_base64(edges)}


@pytest.fixture
def held(serving: Serving) -> Iterator[Serving]:
    """The server with its worker held until the test ends; then nothing waits any more."""
    serving.go_on.clear()
    yield serving
    serving.go_on.set()
    while counts := serving.client.get("/v1/health").json()["jobs"]:
        if not counts["waiting"] + counts["drawing"]:
            break
        time.sleep(0.02)


def test_an_image_equals_that_of_try_it_bit_for_bit_and_has_its_settings(
    serving: Serving, body: dict[str, Any], tiny_base: Path, loud_controlnet: Path, edges: Image.Image, tmp_path: Path
) -> None:
    answer = serving.post(body, wait=30)
    assert answer.status_code == 200 and answer.json()["state"] == "done", answer.text
    address = answer.json()["images"][0]
    size = {"width": 64, "height": 64, "steps": 2}
    request = TryRequest(
        base=str(tiny_base), controlnet=loud_controlnet, prompt="red circle", control=edges, seed=3, **size
    )
    assert np.array_equal(serving.pixels(address), np.asarray(serving.session.generate([request])[0]))
    atomic_file = tmp_path / "image.png"
    atomic_file.write_bytes(serving.client.get(address).content)
    settings = read_settings(atomic_file)
    assert (settings["prompt"], settings["seed"], settings["net"]) == ("red circle", 3, "ring")


def test_a_png_is_answered_where_the_client_wants_one_and_a_photo_becomes_a_map(
    serving: Serving, body: dict[str, Any], edges: Image.Image
) -> None:
    answer = serving.client.post("/v1/images?wait=30", json=body, headers={"accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    photo = {**body, "photo": in_base64(invert(edges))}
    del photo["map"]
    drawn = serving.post(photo, wait=30).json()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), serving.pixels(drawn["images"][0]))


def test_several_images_have_the_next_seeds_and_a_missing_seed_is_drawn_and_told(
    serving: Serving, body: dict[str, Any]
) -> None:
    two = serving.post({**body, "count": 2}, wait=30).json()
    one = serving.post({**body, "seed": 4}, wait=30).json()
    assert np.array_equal(serving.pixels(two["images"][1]), serving.pixels(one["images"][0]))
    body.pop("seed")
    seeds = {serving.post(body).json()["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_ten_clients_at_once_each_get_their_own_image(serving: Serving, body: dict[str, Any]) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(
            pool.map(lambda seed: serving.post({**body, "seed": seed, "steps": 1}, wait=60).json(), range(10))
        )
    assert [answer["state"] for answer in answers] == ["done"] * 10
    assert [answer["seed"] for answer in answers] == list(range(10))
    images = [serving.pixels(answer["images"][0]) for answer in answers]
    assert len({image.tobytes() for image in images}) == 10
    alone = serving.post({**body, "seed": 7, "steps": 1}, wait=30).json()
    assert np.array_equal(images[7], serving.pixels(alone["images"][0]))


def test_a_full_queue_says_when_to_come_again_and_a_waiting_job_is_cancelled_at_once(
    held: Serving, body: dict[str, Any]
) -> None:
    first = held.post(body).json()
    assert held.state(first["id"])["state"] in ("waiting", "drawing")
    while held.state(first["id"])["state"] != "drawing":
        time.sleep(0.01)
    ids = [held.post(body).json()["id"] for _ in range(WAITING)]
    assert held.state(ids[2])["ahead"] == 3 and held.state(ids[2])["seconds_left"] > 0
    full = held.post(body)
    assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1 and "full" in full.json()["detail"]
    assert [held.client.delete(f"/v1/images/{id}").json()["state"] for id in ids] == ["cancelled"] * WAITING
    held.client.delete(f"/v1/images/{first['id']}")
    assert held.state(first["id"], wait=10)["state"] == "cancelled"


def test_a_job_is_cancelled_between_two_steps(serving: Serving, body: dict[str, Any]) -> None:
    job = serving.post({**body, "steps": 1000}).json()
    while not serving.state(job["id"]).get("progress"):
        time.sleep(0.01)
    serving.client.delete(f"/v1/images/{job['id']}")
    assert serving.state(job["id"], wait=10)["state"] == "cancelled"
    assert serving.post(body, wait=30).json()["state"] == "done"


@pytest.mark.parametrize(
    ("header", "status", "words"),
    [
        ({"authorization": "Bearer wrong"}, 401, "token"),
        ({"authorization": ""}, 401, "token"),
        ({"host": "evil.example"}, 403, "its own name"),
        ({"origin": "http://127.0.0.1:7870"}, 403, "web pages"),
    ],
)
def test_strangers_are_refused(serving: Serving, header: dict[str, str], status: int, words: str) -> None:
    answer = serving.client.get("/v1/net", headers=header)
    assert answer.status_code == status and words in answer.json()["detail"]


def test_a_body_of_a_gigabyte_is_refused_before_it_is_sent(serving: Serving) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", serving.server.port, timeout=60)
    connection.putrequest("POST", "/v1/images")
    connection.putheader("content-length", str(2**30))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_token_in_the_address_is_refused_and_basic_takes_it_as_the_password(serving: Serving) -> None:
    answer = serving.client.get(f"/v1/net?token={TOKEN}")
    assert answer.status_code == 400 and "logs" in answer.json()["detail"]
    plain = httpx.get(f"{serving.server.url}/v1/net", auth=("anyone", TOKEN))
    assert plain.status_code == 200 and plain.json()["net"] == "ring"
    assert httpx.get(f"{serving.server.url}/v1/net", auth=("anyone", "wrong")).status_code == 401


def huge() -> str:
    """A PNG of 100 megapixels in a few kilobytes."""
    return in_base64(Image.new("1", (10_000, 10_000)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"map": "%%%"}, "not base64"),
        ({"map": base64.b64encode(b"no image").decode()}, "cannot be read"),
        ({"map": huge()}, "25 million"),
        ({"map": None}, "either map or photo"),
        ({"photo": in_base64(Image.new("RGB", (64, 64)))}, "either map or photo"),
        ({"steps": 0}, "steps"),
        ({"start": 0.9, "end": 0.1}, "Control start must be below"),
        ({"mask": in_base64(Image.new("RGB", (64, 64)))}, "mask needs an image"),
        ({"controlnet": "/etc/passwd"}, "controlnet"),
        ({"base": "/etc"}, "base"),
        ({"second": "../net"}, "second"),
        ({"ingredients": "x.safetensors"}, "ingredients"),
        ({"sampler": "none"}, "sampler"),
        ({"count": 17}, "count"),
        ({"seed": 2**62 - 1, "count": 2}, "Seed must be"),
        ({"prompt": "x" * 8001}, "8000 characters"),
        ({"prompt": "cut \ud83d"}, "as a unicode string"),
    ],
)
def test_a_request_that_cannot_be_drawn_or_names_a_file_is_refused_in_words(
    serving: Serving, body: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    text = json.dumps({**body, **changes})  # httpx cannot send half of a surrogate pair
    answer = serving.client.post("/v1/images", content=text, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and words in answer.json()["detail"], answer.text
    assert len(answer.text) < 2000


def test_a_body_that_is_no_json_or_too_long_without_saying_so_is_refused_in_words(serving: Serving) -> None:
    def post(content: Any) -> httpx.Response:
        return serving.client.post("/v1/images", content=content, headers={"content-type": "application/json"})

    compressed = post(b"\x1f\x8b\x08\x00")
    assert compressed.status_code == 400 and "Send plain JSON" in compressed.json()["detail"]
    large = post(bytes(2**20) for _ in range(MAX_BODY // 2**20 + 1))
    assert large.status_code == 413 and "larger than" in large.json()["detail"]


@pytest.mark.parametrize("wait", ["nan", "inf"])
def test_a_wait_without_end_is_refused_before_anything_is_accepted(
    serving: Serving, body: dict[str, Any], wait: str
) -> None:
    before = serving.client.get("/v1/health").json()["jobs"]
    answer = serving.post(body, wait=wait)
    assert answer.status_code == 422 and "wait" in answer.json()["detail"]
    assert serving.client.get("/v1/health").json()["jobs"] == before


def test_an_image_whose_file_was_removed_is_told_so(serving: Serving, body: dict[str, Any]) -> None:
    job = serving.post(body, wait=30).json()
    serving.server.jobs.get(job["id"]).image(0).unlink()
    answer = serving.client.get(job["images"][0])
    assert answer.status_code == 404 and "removed" in answer.json()["detail"]


def test_a_full_disk_is_told_to_the_client(
    serving: Serving, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs_module, "atomic_write_bytes", full)
    answer = serving.post(body)
    assert answer.status_code == 507 and "disk is full" in answer.json()["error"]["what"]


def test_a_job_that_does_not_exist_and_an_address_that_climbs_are_not_found(serving: Serving) -> None:
    assert serving.client.get("/v1/images/1700000000000-00000000").status_code == 404
    assert serving.client.get("/v1/images/..%2F..%2Frun.json").status_code == 404
    assert serving.client.get("/v1/nothing").status_code == 404


def test_an_error_of_the_engine_fails_its_job_and_the_next_is_drawn(
    serving: Serving, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = serving.session.generate

    def broken(*_args: Any, **_more: Any) -> Any:
        monkeypatch.setattr(serving.session, "generate", generate)
        raise RuntimeError("planted")

    monkeypatch.setattr(serving.session, "generate", broken)
    answer = serving.post(body, wait=30).json()
    assert answer["state"] == "failed" and "planted" in answer["error"]["why"]
    assert serving.post(body, wait=30).json()["state"] == "done"


def test_the_description_opens_without_a_token_and_loads_nothing(serving: Serving) -> None:
    page = httpx.get(f"{serving.server.url}/docs")
    assert page.status_code == 200 and "guidance_rescale" in page.text and "://" not in page.text.replace("</", "")
    schema = httpx.get(f"{serving.server.url}/openapi.json").json()
    assert "/v1/images/{id}" in schema["paths"] and "/sdapi/v1/txt2img" in schema["paths"]
    assert TOKEN not in page.text + json.dumps(schema)


# --- AUTOMATIC1111's API


def unit(edges: Image.Image, **more: Any) -> dict[str, Any]:
    return {"alwayson_scripts": {"controlnet": {"args": [{"image": in_base64(edges), "module": "none", **more}]}}}


def test_clients_of_automatic1111_draw_the_same_image(
    serving: Serving, body: dict[str, Any], edges: Image.Image
) -> None:
    theirs = {
        "prompt": "red circle",
        "seed": 3,
        "steps": 2,
        "cfg_scale": 7.5,
        "width": 64,
        "height": 64,
        "sampler_name": "UniPC",
        "batch_size": 2,
        "restore_faces": True,
        "override_settings": {"sd_model_checkpoint": "other"},
    }
    answer = serving.client.post("/sdapi/v1/txt2img", json=theirs | unit(edges, weight=1.0, control_mode="Balanced"))
    assert answer.status_code == 200, answer.text
    info = json.loads(answer.json()["info"])
    assert info["all_seeds"] == [3, 4] and info["warnings"] == ["restore_faces is not supported and was ignored."]
    first = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))))
    assert np.array_equal(first, serving.pixels(serving.post(body, wait=30).json()["images"][0]))


def test_img2img_redraws_the_masked_part_only(serving: Serving, edges: Image.Image) -> None:
    start = Image.new("RGB", (64, 64), "teal")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    theirs = {"prompt": "red", "init_images": ["data:image/png;base64," + in_base64(start)], "mask": in_base64(mask)}
    answer = serving.client.post("/sdapi/v1/img2img", json=theirs | {"denoising_strength": 0.9} | unit(edges))
    assert answer.status_code == 200, answer.text
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0]))))
    assert np.array_equal(drawn[:, 52:], np.asarray(start)[:, 52:]) and not np.array_equal(drawn, np.asarray(start))


def test_a_request_as_ai_render_sends_it_from_blender(serving: Serving, edges: Image.Image) -> None:
    """Its unit has no image: the extension then takes the one that is drawn over (benrugg/AI-Render)."""
    theirs = {
        "prompt": "red circle",
        "negative_prompt": "ugly",
        "width": 64,
        "height": 64,
        "image_similarity": 0.4,
        "denoising_strength": 0.6,
        "seed": 5,
        "cfg_scale": 7,
        "steps": 2,
        "sampler": "LMS",
        "sampler_index": "LMS",
        "init_images": ["data:image/png;base64," + in_base64(edges)],
        "alwayson_scripts": {"controlnet": {"args": [{"module": "none", "model": "ring"}]}},
    }
    drawn = serving.client.post("/sdapi/v1/img2img", json=theirs)
    assert drawn.status_code == 200, drawn.text
    explicit = serving.client.post("/sdapi/v1/img2img", json=theirs | unit(edges))
    assert drawn.json()["images"] == explicit.json()["images"]


def test_a_request_as_the_photoshop_plugin_sends_it(serving: Serving, edges: Image.Image) -> None:
    """Several units of which one is on, a seed as text (AbdullahAlfaraj/Auto-Photoshop-StableDiffusion-Plugin)."""
    off = {"enabled": False, "input_image": "", "mask": "", "module": "", "model": "", "weight": 1.0}
    on = off | {"enabled": True, "input_image": in_base64(edges), "module": "none", "model": "ring"}
    on |= {"resize_mode": "Scale to Fit (Inner Fit)", "lowvram": False, "processor_res": 512, "pixel_perfect": True}
    on |= {"threshold_a": 64, "threshold_b": 64, "guidance_start": 0, "guidance_end": 1, "guessmode": False}
    units = [on | {"control_mode": "Balanced"}, off, off]
    theirs = {
        "prompt": "red circle",
        "seed": "5",
        "steps": 2,
        "cfg_scale": 7,
        "width": 64,
        "height": 64,
        "sampler_index": "Euler a",
        "batch_size": 1,
        "controlnet_units": units,
        "subseed": -1,
        "override_settings": {},
        "override_settings_restore_afterwards": True,
        "alwayson_scripts": {"controlnet": {"args": units}},
    }
    answer = serving.client.post("/sdapi/v1/txt2img", json=theirs)
    assert answer.status_code == 200, answer.text
    assert json.loads(answer.json()["info"])["all_seeds"] == [5] and len(answer.json()["images"]) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"prompt": "x"}, "0 ControlNet units"),
        ({"prompt": "x", "steps": "many"}, "steps"),
        ({"prompt": "x", "batch_size": 100}, "count"),
        ({"prompt": "x", "batch_size": -2, "n_iter": -2}, "count"),
        ({"prompt": "x", "seed": "9" * 5000}, "seed"),
        ({"alwayson_scripts": {"controlnet": {"args": None}}}, "0 ControlNet units"),
        ({"alwayson_scripts": {"controlnet": {"args": 5}}}, "0 ControlNet units"),
    ],
)
def test_what_this_server_cannot_do_is_told_to_them(
    serving: Serving, edges: Image.Image, body: dict[str, Any], words: str
) -> None:
    more = unit(edges) if len(body) > 1 else {}
    answer = serving.client.post("/sdapi/v1/txt2img", json=body | more)
    assert answer.status_code == 422 and words in answer.json()["detail"]


@pytest.mark.parametrize("images", [5, {"a": 1}, "text", []])
def test_img2img_without_a_list_of_one_image_is_told_so(serving: Serving, images: Any) -> None:
    answer = serving.client.post("/sdapi/v1/img2img", json={"prompt": "x", "init_images": images})
    assert answer.status_code == 422 and "init_images" in answer.json()["detail"]


def test_plugins_get_the_lists_that_they_ask_for(serving: Serving, tiny_base: Path) -> None:
    get: Callable[[str], Any] = lambda path: serving.client.get(path).json()  # noqa: E731
    assert get("/controlnet/model_list") == {"model_list": ["ring"]}
    modules = get("/controlnet/module_list?alias_name=1")
    assert modules["module_list"][0] == "none" and modules["module_detail"].keys() == set(modules["module_list"])
    assert get("/controlnet/settings")["control_net_max_models_num"] == 1
    assert [one["name"] for one in get("/sdapi/v1/upscalers")] == ["None"] and get("/sdapi/v1/loras") == []
    assert get("/sdapi/v1/options") == {"sd_model_checkpoint": tiny_base.name}
    assert get("/sdapi/v1/sd-models")[0]["title"] == tiny_base.name
    assert "UniPC" in [one["name"] for one in get("/sdapi/v1/samplers")]
    assert get("/sdapi/v1/progress")["progress"] == 0
    assert get("/sdapi/v1/schedulers") == get("/sdapi/v1/face-restorers") == []
    assert get("/controlnet/control_types")["control_types"]["All"]["default_model"] == "ring"
    assert serving.client.post("/sdapi/v1/refresh-checkpoints").json() == serving.client.post("/sdapi/v1/skip").json()
    assert serving.client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"}).status_code == 422
    assert serving.client.post("/sdapi/v1/interrupt").json() == {}


# --- Jobs on the disk


def test_a_port_in_use_and_a_short_token_are_told(serving: Serving, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be used"):
        ApiServer(Workspace(tmp_path / "w"), serving.server.served, lambda *_: None, TOKEN, serving.server.port)
    path = tmp_path / "token"
    token = read_token(path)
    assert read_token(path) == token and path.stat().st_mode & 0o077 == 0
    path.write_text("short\n", encoding="utf-8")
    with pytest.raises(UserError, match="too short"):
        read_token(path)
    for text in ("a token with spaces", "a-tökén-of-sixteen-or-more", "two-lines-of-a\ntoken-in-one-file"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="cannot be sent"):
            read_token(path)
    path.write_text(TOKEN, encoding="utf-8-sig")  # as Windows' editors may save it
    assert read_token(path) == TOKEN


def test_a_server_that_stops_answers_the_clients_that_wait(
    tmp_path: Path, serving: Serving, edges: Image.Image
) -> None:
    def never(_draw: Draw, token: CancelToken) -> None:
        while True:
            time.sleep(0.01)
            token.raise_if_cancelled()

    server = ApiServer(Workspace(tmp_path), serving.server.served, never, TOKEN, port=0)
    server.start()
    with ThreadPoolExecutor(1) as pool:
        body, headers = {"prompt": "x", "map": in_base64(edges)}, {"authorization": f"Bearer {TOKEN}"}
        waiting = pool.submit(
            httpx.post, f"{server.url}/v1/images?wait=60", json=body, headers=headers, timeout=60, trust_env=False
        )
        while not server.jobs.counts()["drawing"]:
            time.sleep(0.01)
        begun = time.monotonic()
        server.stop()
        assert waiting.result().status_code == 202 and time.monotonic() - begun < 5


def test_old_results_are_forgotten_and_half_accepted_requests_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Jobs(tmp_path / "unused", 4)
    assert list(tmp_path.iterdir()) == []  # a server that does not start leaves nothing
    (tmp_path / "1700000000000-0000000a").mkdir()
    jobs = Jobs(tmp_path, 4)
    assert list(tmp_path.iterdir()) == []
    first = jobs.add({"seed": 1}, {"map": b"1"})
    assert jobs.next(0) is first
    jobs.end(first, "done")
    monkeypatch.setattr(jobs_module, "KEPT_SECONDS", -1.0)
    second = jobs.add({"seed": 2}, {"map": b"2"})
    with pytest.raises(KeyError):
        jobs.get(first.id)
    assert [path.name for path in tmp_path.iterdir()] == [second.id]


def test_a_request_for_another_net_is_not_drawn_after_a_restart(tmp_path: Path, loud_controlnet: Path) -> None:
    jobs = Jobs(tmp_path, 4)
    jobs.add({"seed": 1, "served": "another"}, {"map": b"1"})
    again = Jobs(tmp_path, 4)
    worker = Worker(again, ServedNet("net", loud_controlnet, "base"), lambda *_: pytest.fail("drawn"))
    job = again.next(0)
    assert job is not None
    worker.do(job)
    assert job.state == "failed" and job.error is not None and "started again" in job.error["why"]


def test_a_server_that_stops_ends_between_two_steps_and_draws_the_job_after_its_next_start(
    serving: Serving, tmp_path: Path, edges: Image.Image
) -> None:
    jobs, served = Jobs(tmp_path, 4), serving.server.served
    request = {"seed": 1, "steps": 1000, "served": served.identity}
    job = jobs.add(request, {"map": base64.b64decode(in_base64(edges))})
    worker = Worker(jobs, served, lambda draw, token: draw(serving.session, token))
    worker.start()
    while not job.done:
        time.sleep(0.01)
    begun = time.monotonic()
    worker.stop()
    assert time.monotonic() - begun < 30 and not job.over
    waiting = Jobs(tmp_path, 4).next(0)
    assert waiting is not None and waiting.id == job.id


def test_a_full_disk_fails_the_request_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(tmp_path, 4)

    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs_module, "atomic_write_text", full)
    with pytest.raises(OSError, match="No space"):
        jobs.add({"seed": 1}, {"map": b"1"})
    assert list(tmp_path.iterdir()) == [] and jobs.next(0) is None
    monkeypatch.setattr(jobs_module, "atomic_write_text", atomic_write_text)
    job = jobs.add({"seed": 1}, {"map": b"1"})
    assert jobs.next(0) is job
    monkeypatch.setattr(jobs_module, "atomic_write_text", full)
    jobs.end(job, "done")
    assert job.state == "failed" and job.error is not None and "saved" in job.error["what"]


def test_a_file_needs_its_base_and_a_missing_one_is_told(tmp_path: Path, loud_controlnet: Path) -> None:
    with pytest.raises(UserError, match="--base"):
        serve_file(loud_controlnet, "")
    with pytest.raises(UserError, match="no run and no file"):
        serve_file(tmp_path / "nothing", "demo")
    assert serve_file(loud_controlnet, "demo").card["takes_photos"] is False
