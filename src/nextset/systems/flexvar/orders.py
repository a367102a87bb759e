"""What a list of sides decides: plan and canvas, weights of guidance, where the sampler draws and where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import check_range
from nextset.core.flat_pyramid import FlatPyramid
from nextset.core.protocols import Filter
from nextset.core.steps import Step
from nextset.engine.filters import chain
from nextset.engine.guidance import Weights
from nextset.systems.flexvar.sides import Pair
from nextset.systems.var.orders import Scales
from nextset.tokenizers.multiscale import MultiScaleVQ

# sides at which the authors' sampler draws; it takes the likeliest token at any other (sheet `flexvar`, Sampling)
DRAWN = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 23, 24, 32)


class Flat(Scales):
    """One step a side, of whole pictures."""

    def __init__(self, sides: Sequence[Pair]) -> None:
        self.sides = list(sides)
        self.first, self.levels = 1, 1  # one start vector for all first slots, and no embedding of levels

    def canvas(self, tokenizer: MultiScaleVQ, entries: int) -> FlatPyramid:  # type: ignore[override]
        device = tokenizer.quantiser.codebook.weight.device
        return FlatPyramid(tokenizer.quantiser, self.sides, entries, device=device)

    def features(self, tokenizer: MultiScaleVQ, canvas: Any) -> Tensor:
        return canvas.picture()


# an order holds its plan, and a plan the masks of its forwards: equal lists share them, and few lists are remembered
flat = lru_cache(maxsize=32)(Flat)


def ramp_by_side(extra: float, edges: Sequence[int], largest: int) -> Weights:
    """[1 + t, -t] with t = extra k / min(K - 1, 9) at scale k, which passes extra behind scale 9, and extra at edges above
    `largest` (sheet `flexvar`, Sampling); no guidance at a first and only scale."""
    rise = max(min(len(edges) - 1, 9), 1)

    def weights(step: Step) -> tuple[float, float]:
        t = extra * step.index / rise if edges[step.index] <= largest else extra
        return 1 + t, -t

    return weights


def filters_by_side(
    edges: Sequence[int], largest: int, top_k: int, top_p: float, greedy: bool, barred: Sequence[Filter]
) -> list[list[Filter]]:
    """The chain of each scale; greedy: the likeliest token at edges above `largest` or not in `DRAWN`. Ties stay."""
    drawn, likeliest = [*barred, *chain(top_k, top_p)], [*barred, *chain(1, top_p)]
    return [likeliest if greedy and (edge > largest or edge not in DRAWN) else drawn for edge in edges]


def bar(ids: Sequence[int], vocabulary: int) -> Filter:
    """Give some ids the logit -100, as the authors do."""
    for i in ids:
        check_range("without", i, 0, vocabulary - 1, remedy="it lists ids")
    where = torch.tensor(list(ids))
    return lambda law: law.replace(law.logits.index_fill(-1, where.to(law.logits.device), -100.0))
