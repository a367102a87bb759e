"""A tiny random generator of clips with its tokenizer, for tests of everything around models."""

from __future__ import annotations

from pathlib import Path

import torch

from nextset.hub import pretrained
from nextset.systems.nar.model import Nar, NarConfig
from nextset.tokenizers.larp import Larp, LarpConfig

SIZES = {"frames": 4, "size": 8, "patch": (2, 4), "grid": (2, 2, 2), "width": 16, "depth": 1, "heads": 2}


def tiny_video_tokenizer() -> Larp:
    """4 frames of 8x8 pixels as 8 ids of 16 codes."""
    torch.manual_seed(0)
    return Larp(LarpConfig(**SIZES, channels=4, vocabulary=16)).eval()  # type: ignore[arg-type]


def tiny_video_model() -> Nar:
    """Two blocks a tap, three classes, weights with enough spread to tell classes apart."""
    tokenizer = tiny_video_tokenizer()
    torch.manual_seed(1)
    sizes = {"classes": 3, "depth": 1, "width": 16, "heads": 2, "hidden": 24, "vocabulary": 16, "grid": (2, 2, 2)}
    model = Nar(NarConfig(**sizes, positions="learned"), tokenizer).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def save_tiny_video(folder: Path) -> Path:
    """The tiny model as a folder, with class names."""
    return pretrained.save(folder, tiny_video_model(), class_names=["sliding-star", "bouncing-star", "dot"])
