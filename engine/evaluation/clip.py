"""CLIP scores of drawn images: how well they fit their prompts, and how far they are from the originals.

Needs the weights on this disk; they are downloaded only on request. Scores of different CLIP models are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.conditions import model_inputs, weights
from engine.conditions.declaration import RequiredModel
from engine.jobs.control import CancelToken
from engine.machine.net_lock import NET_LOCK

MODEL = RequiredModel("openai/clip-vit-large-patch14", 1710, "MIT", "engine.evaluation.clip:load", "clip_model")
USUAL_PLACE = "clip"
"""Name in the workspace's models folder of the model that is used by default."""
TOGETHER = 16
SIGMA, SCALE = 10.0, 1000.0
# Of OpenAI's models, for folders without a preprocessor_config.json.
MEAN, STD, SIDE = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), 224


def find(name: str = "") -> Path | None:
    """The folder of the model, or None if it is not on this disk. Raises UserError for a path that does not exist."""
    from engine.conditions import places

    usual = places.models() / USUAL_PLACE
    if not name and usual.is_dir():
        return usual
    return weights.find(MODEL, name)


def missing_text(name: str = "") -> str:
    """Says which model is missing and where to put it."""
    from engine.conditions import places

    name = name or MODEL.id
    size = f"about {MODEL.megabytes:,} MB, " if name == MODEL.id else ""
    return (
        f"CLIP score and distances from the originals (CMMD, KID) were skipped: the CLIP model {name} ({size}from "
        f"huggingface.co/{name}) is not on this computer. Put its folder at {places.models() / USUAL_PLACE}, "
        "enter another folder in the settings (CLIP model), or add --download on the command line."
    )


def download(name: str = "", token: CancelToken | None = None) -> None:
    """Downloads the model into the workspace's models folder. Call it only on the user's request."""
    from engine.conditions import places

    weights.download([weights.MissingWeights(MODEL, name or MODEL.id, places.models() / USUAL_PLACE)], token)


def load(place: Path, device: str) -> Clip:
    """Loads a model folder in transformers' layout."""
    return Clip(place, device)


class Clip:
    """Computes embeddings of images and texts, normalized to length 1."""

    def __init__(self, place: Path, device: str) -> None:
        from transformers import AutoTokenizer, CLIPModel

        self.name = place.name
        self._device = device
        with NET_LOCK:
            self._model: Any = CLIPModel.from_pretrained(place, local_files_only=True).to(device).eval()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        side = int(self._model.config.vision_config.image_size)
        found = model_inputs.read_preprocessing(place, side or SIDE)
        plain = (place / "preprocessor_config.json").exists()
        mean, std = (found.mean, found.std) if plain else (MEAN, STD)
        self._how = model_inputs.Preprocessing((side, side), False, 1, mean, std)

    def images(self, images: Sequence[np.ndarray], token: CancelToken | None = None) -> np.ndarray:
        """RGB uint8 (h, w, 3) to float32 (n, d). Images are center-cropped to a square, as usual for CLIP."""
        import torch

        found = []
        for first in range(0, len(images), TOGETHER):
            if token:
                token.raise_if_cancelled()
            squares = [_square(image) for image in images[first : first + TOGETHER]]
            ((_, pixels),) = model_inputs.preprocess(squares, self._how)
            with torch.no_grad():
                seen = self._model.vision_model(pixel_values=pixels).pooler_output
                found.append(self._model.visual_projection(seen).float().cpu().numpy())
        return _unit(np.concatenate(found))

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Prompts, truncated to the model's length, to float32 (n, d)."""
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


def score(images: np.ndarray, texts: np.ndarray) -> float:
    """CLIP score of embeddings (n, d) of images and their prompts: mean of 100 max(cos, 0) (Hessel et al. 2021)."""
    return float(np.mean(100 * np.maximum((images * texts).sum(axis=1), 0)))


def cmmd(first: np.ndarray, second: np.ndarray) -> float:
    """Distance between two sets of images, from embeddings (n, d) of length 1. About 0 for the same distribution.

    Squared maximum mean discrepancy with a Gaussian kernel of sigma 10, times 1000 (Jayasumana et al. 2024,
    arXiv 2401.09603). Uses the unbiased estimate, since the biased one is large for small sets. It can be slightly
    negative.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a.astype(np.float64) @ b.T
        return np.exp(-np.maximum(squared, 0) / (2 * SIGMA**2))

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)))

    if min(len(first), len(second)) < 2:
        raise ValueError("each set needs at least two images")
    return SCALE * (within(first) + within(second) - 2 * float(kernel(first, second).mean()))


def _square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
