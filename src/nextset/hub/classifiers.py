"""From a recipe of kind "classifier" to a classifier that judges use: trained, tested, and kept in one file.

It is a measuring instrument, not a model: no checkpoints, no mean weights, minutes instead of days. So a run that is
stopped leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nextset.core.configs import Config
from nextset.core.errors import NextsetError
from nextset.judges.fidelity import ClassifierConfig, Steps
from nextset.judges.instruments import make_instrument, save_instrument
from nextset.judges.sources import open_set
from nextset.training.recipes import Recipe, TrainConfig
from nextset.training.report import duration


@dataclasses.dataclass(frozen=True)
class ClassifierData(Config):
    """[data] of such a recipe. source: real pictures in classes to learn from, test: others, for its accuracy; folders or
    `.npz` files. size: pixels a side to bring all to; None takes them as they are."""

    source: str
    test: str
    size: int | None = None


def train_by_recipe(recipe: Recipe, folder: Path, console: Console) -> Path:
    """Train what the recipe says; returns the file `classifier-<hash>.safetensors` in `folder`."""
    if recipe.sample or recipe.train != TrainConfig():
        raise NextsetError(
            "a classifier recipe has only [model] and [data], and how it learns stands in [model]: model.epochs=8"
        )
    config, data = ClassifierConfig.from_dict(recipe.model), ClassifierData.from_dict(recipe.data)
    train, test = (open_set(source, data.size) for source in (data.source, data.test))
    say = functools.partial(console.print, markup=False, soft_wrap=True)
    say(f"training {recipe.name} in {folder}")
    say(
        f"data:    {len(train):,} pictures of {len(train.class_names)} classes, {config.epochs} epochs of batches of "
        f"{config.batch}; tested on {len(test):,} others"
    )
    try:
        with _shown(console, config.epochs) as steps:
            made = make_instrument(train, test, config, steps)
    except KeyboardInterrupt:
        say("a classifier is trained in one go: stopped, and nothing was written")
        raise
    path = save_instrument(folder, made)
    say(f"accuracy {made.accuracy:.4f} on the {made.tested:,} real pictures of {data.test}")
    return path


@contextlib.contextmanager
def _shown(console: Console, epochs: int) -> Iterator[Steps]:
    """A bar with the time that is left on a terminal, a line an epoch elsewhere."""
    columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    begun = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)

        def steps(done: int, total: int, loss: float) -> None:
            bar.update(task, completed=done, total=total, description=f"loss {loss:.3f}")
            if not console.is_terminal and done % (total // epochs) == 0:
                left = duration((time.monotonic() - begun) / done * (total - done))
                console.print(f"epoch {done * epochs // total}/{epochs}  loss {loss:.3f}  {left} left", markup=False)

        yield steps
