"""How many forwards each scale gets, and how many tokens each of them settles: chosen by the request, in lists of numbers.

Source: sheet `hmar`, Sampling and User-facing behaviour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nextset.core.errors import NextsetError, check_range

# the released schedule refines the maps of 2x2 and 3x3 cells; by side, so that it serves other plans too (ours)
RELEASED = {2: (1, 3), 3: (1, 1, 2, 5)}

Settled = tuple[tuple[int, ...], ...]


def make_schedule(
    sides: Sequence[int],
    schedule: Sequence[Sequence[int]] | None = None,
    steps: Mapping[int | str, int] | None = None,
) -> Settled:
    """For each scale, the tokens that its forwards settle.

    schedule: as it is; the plan checks it. steps: {scale: forwards}, each settling about as many tokens as the others,
    and one forward at scales that are not named. Neither: the released schedule.
    """
    if schedule is not None and steps is not None:
        raise NextsetError("schedule and steps are both given; give one, steps={3: 4} being the shorter form")
    if schedule is not None:
        return tuple(tuple(int(n) for n in settled) for settled in schedule)
    if steps is None:
        return tuple(RELEASED.get(side, (side * side,)) for side in sides)
    wanted = {}
    for scale, forwards in steps.items():  # keys are text where the settings come from a file
        number = int(scale) if str(scale).isdigit() else -1
        check_range("a scale in steps", number, 0, len(sides) - 1)
        check_range(f"steps at scale {number}", forwards, 1, sides[number] ** 2)
        wanted[number] = forwards
    return tuple(_evenly(side * side, wanted.get(k, 1)) for k, side in enumerate(sides))


def _evenly(tokens: int, forwards: int) -> tuple[int, ...]:
    """Numbers that differ by one at most, in rising order or nearly so, and add up to `tokens`."""
    return tuple(tokens * (j + 1) // forwards - tokens * j // forwards for j in range(forwards))
