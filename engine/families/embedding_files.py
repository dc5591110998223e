"""Embedding files (Textual Inversion, Gal et al. 2022, arXiv 2208.01618): new words for a base's text encoders.

The word is the file's name, as in every program. n vectors become n tokens, the word itself and ``word_1``,
``word_2`` ...; a prompt with the word is read with all of them (``with_all_vectors``), as diffusers does it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AddedToken

from engine.errors import UserError
from engine.families.adapter_checks import require_usable
from engine.families.lora_files import AdapterFile

ONE_KEY, TWO_KEYS = "emb_params", ("clip_l", "clip_g")
"""Names of the vectors of a single text encoder, and of SDXL's two."""
OLD = "string_to_param."
"""Begins the names of the vectors in AUTOMATIC1111's .pt files."""


def vector_names(encoders: int) -> tuple[str, ...]:
    """Names of the tensors in a file for a base with so many text encoders."""
    return TWO_KEYS if encoders == len(TWO_KEYS) else (ONE_KEY,)


def parts_by_folder(family: Any, part: str, loaded: Any) -> dict[str, Any]:
    """Tokenizers or text encoders of a base by the folders that they have there.

    Args:
        part: "tokenizer" or "text_encoder".
        loaded: from ``Family.load_tokenizer`` or ``Family.load_text_encoder``.
    """
    parts: dict[str, Any] = {"denoiser": None, "vae": None, "text_encoder": None, "tokenizer": None}
    found = family.pipeline_parts(parts | {part: loaded})
    return {name: one for name, one in sorted(found.items()) if name.startswith(part) and one is not None}


def is_embedding(file: AdapterFile) -> bool:
    """Whether a file holds vectors of words: all its tensors are (n, width) or (width), and few."""
    tensors = _vectors(file)
    return bool(tensors) and len(tensors) <= 3 and not file.is_lora and all(t.ndim in (1, 2) for t in tensors.values())


def vectors_of(file: AdapterFile, widths: Sequence[int], family: str) -> list[torch.Tensor]:
    """The vectors (n, width) of a file for each text encoder, fp32.

    Args:
        widths: of the base's text encoders, in their order.
        family: title of the base's family, for errors.

    Raises:
        UserError: it was made for a base with other text encoders.
    """
    require_usable(file.path, _vectors(file))
    tensors = {name: t.float().reshape(-1, t.shape[-1]) for name, t in _vectors(file).items()}
    if set(TWO_KEYS) <= tensors.keys():
        found = [tensors[name] for name in TWO_KEYS]
    else:
        found = list(tensors.values())
    if [t.shape[1] for t in found] != list(widths) or len({len(t) for t in found}) != 1:
        has = " and ".join(str(t.shape[1]) for t in found)
        names = " and ".join(tensors)
        own = f"Its vectors are {has} numbers wide"
        if not tensors.keys() & {ONE_KEY, *TWO_KEYS} and not any(name.startswith(OLD) for name in tensors):
            own = f"If it is an embedding, its vectors ({names}) are {has} numbers wide"
        raise UserError(
            f"{file.path.name} does not fit this base.",
            f"{own}; the text encoders of this {family} base read {' and '.join(map(str, widths))}.",
            "Use an embedding or a LoRA that was made for this kind of base.",
        )
    return found


def _vectors(file: AdapterFile) -> dict[str, torch.Tensor]:
    """The tensors with vectors: all of a .safetensors file; of AUTOMATIC1111's .pt the one for ``*``."""
    old = {n: t for n, t in file.tensors.items() if n.startswith(OLD)}
    return old or dict(file.tensors)


def word_of(path: Path) -> str:
    """The word of an embedding file.

    Raises:
        UserError: no tokenizer reads it as one word.
    """
    word = path.stem.strip()
    if not word or any(letter.isspace() for letter in word):
        raise UserError(
            f"{path.name} cannot be used.",
            "The word that calls up an embedding is its file name, and this one contains a space.",
            "Rename the file to one word that you can type in prompts.",
        )
    return word


def tokens_of_word(word: str, vectors: int) -> list[str]:
    """The tokens of a word with so many vectors."""
    return [word, *(f"{word}_{number}" for number in range(1, vectors))]


def taken_token(tokenizer: Any, word: str, vectors: int) -> str:
    """A token of a new word that a tokenizer knows already; "" if it knows none. It reads text in lower case."""
    known = tokenizer.get_vocab()
    tokens = (one.lower() for one in tokens_of_word(word, vectors))
    return next((one for one in tokens if one in known or f"{one}</w>" in known), "")


def add_tokens(tokenizer: Any, word: str, vectors: int) -> list[int]:
    """Give a tokenizer a new word, in place. All other words keep their numbers.

    Returns:
        The numbers of its tokens, which follow one another.

    Raises:
        UserError: the base knows the word already.
    """
    if taken := taken_token(tokenizer, word, vectors):
        raise UserError(
            f"The embedding {word} cannot be used.",
            f"The base's tokenizer already knows {taken} as a word, so the embedding would change its meaning.",
            f"Rename the file to something that is not an ordinary word, such as {word}-v1.",
        )
    words = tokens_of_word(word, vectors)
    tokenizer.add_tokens([AddedToken(one, single_word=True, normalized=True) for one in words])
    return list(tokenizer.convert_tokens_to_ids(words))


def add_word(tokenizer: Any, encoder: Any, word: str, vectors: torch.Tensor) -> list[int]:
    """Give a tokenizer and its CLIP text encoder a new word, in place. All other words mean what they did.

    CLIP's pooled text is read at the end token. Configs with the end token 2, as most bases have them, make
    transformers read it at the *largest* token instead, which an added word would be; so the config is told the
    tokenizer's own end token.

    Args:
        vectors: (n, width).

    Returns:
        The numbers of its tokens, which follow one another.

    Raises:
        UserError: the base knows the word already.
    """
    numbers = add_tokens(tokenizer, word, len(vectors))
    old = encoder.get_input_embeddings()
    weight = old.weight.data
    rows = max(len(weight), max(numbers) + 1)
    grown = torch.zeros((rows, weight.shape[1]), dtype=weight.dtype, device=weight.device)
    grown[: len(weight)] = weight
    grown[numbers] = vectors.to(weight)
    new = nn.Embedding(rows, weight.shape[1], _weight=grown)
    new.weight.requires_grad_(old.weight.requires_grad)
    encoder.set_input_embeddings(new)
    for config in (encoder.config, getattr(encoder.config, "text_config", None)):
        if config is not None:
            config.vocab_size, config.eos_token_id = rows, tokenizer.eos_token_id
    model = getattr(encoder, "text_model", encoder)
    model.eos_token_id = tokenizer.eos_token_id
    return numbers


def with_all_vectors(tokenizer: Any, captions: Sequence[str]) -> list[str]:
    """Captions in which each added word of several vectors is followed by its further ones."""
    added: Mapping[str, int] = tokenizer.get_added_vocab()
    longer = [word for word in added if f"{word}_1" in added]
    return [_extended(caption, longer, added) for caption in captions] if longer else list(captions)


def _extended(caption: str, longer: Sequence[str], added: Mapping[str, int]) -> str:
    for word in longer:
        if f"{word}_1" in caption:
            continue
        count = next(number for number in range(1, len(added) + 1) if f"{word}_{number}" not in added)
        whole = " ".join(tokens_of_word(word, count))
        caption = re.sub(rf"(?i)(?<!\w){re.escape(word)}(?!\w)", whole.replace("\\", "\\\\"), caption)
    return caption
