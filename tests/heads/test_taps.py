"""The mean of taps: whichever there are, and nothing of those that are missing."""

from __future__ import annotations

import pytest
import torch

from nextset.core.steps import Step
from nextset.heads.categorical import Softmax
from nextset.heads.taps import MeanOfTaps

READ = torch.tensor([[0, -1, -1], [0, 1, -1], [1, 0, 1], [-1, -1, 0]])
STEP = Step.make(0, torch.arange(2), torch.arange(4), READ)


def taps(count: int = 3) -> tuple[MeanOfTaps, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    heads = MeanOfTaps([Softmax(5, 7, bias=False) for _ in range(count)])
    return heads, tuple(torch.randn(2, 4, 5) for _ in range(count))


def test_logits_are_the_mean_of_the_taps_that_there_are() -> None:
    heads, h = taps()
    found = heads.dist(h, STEP).logits
    for m, read in enumerate(READ.tolist()):
        each = [head.logits(tap[:, m]) for head, tap, row in zip(heads.heads, h, read, strict=True) if row >= 0]
        torch.testing.assert_close(found[:, m], torch.stack(each).mean(0))


def test_what_a_missing_tap_holds_never_matters() -> None:
    heads, h = taps()
    spoilt = tuple(tap.masked_fill((READ[:, i] < 0)[:, None], torch.inf) for i, tap in enumerate(h))
    assert torch.equal(heads.dist(h, STEP).logits, heads.dist(spoilt, STEP).logits)


def test_two_taps_everywhere_are_halves() -> None:
    heads, h = taps(2)
    step = Step.make(0, torch.arange(4), torch.arange(4), torch.zeros(4, 2, dtype=torch.int64))
    a, b = (head.logits(tap) for head, tap in zip(heads.heads, h, strict=True))
    assert torch.equal(heads.dist(h, step).logits, (a + b) / 2)


def test_a_position_without_a_tap_is_a_mistake_of_the_plan() -> None:
    heads, h = taps()
    step = Step.make(3, torch.arange(2), torch.arange(4), torch.cat([READ[:3], torch.full((1, 3), -1)]))
    with pytest.raises(ValueError, match="step 3 reads a position from no tap"):
        heads.dist(h, step)
