"""The neighbourhood rule against its sentence, and the kernel that serves it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from nextset.core.errors import NextsetError
from nextset.core.plans import scale_pyramid
from nextset.core.rules import Neighbourhood
from nextset.nn.attention import attention
from nextset.nn.neighbourhood import neighbourhood_attention


@given(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3, 5]))
def test_each_row_sees_the_window_around_it_moved_inside(h: int, w: int, kernel: int) -> None:
    plan = scale_pyramid([(h, w)], keep=False, sees=Neighbourhood(kernel))
    mask = plan.mask(plan.steps[0]).view(h, w, h, w)
    for y in range(h):
        for x in range(w):
            y0, x0 = (min(max(a - kernel // 2, 0), max(n - kernel, 0)) for a, n in ((y, h), (x, w)))
            wanted = torch.zeros(h, w, dtype=torch.bool)
            wanted[y0 : y0 + kernel, x0 : x0 + kernel] = True
            assert torch.equal(mask[y, x], wanted)


@example(19, 26, 3)  # large enough to be cut into tiles, which do not fit into it
@example(32, 9, 5)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 5, 7]))
def test_the_kernel_is_attention_under_that_mask(h: int, w: int, kernel: int) -> None:
    q, k, v = torch.randn(3, 2, 2, h * w, 4, generator=torch.Generator().manual_seed(h * w)).unbind(0)
    plan = scale_pyramid([(h, w)], keep=False, sees=Neighbourhood(kernel))
    wanted = attention(q, k, v, plan.mask(plan.steps[0]), 0.7)
    torch.testing.assert_close(neighbourhood_attention(q, k, v, (h, w), kernel, 0.7), wanted)


def test_gradients_of_the_kernel_are_those_of_the_mask() -> None:
    made = []
    for local in (True, False):
        q, k, v = (
            t.clone().requires_grad_() for t in torch.randn(3, 1, 2, 20, 4, generator=torch.Generator().manual_seed(0))
        )
        plan = scale_pyramid([(4, 5)], keep=False, sees=Neighbourhood(3))
        out = neighbourhood_attention(q, k, v, (4, 5), 3) if local else attention(q, k, v, plan.mask(plan.steps[0]))
        out.square().sum().backward()
        made.append((q.grad, k.grad, v.grad))
    for a, b in zip(*made, strict=True):
        torch.testing.assert_close(a, b)


def test_coarse_maps_see_themselves_whole_and_joins_need_the_mask() -> None:
    rule = Neighbourhood(3, first=1)
    plan = scale_pyramid([4, 5], keep=False, sees=rule)
    assert bool(plan.mask(plan.steps[0]).all())
    assert rule.window(plan.steps[0]) is None and rule.window(plan.steps[1]) == 3
    assert rule.window(plan.all()) is None
    joined = plan.mask(plan.all())
    assert not joined[:16, 16:].any() and not joined[16:, :16].any(), "nothing is kept, so scales do not meet"


def test_even_kernels_are_refused() -> None:
    with pytest.raises(NextsetError, match="must be odd"):
        Neighbourhood(4)
