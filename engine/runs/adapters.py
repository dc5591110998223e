"""The file of a checkpoint that is added to its base: a LoRA or a new word. No torch."""

from __future__ import annotations

from pathlib import Path

from engine.disk.tensor_file import tensor_names
from engine.errors import UserError
from engine.runs.checkpoints import AVERAGED_LORA, LORA, Checkpoint
from engine.runs.word_files import word_file

EMBEDDING_NAMES = frozenset({"emb_params", "clip_l", "clip_g"})
LORA_ENDS = (".lora_up.weight", ".lora_B.weight", ".hada_w1_a", ".lokr_w1", ".lokr_w1_a")


def adapter_of(checkpoint: Checkpoint) -> Path | None:
    """The LoRA or word of a checkpoint, the averaged one if the run keeps an average; None: it has none."""
    lora = checkpoint.folder / (AVERAGED_LORA if checkpoint.has_ema else LORA)
    return next((path for path in (lora, word_file(checkpoint.folder, checkpoint.has_ema)) if path.is_file()), None)


def net_of(checkpoint: Checkpoint) -> Path:
    """What Try it draws with: the ControlNet of a checkpoint, or its LoRA or word."""
    return adapter_of(checkpoint) or checkpoint.controlnet


def is_adapter(path: Path) -> bool:
    """Whether a file is a LoRA or an embedding for a base, by its header."""
    if path.suffix.lower() != ".safetensors" or not path.is_file():
        return False
    try:
        names = tensor_names(path)
    except (OSError, UserError):
        return False  # damaged: whoever opens it says so
    return bool(names) and (set(names) <= EMBEDDING_NAMES or any(name.endswith(LORA_ENDS) for name in names))
