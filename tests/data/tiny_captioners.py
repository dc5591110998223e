"""Tiny BLIP and Florence-2 models with random weights, in the folder layout of the real ones."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = ("a", "cat", "cup", "coffee", "rocket", "red", "sky", "over", "old", "stone")


def tiny_blip(folder: Path) -> Path:
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "[DEC]"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": len(vocabulary),
        "encoder_hidden_size": 16,
        "max_position_embeddings": 64,
        "bos_token_id": len(vocabulary) - 1,
        "sep_token_id": 3,
        "eos_token_id": 3,
        "initializer_range": 0.3,
    }
    vision = {**small, "image_size": 32, "patch_size": 8, "initializer_range": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
        bias = model.text_decoder.cls.predictions.bias
        bias.data[[*range(5), -1]] = -2.0  # makes words likelier than punctuation
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def tiny_florence(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        BartTokenizerFast,
        CLIPImageProcessorPil,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    folder.mkdir(parents=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>", *letters, *WORDS[1:]]
    inner = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = BartTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        extra_special_tokens={"image_token": "<image>"},
    )
    text = {
        "model_type": "bart",
        "vocab_size": len(pieces),
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": None,
        "forced_eos_token_id": 2,
        "init_std": 0.3,
    }
    vision = {
        "depths": [1, 1, 1, 1],
        "embed_dim": [8, 8, 8, 16],
        "num_heads": [1, 1, 1, 1],
        "num_groups": [1, 1, 1, 1],
        "window_size": 4,
        "projection_dim": 16,
        "initializer_range": 0.3,
    }
    side, tokens = 64, 2 * 2 + 1  # 2 x 2 patches of 32 px, and one token for all of them
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = Florence2Config(text_config=text, vision_config=vision, image_token_id=tokenizer.image_token_id)
        model = Florence2ForConditionalGeneration(config)
    model.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"height": side, "width": side}, do_center_crop=False)
    images.image_seq_length = tokens
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder
