"""Tiny random generators with their tokenizers, for tests of everything around models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nextset.hub import pretrained
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.var import Var, VarConfig
from nextset.text.words import WordsConfig
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig

SIDES = (1, 2, 3, 4)


def tiny_tokenizer() -> MultiScaleVQ:
    """16x16 pixels, 4x4 latent, 30 tokens, 32 codes."""
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(channels=8, multipliers=(1, 1, 2), blocks=1, latent=8, groups=4)
    return MultiScaleVQ(MultiScaleVQConfig(autoencoder, vocabulary=32, sides=SIDES)).eval()


def tiny_model() -> Var:
    """Two blocks, ten classes, weights with enough spread to tell classes apart."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(1)
    config = VarConfig(classes=10, depth=2, width=32, heads=2, channels=8, vocabulary=32, sides=SIDES)
    model = Var(config, tokenizer).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def save_tiny(folder: Path) -> Path:
    """The tiny model as a folder, with class names."""
    names = [f"class-{i}" for i in range(8)] + ["heart", "red apple"]
    return pretrained.save(
        folder, tiny_model(), class_names=names, defaults={"guidance_scale": 1.0, "top_k": 0, "top_p": 0.0}
    )


def tiny_text_model(**changes: Any) -> Infinity:
    """16x16 pixels from 4 bits a token, a dozen words; two blocks."""
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(8, (1, 1, 2), 1, 4, 4, attention=False, middle_attention=False)
    tokenizer = BitwisePyramid(BitwiseConfig(autoencoder, sides=SIDES)).eval()
    words = WordsConfig(words=("a", "apple", "blue", "green", "heart", "red"), width=16, depth=1, heads=2, length=6)
    sizes = {"depth": 2, "width": 32, "heads": 2, "channels": 4, "sides": SIDES, "levels": 4, "text_channels": 16}
    torch.manual_seed(1)
    model = Infinity(InfinityConfig(**{**sizes, "text_length": 6, "words": words, **changes}), tokenizer).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def save_tiny_text(folder: Path, **changes: Any) -> Path:
    """The tiny model of text as a folder."""
    return pretrained.save(folder, tiny_text_model(**changes), defaults={"guidance_scale": 2.0, "temperature": 0.9})
