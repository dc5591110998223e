"""Names that every system takes and AUTOMATIC1111 does not misread: it tells the version of a net from its name."""

from __future__ import annotations

from engine.errors import UserError
from engine.workspace.paths import safe_name

# In the order in which AUTOMATIC1111's ControlNet extension looks for them in the lower-cased name.
VERSION_MARKS = ((("sd14", "sd15", "sd16"), "sd1"), (("sd21", "2.1"), "sd2"), (("xl",), "sdxl"))
MISREAD = {
    "shuffle": "AUTOMATIC1111 treats a net with that word as its shuffle model",
    "instant_id": "AUTOMATIC1111 treats a net with that word as InstantID",
    "diffusion_pytorch_model": "every net is called that in its own folder, so nobody could tell them apart",
}
ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


def version_read_from(name: str) -> str | None:
    """What AUTOMATIC1111 takes a file of this name for: "sd1", "sd2", "sdxl", or None where it finds no mark."""
    for marks, version in VERSION_MARKS:
        if any(mark in name.lower() for mark in marks):
            return version
    return None


def export_stem(name: str, file_tag: str) -> str:
    """A file name without its ending, from what a person typed; ``file_tag`` (sd15 ...) is added where it is needed.

    Raises:
        UserError: the name would be misread.
    """
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    stem = safe_name(name)
    for word, why in MISREAD.items():
        if word in stem.lower():
            raise UserError(f"The name {stem} cannot be used.", f"It contains {word!r}: {why}.", "Choose another name.")
    if version_read_from(stem) != version_read_from(file_tag):
        stem = f"{stem}_{file_tag}"
    if version_read_from(stem) != version_read_from(file_tag):
        raise UserError(
            f"The name {stem} cannot be used.",
            "AUTOMATIC1111 would read another base version from it, and refuse the net.",
            "Leave version numbers such as sd15, 2.1 or xl out of the name.",
        )
    return stem
