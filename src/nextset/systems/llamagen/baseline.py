"""What the claims of LlamaGen and of the systems on it share: one tokenizer, and LlamaGen trained on its codes from three
seeds.

Labels and recipes of what is shared are made here and nowhere else, so that claims which keep their runs in one folder
train it once. It knows no relative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.core.protocols import Job
from nextset.engine.agreement import stepped_against_packed, stored_against_recomputed
from nextset.judges.arms import as_trained, on_codes
from nextset.judges.claims import Finding, Lab, Trained, counted, within
from nextset.training.recipes import Recipe

NAME = "next-token"  # of what is shared, in the lab's folder
TOKENIZER, GENERATOR = "llamagen-cifar10-tokenizer", "llamagen-cifar10"
RASTER = "LlamaGen"
SEEDS = (0, 1, 2)
FEW = 8  # pictures of what is counted
PLAIN: dict[str, Any] = {"top_k": 0, "top_p": 1.0}  # draws from the law as it is


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The shared tokenizer, codes of the training pictures and of those held out, and LlamaGen's recipe with its steps."""

    lab: Lab
    tokenizer_recipe: Recipe
    tokenizer: Trained
    codes: Path
    held_out: Path
    recipe: Recipe

    def generator(self, name: str, *changes: str) -> Recipe:
        """A recipe on the shared codes, trained as LlamaGen is: the same steps, batches and rates."""
        return as_trained(on_codes(self.lab, name, self.tokenizer, self.codes, *changes), self.recipe)

    def trained(self, label: str, recipe: Recipe) -> list[Trained]:
        """A recipe's models of all seeds."""
        seeded = {seed: dataclasses.replace(recipe, train=recipe.train.replace(seed=seed)) for seed in SEEDS}
        return [self.lab.train(f"{label}-{seed}", each) for seed, each in seeded.items()]

    def raster(self) -> list[Trained]:
        """LlamaGen of all seeds."""
        return self.trained(f"generator-{NAME}", self.recipe)

    def losses(self, models: list[Trained]) -> list[float]:
        """Mean cross-entropy a token of held-out pictures, of each model."""
        return [self.lab.loss(model, self.held_out) for model in models]


def baseline(lab: Lab) -> Baseline:
    """Trained once for all claims that share their runs, in 0.42 of the budget: 0.15 for the tokenizer and 0.09 for each
    LlamaGen.

    No arm of a relative has a part in how many steps these are, or each claim would have a LlamaGen of its own.
    """
    tokenizer_recipe = lab.fit(0.15, {NAME: lab.recipe(TOKENIZER)})[NAME]
    tokenizer = lab.train(f"tokenizer-{NAME}", tokenizer_recipe)
    codes = lab.codes(NAME, tokenizer, variants=2)
    held_out = lab.codes(NAME, tokenizer, held_out=True)
    recipe = lab.fit(0.09, {NAME: on_codes(lab, GENERATOR, tokenizer, codes)})[NAME]
    return Baseline(lab, tokenizer_recipe, tokenizer, codes, held_out, recipe)


def pairs(a: list[float], b: list[float]) -> list[tuple[float, float]]:
    """Numbers of two arms, seed by seed."""
    return list(zip(a, b, strict=True))


# ---- what must be so at any budget


def few(model: Any) -> Tensor:
    """Labels of a few pictures."""
    return torch.arange(FEW) % model.config.classes


def asked(model: Any, **settings: Any) -> Callable[[], Job]:
    """Equal jobs of a few pictures, drawn from the law as it is; guided by 2 unless the settings say otherwise."""
    return lambda: model.job(few(model), **{"guidance_scale": 2.0, **PLAIN, **settings})


def agreements(model: Any, name: str) -> list[Finding]:
    """Three ways to one result."""
    gap = stepped_against_packed(asked(model, guidance_scale=1.0), Noise(0))
    differ = stored_against_recomputed(asked(model), Noise(0))
    return [
        within(f"steps with memory against one packed forward, {name}", gap, 1e-4, "largest difference of logits"),
        counted(f"what is stored against what is computed anew, {name}", differ, 0, "ids that differ"),
    ]
