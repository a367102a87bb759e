"""Sizes of xAR, what its next thing is, and what it is trained with. Source: sheet `xar`, Model and Training."""

from __future__ import annotations

import dataclasses
from functools import cached_property

from nextset.core.entities import Entities, entities
from nextset.nn.gated import StacksConfig

CONTEXTS = ("noisy", "clean")


@dataclasses.dataclass(frozen=True)
class XarConfig(StacksConfig):
    """Sizes of the two stacks, and what is drawn and trained.

    entity: what is drawn at once, see `core.entities.GRAMMAR`. context: what training shows of earlier entities, "noisy"
    (each at a time of its own) or "clean".
    """

    entity: str = "cell"
    context: str = "noisy"

    def check(self) -> None:
        super().check()
        self.require("context", self.context in CONTEXTS, " or ".join(CONTEXTS))
        entities(self.entity, self.sides[0])  # says itself what is wrong

    @cached_property
    def entities(self) -> Entities:
        """What is drawn at once, one after another."""
        return entities(self.entity, self.sides[0])
