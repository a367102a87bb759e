"""T5 models of a few thousand weights with a tokenizer of a few dozen pieces, made here and saved as transformers saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging

WORDS = ("a", "red", "cat", "dog", "man", "sits", "on", "the", "sofa", "under", "old", "tree", "in", "rain")


def tiny_tokenizer() -> Any:
    """A T5 tokenizer that knows `WORDS` and small letters; what it does not know is one <unk> a run."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS]
    pieces += [(chr(c), -9.0) for c in range(ord("a"), ord("z") + 1)]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0)


def save_t5(
    folder: Path, *, width: int = 32, kind: str = "t5", decoder: bool = True, seed: int = 0, **changes: Any
) -> Path:
    """A random model in `folder`: whole, as published T5s are, or its encoder alone."""
    families = {
        "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration, transformers.T5EncoderModel),
        "mt5": (transformers.MT5Config, transformers.MT5ForConditionalGeneration, transformers.MT5EncoderModel),
        "umt5": (transformers.UMT5Config, transformers.UMT5ForConditionalGeneration, transformers.UMT5EncoderModel),
    }
    config_class, whole, encoder = families[kind]
    tokenizer = tiny_tokenizer()
    sizes = dict(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    config = config_class(tie_word_embeddings=False, **{**sizes, **changes})
    torch.manual_seed(seed)
    logging.disable_progress_bar()
    (whole if decoder else encoder)(config).save_pretrained(folder)
    logging.enable_progress_bar()
    tokenizer.save_pretrained(folder)
    return folder
