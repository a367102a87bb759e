"""Laws over continuous tokens that are known by their draws alone: what they share, whatever network draws from them.

There is no density that could be asked for. Guidance is remembered and folded in at every inner call of the network; what
a filter may change is how the law is drawn. Noise belongs to (image, position, inner step).
Source: sheet `mar`, Sampling; sheet `flowar`, Sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.protocols import Filter, NoiseSource

HEAD_BATCH = 8192  # rows of a head at a time


class WithoutDensity:
    """A law that is known by its draws alone: what would need a density is refused."""

    def logp(self, value: Tensor) -> Tensor:
        raise NextsetError(
            "a diffusion or flow head draws tokens without knowing how likely they are, so that nothing can be ranked by it; use candidates=1"
        )

    @property
    def raw(self) -> Tensor:
        """A law of ids has logits here; this one has none, and says so as `logp` does."""
        return self.logp(torch.empty(0))


class Implicit(WithoutDensity):
    """Law of m tokens. Subclasses add their parts to `parts`, and say how they draw.

    net: of the head. hidden: (branches * N, m, D) before `guide`, then (branches, N, m, D), float32. weights: (branches,
    m), None before. batch: rows of the head at a time; changes nothing but memory.
    """

    kind: ClassVar[str] = "implicit"
    parts: ClassVar[tuple[str, ...]] = ("net", "hidden", "weights", "batch")

    def __init__(self, net: Any, hidden: Tensor, weights: Tensor | None = None, batch: int = HEAD_BATCH) -> None:
        self.net, self.hidden, self.weights, self.batch = net, hidden, weights, batch

    def replace(self, **changes: Any) -> Self:
        """A copy with some of its parts changed."""
        return type(self)(**{**{name: getattr(self, name) for name in self.parts}, **changes})

    def guide(self, weights: Sequence[float | Tensor], branches: int) -> Self:
        """Remember the weight of each branch, numbers or (m,): what the network predicts will be their sum."""
        m = self.hidden.shape[-2]
        table = torch.stack([torch.as_tensor(w, dtype=torch.float32).cpu().expand(m) for w in weights])
        return self.replace(hidden=self.hidden.unflatten(0, (branches, -1)), weights=table)

    def filter(self, chain: Sequence[Filter]) -> Self:
        law = self
        for f in chain:
            law = f(law)
        return law

    def split(self, sizes: Sequence[int]) -> list[Self]:
        """The laws of consecutive groups of positions; only guided laws are split and joined."""
        each = {name: t.split(list(sizes), axis) for name, (t, axis) in self.by_position().items()}
        return [self.replace(**{name: groups[i] for name, groups in each.items()}) for i in range(len(sizes))]

    def join(self, parts: Sequence[Self]) -> Self:
        """The law of all groups again, drawn as the last."""
        each = [part.by_position() for part in parts]
        return parts[-1].replace(**{name: torch.cat([e[name][0] for e in each], each[0][name][1]) for name in each[0]})

    def by_position(self) -> dict[str, tuple[Tensor, int]]:
        """Every part that has positions, and on which axis."""
        assert self.weights is not None
        return {"hidden": (self.hidden, 2), "weights": (self.weights, 1)}

    def inner(self, steps: int, strided: bool = False) -> Self:
        """The law drawn in that many inner steps; strided: at a fixed stride, where the head has steps to stride over."""
        raise NotImplementedError

    def draw(self, noise: NoiseSource, images: Tensor, positions: Tensor, attempt: int | Tensor = 0) -> Drawn:
        """One token (C,) a position. images (N,), positions (m,) or (N, m) address the noise; its lanes are channels."""
        raise NotImplementedError
