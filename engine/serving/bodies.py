"""The bodies of requests, made from the settings of an image, and the images in them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, create_model

from engine.disk.images import load_map, load_rgb, opened
from engine.errors import UserError
from engine.inference.declaration import Setting
from engine.inference.request import TryRequest, prepare
from engine.inference.settings import SIZE_STEP, declared
from engine.serving.served_net import FIXED, ServedNet

MAX_COUNT = 16
MAX_BYTES = 24 * 2**20
"""Of one image in a request."""
MAX_TEXT = 8_000
"""Characters of a text in a request, as of a run's preview prompts. Reading it cannot be cancelled."""
MAX_PIXELS = 25_000_000
"""Of one image in a request. The largest that is drawn has 4 million."""
IMAGES = {
    "map": "The finished control image: a PNG, JPEG or WebP file in base64, with or without data: in front.",
    "photo": "Instead of map: an image of which the control image is made as in the training.",
    "image": "Draw over this image (img2img).",
    "mask": "White where image is redrawn (inpainting).",
}
"""The images of a request, each in base64."""


def _field(one: Setting) -> Any:
    kind: Any = Literal[tuple(choice.name for choice in one.choices)] if one.choices else one.kind
    description = " ".join(filter(None, (f"{one.title}.", one.help)))
    if kind is str:  # a bounded text is also checked for halves of surrogate pairs, which no tokenizer reads
        kind = Annotated[str, Field(max_length=MAX_TEXT)]
    return Annotated[kind | None, Field(ge=one.ge, gt=one.gt, le=one.le, description=description)], None


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


ImageBody: type[BaseModel] = create_model(
    "ImageBody",
    __base__=_Body,
    **{name: _field(one) for name, one in declared().items() if name not in FIXED},
    **{name: (Annotated[str | None, Field(description=help)], None) for name, help in IMAGES.items()},
    count=(Annotated[int, Field(ge=1, le=MAX_COUNT, description="Number of images, each with the next seed.")], 1),
    without_control=(Annotated[bool, Field(description="Draw without the ControlNet, to compare.")], False),
)  # type: ignore[call-overload]
"""The body of POST /v1/images. A field that is missing has the default of the served net."""


def decode_image(name: str, text: str) -> bytes:
    """The bytes of an image in base64.

    Raises:
        UserError: it is not base64, is too large, or is not an image that can be read.
    """
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(
            f"{name} cannot be read.", "It is not base64.", "Send the bytes of an image file in base64."
        ) from error
    if len(data) > MAX_BYTES:
        raise UserError(f"{name} is too large.", f"It has more than {MAX_BYTES // 2**20} MB.", "Send a smaller one.")
    with opened(Path(name), data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"{name} is too large.",
                f"It has {image.width} x {image.height} pixels; the limit is {MAX_PIXELS // 1_000_000} million.",
                "Scale it down before sending it.",
            )
        image.load()
    return data


def read_images(body: Mapping[str, Any]) -> dict[str, bytes]:
    """The images of a body, by name.

    Raises:
        UserError: one cannot be read, there is no control image, or there are two.
    """
    images = {name: decode_image(name, str(body[name])) for name in IMAGES if body.get(name)}
    if ("map" in images) == ("photo" in images):
        raise UserError(
            "The image cannot be drawn.",
            "A request needs a control image: either map or photo.",
            "Send one of the two.",
        )
    return images


def check(served: ServedNet, body: Mapping[str, Any], images: Collection[str]) -> None:
    """Check everything about a request but what its images show.

    Args:
        body: as for ``try_requests``.
        images: names of its images.

    Raises:
        UserError: a value is out of bounds, or does not go with the others or with the net.
    """
    if "photo" in images and served.make_map is None:
        why = f"The app cannot make control images of the kind “{served.condition or 'unknown'}”."
        raise UserError("photo cannot be used.", why, "Send a finished control image as map.")
    blank = Image.new("RGB", (SIZE_STEP, SIZE_STEP))
    first = _request(served, body, dict.fromkeys(images, blank) | {"map": blank})
    prepare(replace(first, seed=first.seed + int(body.get("count", 1)) - 1))  # the last image has the highest seed


def try_requests(served: ServedNet, body: Mapping[str, Any], files: Mapping[str, Path]) -> list[TryRequest]:
    """What a session draws for a request that was checked: one for each image.

    Args:
        body: its fields without the images. ``seed`` is set.
        files: the images, by name.
    """
    images = {name: load_rgb(path) for name, path in files.items() if name != "map"}
    if "photo" in files:
        assert served.make_map is not None, "checked when the request was accepted"
        images["map"] = served.make_map(images["photo"])
    else:
        images["map"] = load_map(files["map"])
    first = _request(served, body, images)
    return [replace(first, seed=first.seed + number) for number in range(int(body.get("count", 1)))]


def _request(served: ServedNet, body: Mapping[str, Any], images: Mapping[str, Image.Image]) -> TryRequest:
    given = {name: body[name] for name in declared() if name not in FIXED and body.get(name) is not None}
    if "width" in given:
        given.setdefault("height", given["width"])
    return TryRequest(
        **{"prompt": ""} | dict(served.defaults) | given | {"base": served.base},
        controlnet=served.net,
        control=images["map"],
        without_control=bool(body.get("without_control")),
        image=images.get("image"),
        mask=images.get("mask"),
    )
