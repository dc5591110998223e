"""A workflow for ComfyUI in both formats that its File > Open reads: the editor's and the server's (API).

Both are written from one list of nodes, so they always agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from engine.export.preprocessors import NODE_PACK, UNION_TYPES, Preprocessor
from engine.families.drawing import ComfyNodes
from engine.families.facts import FACTS

Link = tuple[str, int]
"""Name of the source node, and the number of its output."""


@dataclass(frozen=True)
class Kind:
    """Inputs and outputs of a node class, as (name, type). ``inputs``: those with a socket, in the editor's order."""

    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()


IMAGE = ("IMAGE", "IMAGE")
CONDITIONS = (("positive", "CONDITIONING"), ("negative", "CONDITIONING"))
CORE: dict[str, Kind] = {
    "CheckpointLoaderSimple": Kind(outputs=(("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE"))),
    "CLIPSetLastLayer": Kind((("clip", "CLIP"),), (("CLIP", "CLIP"),)),
    "CLIPTextEncode": Kind((("clip", "CLIP"),), (("CONDITIONING", "CONDITIONING"),)),
    "DualCLIPLoader": Kind(outputs=(("CLIP", "CLIP"),)),
    "TripleCLIPLoader": Kind(outputs=(("CLIP", "CLIP"),)),
    "UNETLoader": Kind(outputs=(("MODEL", "MODEL"),)),
    "CLIPLoader": Kind(outputs=(("CLIP", "CLIP"),)),
    "VAELoader": Kind(outputs=(("VAE", "VAE"),)),
    "ModelPatchLoader": Kind(outputs=(("MODEL_PATCH", "MODEL_PATCH"),)),
    "ZImageFunControlnet": Kind(
        (("model", "MODEL"), ("model_patch", "MODEL_PATCH"), ("vae", "VAE"), ("image", "IMAGE")), (("MODEL", "MODEL"),)
    ),
    "EmptyLatentImage": Kind(outputs=(("LATENT", "LATENT"),)),
    "EmptySD3LatentImage": Kind(outputs=(("LATENT", "LATENT"),)),
    "LoadImage": Kind(outputs=(IMAGE, ("MASK", "MASK"))),
    "ControlNetLoader": Kind(outputs=(("CONTROL_NET", "CONTROL_NET"),)),
    "SetUnionControlNetType": Kind((("control_net", "CONTROL_NET"),), (("CONTROL_NET", "CONTROL_NET"),)),
    "ControlNetApplyAdvanced": Kind(
        (*CONDITIONS, ("control_net", "CONTROL_NET"), ("image", "IMAGE"), ("vae", "VAE")), CONDITIONS
    ),
    "KSampler": Kind(
        (("model", "MODEL"), *CONDITIONS, ("latent_image", "LATENT")),
        (("LATENT", "LATENT"),),
    ),
    "VAEDecode": Kind((("samples", "LATENT"), ("vae", "VAE")), (IMAGE,)),
    "PreviewImage": Kind((("images", "IMAGE"),)),
    "SaveImage": Kind((("images", "IMAGE"),)),
}
GUIDANCE = Kind((("conditioning", "CONDITIONING"),), (("CONDITIONING", "CONDITIONING"),))
CORE |= {facts.comfy.guidance: GUIDANCE for facts in FACTS if facts.comfy.guidance}
PREPROCESSING = Kind((("image", "IMAGE"),), (IMAGE,))
EDITOR_ONLY = {"KSampler": {"seed": "fixed"}, "LoadImage": {"image": "image"}}
"""Values that only the editor stores behind a widget's own: what happens to the seed after a run."""
COLUMN, ROW = 330, 210


@dataclass(frozen=True)
class Node:
    """One node. ``place``: column and row."""

    kind: str
    place: tuple[float, float]
    links: Mapping[str, Link] = field(default_factory=dict)
    widgets: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""


@dataclass(frozen=True)
class Settings:
    """Initial settings of the workflow."""

    file: str
    """The net's file name in ``models/`` and the family's folder."""
    base: str
    prompt: str = "describe your image here"
    strength: float = 1.0
    steps: int = 20
    guidance: float = 7.5
    side: int = 512
    clip_skip: int = 1
    """Above 1: sets the text encoder's layer, counted from the last."""
    seed: int = 0
    union_mode: int = -1
    """Mode of a union net; -1: it is none."""
    of_family: ComfyNodes = ComfyNodes()


def nodes(settings: Settings, preprocessor: Preprocessor, parameters: Mapping[str, Any]) -> dict[str, Node]:
    """The nodes of the workflow by name: image, preprocessor, ControlNet, sampler."""
    side, family = settings.side, settings.of_family
    loaded: Link = ("encoders", 0) if family.clips else ("base", 1)
    clip: Link = ("layer", 0) if settings.clip_skip > 1 else loaded
    made = {
        "base": Node(
            "CheckpointLoaderSimple", (0, 0), widgets={family.base_name: settings.base}, title="Your base model"
        ),
        "picture": Node("LoadImage", (0, 3), widgets={"image": "example.png"}, title="Your control image"),
        "net": Node("ControlNetLoader", (1, 2.2), widgets={"control_net_name": settings.file}, title="Your ControlNet"),
        "prompt": Node("CLIPTextEncode", (1, 0), {"clip": clip}, {"text": settings.prompt}, "Prompt"),
        "negative": Node("CLIPTextEncode", (1, 1.1), {"clip": clip}, {"text": ""}, "Negative prompt"),
    }
    if family.clips:
        files = {f"clip_name{number}": file for number, file in enumerate(family.clips, start=1)}
        files |= {"type": family.loader_type} if family.loader_type else {}
        made["encoders"] = Node(family.loader, (0, 1.9), widgets=files, title="Its text encoders")
    if settings.clip_skip > 1:
        layer = {"stop_at_clip_layer": -settings.clip_skip}
        made["layer"] = Node("CLIPSetLastLayer", (0, 1.1), {"clip": loaded}, layer, "Clip skip")
    image: Link = ("picture", 0)
    if preprocessor.node:
        widgets = {**preprocessor.widgets(parameters), "resolution": side}
        made["map"] = Node(preprocessor.node, (1, 3), {"image": image}, widgets, "Makes the map")
        image = ("map", 0)
        made["look"] = Node("PreviewImage", (2, 3), {"images": image}, title="The map")
    prompt: Link = ("prompt", 0)
    if family.guidance:
        scale = {"guidance": settings.guidance}
        made["guidance"] = Node(family.guidance, (2, 0), {"conditioning": prompt}, scale, "Guidance")
        prompt = ("guidance", 0)
    net: Link = ("net", 0)
    if 0 <= settings.union_mode < len(UNION_TYPES):
        mode = {"type": UNION_TYPES[settings.union_mode]}
        made["mode"] = Node("SetUnionControlNetType", (1, 2.7), {"control_net": net}, mode, "Mode of the union net")
        net = ("mode", 0)
    applied: dict[str, Link] = {"positive": prompt, "negative": ("negative", 0), "control_net": net, "image": image}
    applied |= {"vae": ("base", 2)} if family.encodes else {}
    strength = {"strength": settings.strength, "start_percent": 0.0, "end_percent": 1.0}
    made["apply"] = Node(family.apply, (2, 0.6), applied, strength)
    made["size"] = Node(family.latent, (2, 1.8), widgets={"width": side, "height": side, "batch_size": 1})
    sampled = {"model": ("base", 0), "positive": ("apply", 0), "negative": ("apply", 1), "latent_image": ("size", 0)}
    how = {
        "seed": settings.seed,
        "steps": settings.steps,
        "cfg": 1.0 if family.guidance else settings.guidance,
        "sampler_name": family.sampler,
        "scheduler": family.scheduler,
        "denoise": 1.0,
    }
    made["sampler"] = Node("KSampler", (3, 0.6), sampled, how)
    made["decode"] = Node("VAEDecode", (4, 0.6), {"samples": ("sampler", 0), "vae": ("base", 2)})
    made["save"] = Node("SaveImage", (4, 1.4), {"images": ("decode", 0)}, {"filename_prefix": "controlnet"})
    return _with_patch(made, settings, image) if family.patches_model else made


def _with_patch(made: dict[str, Node], settings: Settings, image: Link) -> dict[str, Node]:
    """The same workflow for a base in files of its parts, and a net that changes the base's model."""
    family = settings.of_family
    base = {family.base_name: settings.base, "weight_dtype": "default"}
    encoder = {"clip_name": family.clips[0], "type": family.loader_type}
    applied: dict[str, Link] = {"model": ("base", 0), "model_patch": ("net", 0), "vae": ("vae", 0), "image": image}
    sampled: dict[str, Link] = {"model": ("apply", 0), "positive": ("prompt", 0), "negative": ("negative", 0)}
    decoded: dict[str, Link] = {"samples": ("sampler", 0), "vae": ("vae", 0)}
    return made | {
        "base": Node("UNETLoader", (0, 0), widgets=base, title="Your base model"),
        "encoders": Node(family.loader, (0, 1), widgets=encoder, title="Its text encoder"),
        "vae": Node("VAELoader", (0, 2.2), widgets={"vae_name": family.vae}, title="Its VAE"),
        "net": Node("ModelPatchLoader", (1, 2.2), widgets={"name": settings.file}, title="Your ControlNet"),
        "apply": Node(family.apply, (2, 0.6), applied, {"strength": settings.strength}),
        "sampler": replace(made["sampler"], links=sampled | {"latent_image": ("size", 0)}),
        "decode": replace(made["decode"], links=decoded),
    }


def kind_of(node: Node) -> Kind:
    """Inputs and outputs of a node. A node that is not a core node is a preprocessor."""
    return CORE.get(node.kind, PREPROCESSING)


def sockets(node: Node) -> list[tuple[str, str]]:
    """The linked inputs of a node in its own order, as (name, type); optional ones, which come last, may be free."""
    return [socket for socket in kind_of(node).inputs if socket[0] in node.links]


def for_server(made: Mapping[str, Node]) -> dict[str, Any]:
    """The workflow in the server's format."""
    numbers = _numbers(made)
    return {
        str(numbers[name]): {
            "class_type": node.kind,
            "inputs": {**node.widgets, **{i: [str(numbers[s]), slot] for i, (s, slot) in node.links.items()}},
            "_meta": {"title": node.title or node.kind},
        }
        for name, node in made.items()
    }


def for_editor(made: Mapping[str, Node]) -> dict[str, Any]:
    """The workflow in the editor's format (version 0.4), with positions on the canvas."""
    numbers = _numbers(made)
    links: list[list[Any]] = []
    incoming: dict[tuple[str, str], int] = {}
    outgoing: dict[Link, list[int]] = {}
    for name, node in made.items():
        for slot, (socket, type_name) in enumerate(sockets(node)):
            source, output = node.links[socket]
            links.append([len(links) + 1, numbers[source], output, numbers[name], slot, type_name])
            incoming[name, socket] = len(links)
            outgoing.setdefault((source, output), []).append(len(links))
    entries = []
    for order, (name, node) in enumerate(made.items()):
        kind = kind_of(node)
        extra = EDITOR_ONLY.get(node.kind, {})
        values = [v for key, value in node.widgets.items() for v in ([value, extra[key]] if key in extra else [value])]
        entry = {
            "id": numbers[name],
            "type": node.kind,
            "pos": [node.place[0] * COLUMN, node.place[1] * ROW],
            "size": [300, 60 + 26 * max(len(values), len(kind.inputs), len(kind.outputs))],
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": [{"name": n, "type": t, "link": incoming[name, n]} for n, t in sockets(node)],
            "outputs": [
                {"name": n, "type": t, "links": outgoing.get((name, slot), []), "slot_index": slot}
                for slot, (n, t) in enumerate(kind.outputs)
            ],
            "properties": {"Node name for S&R": node.kind, "cnr_id": "comfy-core" if node.kind in CORE else NODE_PACK},
            "widgets_values": values,
        }
        entries.append(entry | ({"title": node.title} if node.title else {}))
    return {
        "last_node_id": len(made),
        "last_link_id": len(links),
        "nodes": entries,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _numbers(made: Mapping[str, Node]) -> dict[str, int]:
    return {name: number for number, name in enumerate(made, start=1)}
