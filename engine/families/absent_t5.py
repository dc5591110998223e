"""Text of a Stable Diffusion 3 without T5: one token of zeros stands for those that the base reads in place of T5's.

Text tokens have no positions, so equal ones stay equal in every block: one of them is computed, and counts in attention
as often as there are. In fp32 ln 256 is added to its logits. In half precision that number would be rounded, and the
fastest kernels of cards take no mask, so its key and value are repeated.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch.nn import functional

from engine.families.encoder_sizes import T5_TOKENS


def is_without_t5(hidden: torch.Tensor) -> bool:
    """Whether an encoded text (B, tokens, width) ends with the token that stands for T5's: with T5 it is longer."""
    return hidden.shape[1] <= T5_TOKENS


def text_for(net: Any, hidden: torch.Tensor) -> torch.Tensor:
    """An encoded text for a transformer or its ControlNet, which may be wrapped; sets its attention if it has no T5."""
    own = getattr(net, "module", net)
    if is_without_t5(hidden) and not isinstance(own.transformer_blocks[0].attn.processor, AttentionWithoutT5):
        own.set_attn_processor(AttentionWithoutT5())
    return hidden


def last_repeated(tokens: torch.Tensor) -> torch.Tensor:
    """(B, heads, n, width) with the last token T5_TOKENS times."""
    return torch.cat([tokens, tokens[:, :, -1:].expand(-1, -1, T5_TOKENS - 1, -1)], 2)


class AttentionWithoutT5(JointAttnProcessor2_0):
    """Joint attention over image and text, in which the last token of a text without T5 counts T5_TOKENS times."""

    def __call__(
        self, attn: Any, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Outputs for image tokens (B, n, width) and text tokens (B, m, width)."""
        image, text = hidden_states, encoder_hidden_states
        if text is None or not is_without_t5(text):
            return super().__call__(attn, image, text, *args, **kwargs)

        def heads(tokens: torch.Tensor, norm: Any = None) -> torch.Tensor:
            split = tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return split if norm is None else norm(split)

        query = torch.cat([heads(attn.to_q(image), attn.norm_q), heads(attn.add_q_proj(text), attn.norm_added_q)], 2)
        key = torch.cat([heads(attn.to_k(image), attn.norm_k), heads(attn.add_k_proj(text), attn.norm_added_k)], 2)
        value, mask = torch.cat([heads(attn.to_v(image)), heads(attn.add_v_proj(text))], 2), None
        if key.dtype == torch.float32:
            others = key.new_zeros(1, 1, 1, key.shape[2] - 1)
            mask = functional.pad(others, (0, 1), value=math.log(T5_TOKENS))
        else:
            key, value = last_repeated(key), last_repeated(value)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        found = found.transpose(1, 2).flatten(2)
        of_image, of_text = found.split([image.shape[1], text.shape[1]], 1)
        of_image = attn.to_out[1](attn.to_out[0](of_image))
        return of_image, of_text if attn.context_pre_only else attn.to_add_out(of_text)
