"""Loaded models as a person uses them: `load` gives the pipeline that fits what a model is asked with. Imports all but cli."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nextset.hub import pretrained
from nextset.pipelines.base import Generator, Output, Reconstruction, reconstruct
from nextset.pipelines.classes import Pipeline
from nextset.pipelines.locate import Located, Locator
from nextset.pipelines.text import TextPipeline

__all__ = [
    "Generator",
    "Located",
    "Locator",
    "Output",
    "Pipeline",
    "Reconstruction",
    "TextPipeline",
    "load",
    "reconstruct",
]

KINDS: dict[str, type[Any]] = {kind.asked_with: kind for kind in (Pipeline, TextPipeline, Locator)}


def load(name: str | Path | None = None, *, dtype: str = "float32", device: str = "cpu", offload: bool = False) -> Any:
    """A pipeline for the model of a folder, a packaged name or a hub name; the default model when no name is given.

    What it is asked with decides which: `Pipeline` for classes, `TextPipeline` for prompts, `Locator` for photos. offload: the blocks stay in the
    CPU's memory and come to the device one after another.
    """
    chosen = pretrained.default_model() if name is None else name
    loaded = pretrained.load(chosen, dtype=dtype, device=device, offload=offload)
    return KINDS[getattr(loaded.model, "asked_with", "class")](loaded)
