"""What claims on continuous tokens share: one KL autoencoder, the moments of the training pictures, and how much is
judged.

Labels and recipes of what is shared are made here and nowhere else, so that claims which keep their runs in one folder
train it once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from nextset.judges.arms import Scope, on_codes
from nextset.judges.claims import Lab, Trained
from nextset.training.recipes import Recipe

NAME = "latents"  # of what is shared, in the lab's folder
TOKENIZER = "mar-cifar10-tokenizer"
SHARE = 0.25  # of the budget
# a picture of continuous tokens takes ten times the arithmetic of one of ids: half of the usual number is judged
SCOPE = Scope(guidance=(1.0, 2.0, 3.0), part=500, headline=2500)
FEWER = Scope(guidance=(1.0, 2.0, 3.0), part=300, headline=1500)  # where three arms or more are judged


@dataclasses.dataclass(frozen=True)
class Latents:
    """The shared autoencoder, and the moments of the training pictures."""

    lab: Lab
    tokenizer: Trained
    codes: Path

    def recipe(self, name: str, *changes: str) -> Recipe:
        """A generator's recipe on the shared latents."""
        return on_codes(self.lab, name, self.tokenizer, self.codes, *changes)

    def generators(
        self, slug: str, changes: Mapping[str, Sequence[str]], labels: Mapping[str, str]
    ) -> dict[str, Trained]:
        """Arms of a claim, by name: the recipe of CIFAR-10 with each arm's changes, in equal steps that fill the rest of
        the budget. labels: of the arms, in the lab's folder."""
        recipes = {arm: self.recipe(f"{slug}-cifar10", *changed) for arm, changed in changes.items()}
        fitted = self.lab.fit(1 - SHARE, recipes)
        return {arm: self.lab.train(f"generator-{slug}-{labels[arm]}", recipe) for arm, recipe in fitted.items()}


def latents(lab: Lab) -> Latents:
    """Trained once for all claims that share their runs; no arm has a part in how many steps it takes."""
    recipe = lab.fit(SHARE, {NAME: lab.recipe(TOKENIZER)})[NAME]
    tokenizer = lab.train(f"tokenizer-{NAME}", recipe)
    return Latents(lab, tokenizer, lab.codes(NAME, tokenizer, variants=2))
