"""Update: what a trainable thing hands to the trainer.

A system or a tokenizer yields Updates from `updates(batch, step, noise)`; the trainer does everything else. The
generator is lazy: the loss of the second Update is computed after the first one was applied (two-player training).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from nextset.core.noise import Noise


@dataclasses.dataclass
class Update:
    """One loss to follow.

    name: which player ("generator", "critic", ...); also the prefix of its metrics.
    loss: scalar tensor with a graph.
    parts: named scalars for the log (detached tensors; they are read late, so that no step waits for the host).
    group: the parameter group to step (a key of `parameter_groups()`).
    apply: False accumulates the gradient and leaves the optimiser alone.
    """

    name: str
    loss: Tensor
    parts: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    group: str = "main"
    apply: bool = True


class Trainable(Protocol):
    """What the trainer needs to know of a system or a tokenizer."""

    def updates(self, batch: Any, step: int, noise: Noise) -> Iterator[Update]: ...

    def parameter_groups(self) -> dict[str, nn.Module]:
        """Group name -> the module whose parameters that group steps."""
        ...
