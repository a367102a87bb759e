"""Entities: a grid of tokens as a short sequence of sets, each drawn at once through falling levels of noise.

An entity may be a cell of neighbours, a token, a subsample of the whole grid, a scale, or the grid itself. Its steps
feed it at one level of noise after another, and keep nothing; a clean step then feeds it once more at level 0 and
keeps. It is `ahead`: it runs in the forward of the next entity's first step. So the mask rule alone makes entities see
the clean ones before them, and no forward is spent on keeping. Source: arXiv 2502.20388, section 3; sheet `xar`, Plan
(kinds other than cells are (chosen) there).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.plan import Plan
from nextset.core.steps import Step

GRAMMAR = (
    "cell or cell:K (K x K tokens), token, subsample or subsample:S (every S-th token of both sides), "
    "scale or scale:1,2,4 (sides of ever finer grids), image"
)
Level = float | Tensor  # one for all images, or (images,)


@dataclasses.dataclass(frozen=True, eq=False)
class Entities:
    """A partition of positions into sets that follow each other; slots lie set after set.

    sets: (m_k,) positions of each, in the order of their slots. coordinates: (P, 2) = (y, x) of each position, in cells
    of the finest grid. shapes: (1, h, w) of each set.
    """

    name: str
    sets: tuple[Tensor, ...]
    coordinates: Tensor
    shapes: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int:
        return len(self.sets)

    @property
    def positions(self) -> int:
        """Positions of all sets."""
        return self.coordinates.shape[0]

    @cached_property
    def places(self) -> Tensor:
        """(P,) the position that each slot holds."""
        return torch.cat(self.sets)

    @cached_property
    def starts(self) -> list[int]:
        """First slot of each set, and the end of the last."""
        return list(accumulate((len(s) for s in self.sets), initial=0))

    def slots(self, k: int) -> Tensor:
        """Slots of set k."""
        return torch.arange(self.starts[k], self.starts[k + 1])


def entities(text: str, side: int) -> Entities:
    """The entities of a square grid, by their name (`GRAMMAR`).

    "cell" alone is a quarter of the grid; "subsample" alone takes every second token; "scale" alone doubles sides from
    1. Cells, and entries of a subsample, go in raster order; so do tokens inside. Each scale has positions of its own,
    at the centres of its cells; the last is the grid.
    """
    with torch.device("cpu"):  # plans live on the host, also while a model is built without memory
        return _parsed(text, side)


def _parsed(text: str, side: int) -> Entities:
    kind, _, rest = str(text).replace(" ", "").partition(":")
    try:
        numbers = [int(n) for n in rest.split(",")] if rest else []
    except ValueError:
        numbers = [0]
    if kind == "scale":
        return _scales(text, numbers or _doubled(side), side)
    if kind in ("token", "image") and not rest:
        return _cells(text, 1 if kind == "token" else side, side)
    if kind in ("cell", "subsample") and len(numbers) <= 1:
        usual = max(side // 2, 1) if kind == "cell" else min(2, side)
        size = numbers[0] if rest else usual
        if not 1 <= size <= side or side % size:
            divisors = [d for d in range(1, side + 1) if side % d == 0]
            raise NextsetError(
                f"entity is {text!r}, but {size} does not divide the {side} tokens of a side; choose one of {', '.join(map(str, divisors))}"
            )
        return _cells(text, size, side) if kind == "cell" else _subsamples(text, size, side)
    raise NextsetError(f"entity is {text!r}, but must be one of: {GRAMMAR}")


def chain(of: Entities, levels: Sequence[Sequence[Level]], *, noisy_context: bool = False, whole: bool = True) -> Plan:
    """For each entity a step at each of its levels, then a clean one; a step draws all positions of its entity.

    noisy_context: the noisy steps are what is kept, and there are no clean ones: later entities see the noise of
    earlier ones. whole=False leaves out the clean step of the last entity, which nothing sees. Attributes of slots:
    `entity`, `position`, `y`, `x` (float, in cells of the finest grid).
    """
    if len(levels) != len(of):
        raise ValueError(f"levels of {len(levels)} entities were given for {len(of)}")
    steps: list[Step] = []
    for k, own in enumerate(levels):
        feed, draw = of.slots(k), of.sets[k]
        for level in own:
            each = level[:, None].expand(-1, len(feed)) if isinstance(level, Tensor) else level
            steps.append(
                Step.make(len(steps), feed, draw, keep=noisy_context, level=each, phase="noisy", shape=of.shapes[k])
            )
        if not noisy_context and (whole or k < len(of) - 1):
            steps.append(Step.make(len(steps), feed, ahead=True, level=0.0, phase="clean", shape=of.shapes[k]))
    y, x = of.coordinates[of.places].unbind(-1)
    sizes = torch.tensor([len(s) for s in of.sets])
    entity = torch.arange(len(of)).repeat_interleave(sizes)
    slots = {"entity": entity, "position": of.places, "y": y, "x": x}
    return Plan(slots, tuple(steps), of.positions, name=f"entities {of.name}")


# ---- kinds


def _grid(side: int) -> Tensor:
    return torch.arange(side * side).view(side, side)


def _coordinates(side: int, finest: int) -> Tensor:
    """(side^2, 2): centres of the cells of a grid, in cells of the finest grid over the same square."""
    centres = (torch.arange(side) + 0.5) * (finest / side) - 0.5
    return torch.cartesian_prod(centres, centres)


def _cells(name: str, size: int, side: int) -> Entities:
    blocks = _grid(side).unfold(0, size, size).unfold(1, size, size).reshape(-1, size * size)
    return Entities(name, tuple(blocks), _coordinates(side, side), ((1, size, size),) * len(blocks))


def _subsamples(name: str, stride: int, side: int) -> Entities:
    grid = _grid(side)
    sets = [grid[a::stride, b::stride].reshape(-1) for a in range(stride) for b in range(stride)]
    return Entities(name, tuple(sets), _coordinates(side, side), ((1, side // stride, side // stride),) * len(sets))


def _scales(name: str, sides: Sequence[int], side: int) -> Entities:
    if sides[0] < 1 or sides[-1] != side or any(a >= b for a, b in pairwise(sides)):
        raise NextsetError(
            f"entity is {name!r}, but its sides must grow, from at least 1 to the {side} tokens of a side; for example scale:{','.join(map(str, _doubled(side)))}"
        )
    sets, start = [], 0
    for s in sides:
        sets.append(torch.arange(start, start + s * s))
        start += s * s
    where = torch.cat([_coordinates(s, side) for s in sides])
    return Entities(name, tuple(sets), where, tuple((1, s, s) for s in sides))


def _doubled(side: int) -> list[int]:
    sides = [1]
    while sides[-1] * 2 < side:
        sides.append(sides[-1] * 2)
    return [*sides, side] if side > 1 else sides
