"""Rotary positions: coordinates in, rotations out."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.nn.rope import angles, frequencies, rotate, turns

G = torch.Generator().manual_seed(0)


def test_frequencies():
    found = frequencies(4, 10000.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_each_axis_turns_its_own_pairs():
    found = angles(torch.tensor([[2, 3], [0, 1]]), torch.tensor([1.0, 0.5]))
    assert found.tolist() == [[2, 1, 3, 1.5], [0, 0, 1, 0.5]]


@settings(deadline=None)
@given(st.floats(-50, 50, width=32), st.floats(-5, 5, width=32), st.floats(-5, 5, width=32))
def test_adjacent_channels_are_a_complex_number(angle, a, b):
    found = rotate(torch.tensor([[[[a, b]]]]), turns(torch.tensor([[angle]])))[0, 0, 0]
    turned = complex(a, b) * complex(math.cos(angle), math.sin(angle))
    torch.testing.assert_close(found, torch.tensor([turned.real, turned.imag]), atol=1e-5, rtol=1e-5)


def test_lengths_stay_and_products_depend_on_differences():
    q, k = torch.randn(1, 2, 1, 8, generator=G), torch.randn(1, 2, 1, 8, generator=G)
    freqs = frequencies(2)

    def at(x, y_, x_):
        return rotate(x, turns(angles(torch.tensor([[y_, x_]]), freqs)))

    torch.testing.assert_close(at(q, 5, 9).norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(
        (at(q, 3, 4) * at(k, 1, 7)).sum(-1), (at(q, 13, 24) * at(k, 11, 27)).sum(-1), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(at(q, 0, 0), q)


def test_rows_may_have_orders_of_their_own():
    x = torch.randn(2, 3, 4, 8, generator=G)
    coordinates = torch.randint(0, 9, (2, 4, 2), generator=G)
    freqs = frequencies(2)
    each = torch.cat([rotate(x[i : i + 1], turns(angles(coordinates[i], freqs))) for i in range(2)])
    both = rotate(x, turns(angles(coordinates, freqs)[:, None]))
    assert torch.equal(both, each)


def test_the_dtype_stays_and_the_turn_is_float32():
    x = torch.randn(1, 1, 3, 4, generator=G)
    turn = turns(angles(torch.arange(3)[:, None], frequencies(2)))
    found = rotate(x.bfloat16(), turn)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, rotate(x.bfloat16().float(), turn).bfloat16())
