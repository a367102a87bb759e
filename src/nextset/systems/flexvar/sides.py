"""Lists of sides: for a request of so many steps or pixels, and at random for a training step.

Pure functions. Source: sheet `flexvar`, Training and Sampling; lists for other steps, sizes and shapes are chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nextset.core.errors import NextsetError, check_range
from nextset.core.noise import Noise

Pair = tuple[int, int]

# of the authors' scripts, by their number of steps, for a last side of 16
SCRIPTED = {
    6: (1, 2, 4, 6, 10, 16),
    8: (1, 2, 3, 5, 7, 10, 13, 16),
    9: (1, 2, 3, 4, 5, 7, 10, 13, 16),
    10: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    11: (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 16),
    12: (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16),
    13: (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16),
    14: (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16),
}
# thresholds of one uniform: a training list loses an inner side for each that is passed
DROPS = (0.9, 0.95, 0.98, 0.99)


def checked(sides: Sequence[int | Pair]) -> tuple[Pair, ...]:
    """(h, w) of each side of a request, a plain number being a square."""
    pairs = []
    for side in sides:
        pair = tuple(side) if isinstance(side, (tuple, list)) else (side, side)
        if len(pair) != 2 or not all(isinstance(n, int) and 1 <= n <= 512 for n in pair):
            raise NextsetError(f"side is {side!r}, but must be a number or a pair (h, w) between 1 and 512")
        pairs.append(pair)
    if not 1 <= len(pairs) <= 64:
        raise NextsetError(f"the list has {len(pairs)} sides, but must have 1 to 64; give some, such as [1, 2, 4, 8]")
    return tuple(pairs)


def for_steps(steps: int, last: int) -> tuple[int, ...]:
    """Growing sides up to `last`: the authors' list where they have one, else about a geometric row from 1.

    With more steps than sides, some sides are repeated.
    """
    check_range("steps", steps, 1, 64)
    if last == 16 and steps in SCRIPTED:
        return SCRIPTED[steps]
    if steps == 1:
        return (last,)
    if steps > last:
        return tuple(1 + round(k * (last - 1) / (steps - 1)) for k in range(steps))
    row: list[int] = []
    for k in range(steps):
        least, most = (row[-1] + 1 if row else 1), last - (steps - 1 - k)
        row.append(min(max(round(last ** (k / (steps - 1))), least), most))
    return tuple(row)


def for_size(usual: Sequence[int], height: int, width: int) -> tuple[Pair, ...]:
    """The usual sides up to a map of height x width cells, of its shape: cut, or continued by equal factors of at most
    sqrt(2) a step, as the authors go from 16 to 23 and 32."""
    last, end = max(height, width), usual[-1]
    row = [s for s in usual if s < last]
    more = math.ceil(2 * math.log2(last / end) - 1e-9) if last > end else 0
    row += [round(end * (last / end) ** (i / more)) for i in range(1, more)] + [last]
    return shaped(row, height, width)


def shaped(row: Sequence[int], height: int, width: int) -> tuple[Pair, ...]:
    """Sides of squares as pairs of the shape height : width, the longer edge being the given one."""
    last = max(height, width)
    return tuple((max(1, round(s * height / last)), max(1, round(s * width / last))) for s in row)


def at_random(
    usual: Sequence[int], draws: Sequence[tuple[int, int, int]], share: float, budget: int, noise: Noise, step: int
) -> tuple[int, ...]:
    """The list of a training step: `usual` in a share of the steps, else drawn from ranges (first, last, how many).

    Of a drawn or usual list up to four inner sides are dropped, then sides of the end until there are at most `budget`
    tokens; the first side always stays.
    """
    most = max(len(usual), sum(count for _, _, count in draws))
    u = iter(noise.uniform(torch.tensor([step]), torch.arange(2 * most + 6))[0].tolist())

    def below(n: int) -> int:
        return int(next(u) * n)

    if next(u) < share:
        row = list(usual)
    else:
        row = []
        for first, last, count in draws:
            left = list(range(first, last + 1))
            row += sorted(left.pop(below(len(left))) for _ in range(count))
    passed = next(u)
    for threshold in DROPS:
        if passed > threshold and len(row) > 3:
            row.pop(2 + below(len(row) - 3))
    while len(row) > 1 and sum(s * s for s in row) > budget:
        first = max(1, len(row) - 4)
        row.pop(first + below(len(row) - first))
    return tuple(row)
