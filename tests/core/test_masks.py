"""Boxes and one mask at every scale."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.core.errors import NextsetError
from nextset.core.masks import box_mask, pyramid_mask

fraction = st.floats(0, 1, allow_nan=False)


@settings(deadline=None)
@given(fraction, fraction, fraction, fraction, st.integers(1, 9), st.integers(1, 9))
def test_inside_and_outside_make_the_whole(a, b, c, d, h, w):
    (y0, y1), (x0, x1) = sorted((a, b)), sorted((c, d))
    if y0 == y1 or x0 == x1:
        return
    inside, outside = (box_mask((y0, x0, y1, x1), (h, w), keep=k) for k in ("inside", "outside"))
    assert inside.shape == (h, w) and torch.equal(inside + outside, torch.ones(h, w))
    assert inside.sum() == (round(y1 * h) - round(y0 * h)) * (round(x1 * w) - round(x0 * w))


def test_edges_round_half_to_even():
    mask = box_mask((0.25, 0.0, 0.75, 1.0), (2, 1), keep="inside")  # 0.5 -> 0 and 1.5 -> 2
    assert mask[:, 0].tolist() == [1, 1]


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 1), (0.5, 0, 0.4, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1), (float("nan"), 0, 1, 1)]
)
def test_impossible_boxes_are_refused(box):
    with pytest.raises(NextsetError, match="y0,x0,y1,x1 with 0 <= y0 < y1 <= 1"):
        box_mask(box, (4, 4), keep="inside")


def test_a_mask_at_every_scale():
    mask = box_mask((0.0, 0.0, 0.5, 1.0), (4, 4), keep="inside")
    sides = [(1, 1), (2, 2), (4, 4), (2, 4)]
    found = pyramid_mask(mask, sides).split([1, 4, 16, 8])
    assert found[0].tolist() == [False], "half is not more than half"
    assert found[1].tolist() == [True, True, False, False]
    assert torch.equal(found[2].view(4, 4), mask > 0.5)
    assert found[3].view(2, 4).tolist() == [[True] * 4, [False] * 4]
    assert pyramid_mask(mask, sides, always=1)[0].item() is True, "small scales can be given whole"
    assert pyramid_mask(torch.ones(4, 4), sides).all() and not pyramid_mask(torch.zeros(4, 4), sides).any()
