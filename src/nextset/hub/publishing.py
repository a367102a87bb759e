"""How a run of any kind ends: averaged weights, written once over all processes, in the type that the recipe asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nextset.core import processes
from nextset.core.errors import NextsetError, nearest
from nextset.training.recipes import Recipe
from nextset.training.report import duration
from nextset.training.trainer import Trainer

Publish = Callable[[Trainer], Path]
_STORED = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def stored(recipe: Recipe) -> torch.dtype | None:
    """The type of the published weights, `store` of [sample]; None: as they were trained."""
    name = recipe.sample.get("store", "float32")
    if name not in _STORED:
        raise NextsetError(
            f"sample.store is {name!r}, but must be one of {', '.join(_STORED)}; {nearest(str(name), _STORED)}"
        )
    return _STORED[name]


def publisher(save: Callable[[Trainer, Any], Path]) -> Publish:
    """What publishes a trainer's result. save: writes the averaged module, and gives the folder."""

    def publish(trainer: Trainer) -> Path:
        with trainer.averaged() as module:
            return processes.by_first(lambda: save(trainer, module))

    return publish


def trained(recipe: Recipe, trainer: Trainer) -> str:
    """How much it was trained, for a model card."""
    batch = recipe.train.batch * recipe.train.accumulate
    return f"{trainer.step:,} steps of {batch} in {duration(trainer.elapsed)}, {trainer.dtype}"
