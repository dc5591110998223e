"""Names of exported files: every system accepts them, and AUTOMATIC1111 reads the right base version from them."""

from __future__ import annotations

from engine.errors import UserError
from engine.families.facts import FACTS, FamilyFacts, version_of
from engine.workspace.paths import safe_name

MISREAD = {
    "shuffle": "AUTOMATIC1111 treats a net with that word as its shuffle model",
    "instant_id": "AUTOMATIC1111 treats a net with that word as InstantID",
    "diffusion_pytorch_model": "every net has this name in its own folder, so the nets could not be told apart",
}
ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")


def export_stem(name: str, family: FamilyFacts) -> str:
    """A file name without its ending, from what a person typed. The family's mark is added if the name lacks one.

    Raises:
        UserError: the name would be misread.
    """
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    stem = safe_name(name)
    for word, why in MISREAD.items():
        if word in stem.lower():
            raise UserError(f"The name {stem} cannot be used.", f"It contains {word!r}: {why}.", "Choose another name.")
    if version_of(stem) is not family:
        stem = f"{stem}_{family.file_tag}"
    if version_of(stem) is not family:
        marks = [mark for facts in FACTS for mark in facts.version_marks]
        raise UserError(
            f"The name {stem} cannot be used.",
            "AUTOMATIC1111 would read another base version from it, and refuse the net.",
            f"Leave version numbers ({', '.join(marks)}) out of the name.",
        )
    return stem
