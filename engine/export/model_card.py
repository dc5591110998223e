"""The files beside an exported net: model card with images and code, ComfyUI workflow, note for AUTOMATIC1111."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

from engine.conditions import registry
from engine.disk.durable import atomic_write_text
from engine.disk.images import opened
from engine.errors import UserError
from engine.export import workflow
from engine.export.checkpoint_details import UNION_MODE, CheckpointDetails
from engine.export.preprocessors import NODE_PACK, NODE_PACK_SOURCE, Preprocessor, preprocessor
from engine.export.sharing import MARK, README, section
from engine.families.facts import FamilyFacts

EDITOR, SERVER, NOTE = "comfyui_workflow.json", "comfyui_workflow_api.json", "automatic1111.txt"
AUTOMATIC1111 = "AUTOMATIC1111"
"""In ``ControlFiles.programs``: it reads such nets."""
IMAGES = 4
DEFAULT_SIDE = 512  # px, if the run's resolution is unknown


def is_ours(folder: Path) -> bool:
    """Whether this app wrote the model card in a folder, so that it may be overwritten."""
    readme = folder / README
    return readme.is_file() and MARK in readme.read_text(encoding="utf-8", errors="replace")


def require_ours(folder: Path) -> None:
    """Refuse to replace a folder that is no model card of this app.

    Raises:
        UserError: names it.
    """
    if folder.exists() and not is_ours(folder):
        raise UserError(f"{folder.name} is in the way.", "It is not a model card.", "Choose another name.")


def write_card(
    folder: Path, file: str, kind: str, facts: Mapping[str, str], family: FamilyFacts, details: CheckpointDetails
) -> None:
    """Write all of them into an existing folder.

    Args:
        file: name of the net's file; empty if the folder itself is the net.
        kind: name of the export format.
        facts: the metadata of the file's header.
        family: of the base.
    """
    examples = _images(folder, details)
    near = preprocessor(facts.get("condition_type", ""))
    parameters = json.loads(facts.get("condition_parameters") or "{}")
    if file:
        nodes = workflow.nodes(settings(file, facts, family, details), near, parameters)
        for name, form in ((EDITOR, workflow.for_editor), (SERVER, workflow.for_server)):
            atomic_write_text(folder / name, json.dumps(form(nodes), indent=2))
        if AUTOMATIC1111 in family.control_files.programs:
            atomic_write_text(folder / NOTE, automatic1111(file, facts, family, near, details))
    atomic_write_text(folder / README, card(file, kind, facts, family, details, examples))


def settings(file: str, facts: Mapping[str, str], family: FamilyFacts, details: CheckpointDetails) -> workflow.Settings:
    """The settings of the workflow: those with which the run drew its previews."""
    drawn = details.drawn
    return workflow.Settings(
        file=file,
        base=checkpoint_name(facts.get("base", "your-base")),
        strength=drawn.strength if drawn else 1.0,
        steps=drawn.sampling_steps if drawn else 20,
        guidance=drawn.guidance_scale if drawn else family.usual_guidance,
        side=details.resolution or DEFAULT_SIDE,
        clip_skip=details.clip_skip if details.clip_skip > family.text_layer else 1,
        union_mode=int(facts.get(UNION_MODE, -1)),
        of_family=family.comfy,
    )


def checkpoint_name(base: str) -> str:
    """The file's name under which a base is likely to lie in ComfyUI's models folder."""
    name = base.rsplit("/", 1)[-1]
    return name if is_one_file(name) else f"{name}.safetensors"


def is_one_file(base: str) -> bool:
    """Whether a base is a file, not a folder or a Hugging Face id."""
    return base.lower().endswith((".safetensors", ".ckpt"))


def card(
    file: str, kind: str, facts: Mapping[str, str], family: FamilyFacts, details: CheckpointDetails, examples: list[str]
) -> str:
    """The model card in the Hugging Face hub's format."""
    title = _title(facts.get("condition_type", ""))
    rows = [f"| {words} | {facts[key]} |" for key, words in ROWS if facts.get(key)]
    rows += [f"| score on held-out pairs: {name} | {value:.3f} |" for name, value in details.scores.items()]
    base = facts.get("base", "")
    front = ["---", "library_name: diffusers", f"tags: [controlnet, {family.card_tag}]"]
    front += [f"base_model: {base}"] if base.count("/") == 1 else []
    lines = [
        *front,
        f"{MARK} {facts.get('made_with', '').rsplit(' ', 1)[-1]}".rstrip(),
        "---",
        "",
        f"# ControlNet: {title}",
        "",
        _teaches(facts.get("condition_type", "")),
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
    ]
    if examples:
        lines += ["Control images and the images drawn from them. The net was not trained on these pairs:", ""]
        lines += [f"![example]({name})" for name in examples] + [""]
    lines += section(details.sharing, details.checkpoint)
    code = snippet(file, kind, base, family, details, facts.get(UNION_MODE, ""))
    lines += ["## In diffusers", "", "```python", code, "```", ""]
    if file:
        lines += [
            "## In ComfyUI",
            "",
            f"Put `{file}` into `models/{family.comfy.folder}` and open `{EDITOR}` with File > Open (`{SERVER}` is "
            "the same workflow in API format). Choose your base model in the first node"
            + (
                f", and its text encoders ({', '.join(family.comfy.clips)}) in their nodes."
                if family.comfy.clips
                else "."
            ),
            *_nodes_needed(facts),
            "",
        ]
    if file and AUTOMATIC1111 in family.control_files.programs:
        lines += [
            "## In AUTOMATIC1111 and Forge",
            "",
            f"Put `{file}` into `models/ControlNet`; `{NOTE}` names the preprocessor.",
            *(["", family.a1111_caveat] if family.a1111_caveat else []),
            "",
        ]
    return "\n".join(lines)


def _nodes_needed(facts: Mapping[str, str]) -> list[str]:
    """Custom nodes that the ComfyUI workflow needs."""
    if not preprocessor(facts.get("condition_type", "")).node:
        return []
    return [
        "",
        f"The node that makes the control image belongs to [{NODE_PACK}](https://github.com/{NODE_PACK_SOURCE}): "
        "install it with ComfyUI's manager. Without it the workflow does not start.",
    ]


ROWS = (
    ("condition_type", "condition"),
    ("condition_parameters", "its settings"),
    ("base", "trained on"),
    ("merged_with", "merged into the base before training"),
    ("base_storage", "base stored while training"),
    ("family", "family"),
    ("steps", "steps"),
    ("images_seen", "images seen"),
    ("training_pictures", "images in the dataset"),
    ("resolution", "resolution, px"),
    ("clip_skip", "Clip skip"),
    ("precision", "precision"),
    ("control_lora_rank", "Control-LoRA rank"),
    (UNION_MODE, "mode of the union net"),
    ("made_with", "made with"),
)


def snippet(
    file: str, kind: str, base: str, family: FamilyFacts, details: CheckpointDetails, union_mode: str = ""
) -> str:
    """Python code that draws an image, to be run beside the file (or inside the folder).

    Args:
        union_mode: of a union net; "": it is none.
    """
    pipeline, net_class = family.pipeline, family.net_class
    side = details.resolution or DEFAULT_SIDE
    strength = details.drawn.strength if details.drawn else 1.0
    head = ["import torch", f"from diffusers import {net_class}, {pipeline}", "from PIL import Image"]
    skipped = max(0, details.clip_skip - family.text_layer)
    clip_skip, earlier_layer = "", []
    if skipped and family.clip_skip_argument:
        clip_skip = f', "clip_skip": {skipped}'  # counted from the layer that the family reads
    elif skipped:
        earlier_layer = [
            'encoder = next(part for part in pipeline.text_encoder.modules() if hasattr(part, "layers"))',
            f"encoder.layers = encoder.layers[:-{skipped}]  # Clip skip {details.clip_skip}",
        ]
    more = f', "width": {side}, "height": {side}' if family.control_is_encoded else ""  # it resizes the control image
    more += clip_skip
    if family.guidance_embedded:
        more += f', "guidance_scale": {details.drawn.guidance_scale if details.drawn else family.usual_guidance}'
    more += f', "control_mode": {union_mode}' if union_mode else ""
    from_base = "from_single_file" if is_one_file(base) else "from_pretrained"
    checker = ", safety_checker=None" if family.safety_checker else ""
    if kind == "single_file":
        load = [
            "with safe_open(FILE, framework='pt') as file:",
            "    config = json.loads(file.metadata()['controlnet_config'])",
            "    weights = {name: file.get_tensor(name) for name in file.keys()}",
            f"controlnet = {net_class}.from_config(config)",
            "controlnet.load_state_dict(weights)",
        ]
        head = ["import json", "", *head, "from safetensors import safe_open"]
        names = [f'FILE = "{file}"']
    elif kind == "diffusers":
        load, names = [f"controlnet = {net_class}.from_pretrained(FOLDER)"], ['FOLDER = "."']
    else:
        return (
            "# This file is for ComfyUI, AUTOMATIC1111 and Forge. For diffusers, export the folder or the single file\n"
            "# with diffusers names."
        )
    return "\n".join(
        [
            *head,
            "",
            *names,
            f'BASE = "{base or "your/base"}"',
            *(["# diffusers reads the configs of such a file from Hugging Face, once."] if is_one_file(base) else []),
            "",
            *load,
            'device = "cuda" if torch.cuda.is_available() else "cpu"',
            f'dtype = torch.{family.card_dtype} if device == "cuda" else torch.float32',
            f"pipeline = {pipeline}.{from_base}(BASE, controlnet=controlnet{checker})",
            *earlier_layer,
            "pipeline.to(device, dtype)",
            f'control = Image.open("map.png").convert("RGB").resize(({side}, {side}))  # the map, not the photograph',
            f'settings = {{"{family.control_argument}": control, "controlnet_conditioning_scale": {strength}{more}}}',
            'picture = pipeline("your prompt", **settings).images[0]',
            'picture.save("picture.png")',
        ]
    )


def automatic1111(
    file: str, facts: Mapping[str, str], family: FamilyFacts, near: Preprocessor, details: CheckpointDetails
) -> str:
    """The note on how to set AUTOMATIC1111's ControlNet panel."""
    strength = details.drawn.strength if details.drawn else 1.0
    skipped = details.clip_skip > family.text_layer
    made = f"choose the preprocessor: {near.a1111}"
    if near.a1111 == "none":
        made = "choose the preprocessor: none, and use a map made with ControlNet Studio"
    elif not near.exact(json.loads(facts.get("condition_parameters") or "{}")):
        made += (
            "\n   (its maps are similar to those of the training, not the same; maps made with ControlNet "
            "Studio fit exactly)"
        )
    return "\n".join(
        [
            "AUTOMATIC1111 (sd-webui-controlnet) and Forge",
            "",
            f"1. Put {file} into models/ControlNet and press the reload button next to the model list.",
            f"2. Enable a ControlNet unit and {made}.",
            f"3. Choose the model {Path(file).stem}. Do not rename the file: the version is read from its name.",
            f"4. Control weight {strength:g}, pixel perfect on, resize mode: crop and resize.",
            *([f"5. Settings, Stable Diffusion: Clip skip {details.clip_skip}."] if skipped else []),
            *([f"5. {family.a1111_caveat}"] if family.a1111_caveat else []),
            "",
            f"Condition: {_title(facts.get('condition_type', ''))} {facts.get('condition_parameters', '')}".rstrip(),
            "",
        ]
    )


def _images(folder: Path, details: CheckpointDetails) -> list[str]:
    """Write control image and drawn image of the first rows. The originals are the user's own and are not published."""
    names = []
    for number, path in enumerate(details.pictures[:IMAGES]):
        with opened(path.with_name(path.name.replace("-row", ""))) as drawn:
            width = drawn.width
        with opened(path) as row:
            pair = row.convert("RGB").crop((0, 0, 2 * width, row.height))
        buffer = io.BytesIO()
        pair.save(buffer, "WEBP", quality=88)
        names.append(f"example-{number + 1}.webp")
        (folder / names[-1]).write_bytes(buffer.getvalue())
    return names


def _title(condition_type: str) -> str:
    return registry.title(condition_type) or "unknown condition"


def _teaches(condition_type: str) -> str:
    try:
        return registry.get(condition_type).teaches
    except UserError:
        return ""
