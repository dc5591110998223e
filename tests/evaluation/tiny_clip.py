"""A tiny random CLIP in the transformers layout, with the tiny base's tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conditions.tiny_models import seeded


def write(folder: Path, base: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**common, "vocab_size": 49_408, "max_position_embeddings": 77},
        vision_config={**common, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    seeded(lambda: CLIPModel(config)).save_pretrained(folder)
    for path in (base / "tokenizer").iterdir():
        shutil.copy(path, folder / path.name)
    return folder
