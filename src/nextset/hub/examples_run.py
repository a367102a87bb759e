"""Training of systems that have no tokenizer: they say themselves what a recipe's [data] means.

Such a system has `examples(options, config)`, which gives `Examples`. Everything else is as for generators: the trainer, the
checkpoints, the model folder at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.errors import NextsetError, nearest
from nextset.core.files import atomic_write, write_json
from nextset.core.noise import Noise
from nextset.data.images import save_png
from nextset.data.inventory import summary
from nextset.hub import pretrained
from nextset.hub.publishing import Publish, publisher, stored, trained
from nextset.training.batches import Batches
from nextset.training.recipes import Recipe
from nextset.training.trainer import Trainer

SCORES = "scores.jsonl"  # of a run: a line for each test


class Examples(Protocol):
    """What a system is trained on. Some of them are kept for a test, which `judged` makes."""

    def __len__(self) -> int: ...
    @property
    def fingerprint(self) -> str:
        """The same fingerprint means the same training."""
        ...

    def batch(self, indices: Tensor, samples: Tensor, noise: Noise) -> dict[str, Any]:
        """A batch of some of them, a function of the global sample indices alone."""
        ...

    def inventory(self) -> dict[str, Any]:
        """A dict that JSON can hold; its `notes` and `skipped` are lines for a person."""
        ...

    def judged(self, locate: Callable[..., Any], limit: int = 512) -> Any:
        """A score of what was not trained on, with `row()`, the figures of a line, and `to_dict()`."""
        ...

    def settled(self, model: Any) -> dict[str, Any]:
        """What is decided of a trained model by what it was not trained on: `defaults` of its requests, and why; `info` that is
        published with it."""
        ...

    def shown(self, locate: Callable[..., Any]) -> Tensor | None:
        """A picture (3, H, W) in [-1, 1] of some answers, if there is something to see."""
        ...


def examples_run(recipe: Recipe, folder: Path, console: Console) -> tuple[Trainer, Publish]:
    """The trainer of the recipe, and what publishes its model.

    [sample]: `judge`, how many examples at most the test has, every `train.sample_every` steps and at the end; its scores
    stand in `SCORES` of the run. `store`: type of the published weights.
    """
    assert recipe.system is not None
    cls = pretrained.system_class(recipe.system)
    config = cls.config_type.from_dict(recipe.model)
    limit = int(recipe.sample.get("judge", 512))
    for name in recipe.sample:
        if name not in ("judge", "store"):
            raise NextsetError(f"[sample] has no entry {name!r}: {nearest(name, ('judge', 'store'))}")
    dtype = stored(recipe)
    examples = _open(cls, config, recipe)
    about = examples.inventory()
    for line in summary(about):
        console.print(line, markup=False, soft_wrap=True)
    model = cls(config)
    if "start" in recipe.data:
        pretrained.begin_with(model, recipe.data["start"], recipe.data.get("start_parts", ()))
    model.to(processes.device())
    batches = Batches(len(examples), recipe.train.batch, recipe.train.seed)
    noise = Noise(recipe.train.seed, "data")

    def batch(i: int) -> dict[str, Any]:
        return examples.batch(batches.indices(i), batches.samples(i), noise)

    def judge(module: Any, step: int) -> Tensor | None:
        score = examples.judged(module.locate, limit)
        said = "  ".join(f"{name} {value:.4g}" for name, value in score.row().items())
        console.print(f"step {step}, tested: {said}", markup=False, soft_wrap=True)
        seen = step * recipe.train.batch * recipe.train.accumulate
        _add_line(folder / SCORES, {"step": step, "seen": seen, **score.to_dict()})
        return examples.shown(module.locate)

    def save(trainer: Trainer, module: Any) -> Path:
        settled = examples.settled(module)
        write_json(folder / "settled.json", settled)
        return pretrained.save(
            folder / "model",
            module,
            dtype=dtype,
            defaults=settled["defaults"],
            recipe=recipe.to_dict(),
            card=_card(recipe, module, trainer, len(examples)),
            **settled.get("info", {}),
        )

    trainer = Trainer(
        model,
        batch,
        recipe.train,
        folder,
        title=recipe.name,
        samples=len(examples),
        sample=judge,
        write_grid=_write_sheet,
        show=getattr(cls, "watched", ()),
        notes={"recipe": recipe.to_dict(), "data": examples.fingerprint},
        files={"data.json": about},
        console=console,
    )
    return trainer, publisher(save)


def _open(cls: Any, config: Any, recipe: Recipe) -> Examples:
    """The examples of the recipe; what is kept on disk is made by the first process alone."""
    options = {k: v for k, v in recipe.data.items() if k not in ("start", "start_parts")}
    made: list[Examples] = []
    processes.by_first(lambda: made.append(cls.examples(options, config)))
    return made[0] if made else cls.examples(options, config)


def _write_sheet(path: Path, image: Tensor) -> None:
    save_png(image, path)


def _add_line(path: Path, line: dict[str, Any]) -> None:
    """Another line of JSON, in place of those of a later step that a resumed run did not keep."""
    before = path.read_text().splitlines() if path.exists() else []
    kept = [text for text in before if json.loads(text)["step"] < line["step"]]
    with atomic_write(path) as handle:
        handle.write("".join(f"{text}\n" for text in [*kept, json.dumps(line)]).encode())


def _card(recipe: Recipe, model: nn.Module, trainer: Trainer, count: int) -> str:
    """The model card of a run."""
    parameters = sum(p.numel() for p in model.parameters())
    return f"""# {recipe.name}

A `{recipe.system}` model of {parameters:,} parameters, trained by nextset from the recipe `{recipe.name}`.

- data: `{recipe.data.get("source", "city")}`, {count:,} examples
- training: {trained(recipe, trainer)}
- use: `nextset locate PHOTO --map MAP --model <this folder>`

It knows the ground that it was trained on. Licences of photos and maps apply.
"""
