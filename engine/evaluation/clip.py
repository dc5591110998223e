"""What a CLIP model says of drawn images: how well they fit their prompts, how far they are from the true ones.

Only with weights that are on this disk; nothing is fetched unless asked. Numbers of different CLIP models cannot be
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import weights
from engine.conditions.declaration import ModelNeed
from engine.jobs.control import CancelToken

MODEL = ModelNeed("openai/clip-vit-large-patch14", 1710, "MIT", "engine.evaluation.clip:load", "clip_model")
USUAL_PLACE = "clip"
"""Name in the workspace's models folder that is used where no model is named."""
TOGETHER = 16
SIGMA, SCALE = 10.0, 1000.0
# Of OpenAI's own models, for folders without a preprocessor_config.json.
MEAN, SPREAD, SIDE = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 224


def find(given: str = "") -> Path | None:
    """The folder of the model; None where it is not on this disk. Raises UserError for a path that is not there."""
    from engine.conditions import places

    usual = places.models() / USUAL_PLACE
    if not given and usual.is_dir():
        return usual
    return weights.find(MODEL, given)


def missing_words(given: str = "") -> str:
    """What is missing and where it would go, for people."""
    from engine.conditions import places

    name = given or MODEL.id
    size = f"about {MODEL.megabytes:,} MB, " if name == MODEL.id else ""
    return (
        f"CLIP score and the distance of the sets (CMMD) are left out: the CLIP model {name} ({size}from "
        f"huggingface.co/{name}) is not on this disk. Put its folder at {places.models() / USUAL_PLACE}, name another "
        "folder in the settings (CLIP model), or add --download on the command line."
    )


def download(given: str = "", token: CancelToken | None = None) -> None:
    """Fetch the model into the workspace's models folder; only ever called where a person asked for it."""
    from engine.conditions import places

    weights.download([weights.Missing(MODEL, given or MODEL.id, places.models() / USUAL_PLACE)], token)


def load(place: Path, device: str) -> Clip:
    """The model in a folder of transformers' layout."""
    return Clip(place, device)


class Clip:
    """Embeddings of images and of words, of length 1."""

    def __init__(self, place: Path, device: str) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.name = place.name
        self._device = device
        self._model: Any = CLIPModel.from_pretrained(place, local_files_only=True).to(device).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        side = int(self._model.config.vision_config.image_size)
        found = weights.preparation(place, side or SIDE)
        plain = (place / "preprocessor_config.json").exists()
        mean, spread = (found.mean, found.spread) if plain else (MEAN, SPREAD)
        self._how = weights.Preparation((side, side), False, 1, mean, spread)

    def images(self, images: Sequence[np.ndarray], token: CancelToken | None = None) -> np.ndarray:
        """RGB uint8 (h, w, 3) to float32 (n, d); an image is cut to the square around its centre, as CLIP is used."""
        import torch

        found = []
        for first in range(0, len(images), TOGETHER):
            if token:
                token.raise_if_cancelled()
            squares = [_square(image) for image in images[first : first + TOGETHER]]
            ((_, pixels),) = weights.prepared(squares, self._how)
            with torch.no_grad():
                seen = self._model.vision_model(pixel_values=pixels).pooler_output
                found.append(self._model.visual_projection(seen).float().cpu().numpy())
        return _unit(np.concatenate(found))

    def words(self, prompts: Sequence[str]) -> np.ndarray:
        """Prompts, cut at the model's length, to float32 (n, d)."""
        import torch

        length = int(self._model.config.text_config.max_position_embeddings)
        given = self._tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            read = self._model.text_model(
                input_ids=given.input_ids.to(self._device), attention_mask=given.attention_mask.to(self._device)
            ).pooler_output
            return _unit(self._model.text_projection(read).float().cpu().numpy())


def score(images: np.ndarray, words: np.ndarray) -> float:
    """CLIP score of embeddings (n, d) of images and their prompts: mean of 100 max(cos, 0) (Hessel et al. 2021)."""
    return float(np.mean(100 * np.maximum((images * words).sum(axis=1), 0)))


def cmmd(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two sets of images by their embeddings (n, d) of length 1; 0: drawn from the same set.

    Squared maximum mean discrepancy with a Gaussian kernel of sigma 10, times 1000 (Jayasumana et al. 2024,
    arXiv 2401.09603). The unbiased estimate: sets of some dozens would else seem far apart. May be a little negative.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a.astype(np.float64) @ b.T
        return np.exp(-np.maximum(squared, 0) / (2 * SIGMA**2))

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    if min(len(first), len(second)) < 2:
        raise ValueError("a set of images has at least two")
    return SCALE * (within(first) + within(second) - 2 * float(kernel(first, second).mean()))


def _square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
