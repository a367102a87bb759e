"""Filters against a reference that sorts everything, one law at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.filters import chain, smooth, temperature, top_k, top_p
from nextset.heads.categorical import Categorical


def reference(logits: list[float], k: int, p: float, t: float) -> list[float]:
    """temperature, the k best with their ties, then the smallest set of best ids with mass above p."""
    values = [x / t for x in logits]
    if 0 < k < len(values):
        least = sorted(values)[-k]
        values = [x if x >= least else -math.inf for x in values]
    if p not in (0, 1):
        total = sum(math.exp(x) for x in values)
        order = sorted(range(len(values)), key=lambda i: (values[i], i))
        mass = 0.0
        for i in order[:-1]:
            mass += math.exp(values[i]) / total
            if mass <= 1 - p:
                values[i] = -math.inf
    return values


def law(logits) -> Categorical:
    return Categorical(torch.tensor(logits, dtype=torch.float32))


# distinct sixteenths: sums of their exponentials do not lie on the edge of 1 - p
numbers = st.lists(st.integers(-64, 64).map(lambda i: i / 16), min_size=1, max_size=12)


@settings(deadline=None)
@given(
    numbers, st.integers(0, 14), st.sampled_from([0.0, 0.1, 0.37, 0.9, 0.993, 1.0]), st.sampled_from([0.5, 1.0, 1.7])
)
def test_against_a_full_sort(logits, k, p, t):
    found = law([[logits]]).filter(chain(k, p, t)).logits[0, 0]
    expected = torch.tensor(reference(logits, k, p, t))
    assert torch.equal(found.isinf(), expected.isinf())
    torch.testing.assert_close(found, expected)


def test_each_law_of_a_batch_is_filtered_alone():
    logits = torch.randn(3, 4, 9, generator=torch.Generator().manual_seed(0))
    found = Categorical(logits).filter(chain(4, 0.8)).logits
    for i in range(3):
        for j in range(4):
            assert torch.equal(found[i, j], law(logits[None, None, i, j].tolist()).filter(chain(4, 0.8)).logits[0, 0])


def test_ties():
    assert law([[[1.0, 2.0, 2.0, 0.0]]]).filter([top_k(1)]).logits.isinf().tolist() == [[[True, False, False, True]]], (
        "ties with the k-th stay"
    )
    even = law([[[0.0] * 4]]).filter([top_p(0.5)]).logits.isinf().tolist()[0][0]
    assert even == [True, True, False, False], "of equal ids the first go first, in a stable order"
    assert law([[[0.0] * 4]]).filter([top_p(0.51)]).logits.isinf().sum() == 1, "more than p must stay"


def test_the_likeliest_always_stays():
    assert law([[[5.0, 4.9, -30.0]]]).filter([top_p(1e-6)]).logits.isinf().tolist() == [[[False, True, True]]]
    assert law([[[5.0, 4.9]]]).filter([top_k(1), top_p(1e-6)]).logits.isinf().tolist() == [[[False, True]]]


@pytest.mark.parametrize("f", [temperature(1.0), top_k(0), top_k(3), top_k(99), top_p(0), top_p(1)])
def test_filters_that_are_off_return_the_law_itself(f):
    one = law([[[1.0, 2.0, 3.0]]])
    assert f(one) is one


def test_chain_leaves_out_what_is_off_and_keeps_the_order():
    assert chain() == [] and chain(0, 1.0, 1.0) == [] and len(chain(5, 0.5, 2.0)) == 3
    logits = [[[2.0, 1.0, 0.0, -1.0]]]
    torch.testing.assert_close(
        law(logits).filter(chain(3, 0.0, 2.0)).logits, torch.tensor([[[1.0, 0.5, 0.0, -math.inf]]])
    )


def test_the_raw_law_is_kept():
    one = law([[[1.0, 2.0, 3.0]]])
    found = one.filter(chain(1, 0.5, 2.0))
    assert torch.equal(found.raw, one.logits) and torch.equal(one.logits, torch.tensor([[[1.0, 2.0, 3.0]]])), (
        "and not written to"
    )


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: temperature(0), "temperature is 0, but must be at least 1e-06; 1 leaves the law as it is"),
        (lambda: temperature(float("nan")), "temperature is nan"),
        (lambda: top_k(-1), "top_k is -1, but must be at least 0; 0 switches it off"),
        (lambda: top_p(1.5), "top_p is 1.5, but must be between 0 and 1; 0 or 1 switches it off"),
        (lambda: top_p(-0.1), "top_p is -0.1"),
        (lambda: smooth(2), "ratio is 2, but must be between 0 and 1"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(make, text):
    with pytest.raises(NextsetError) as error:
        make()
    assert str(error.value).startswith(text)


class Other:
    """A law without ids."""

    kind = "velocity"


@pytest.mark.parametrize(
    "f, name", [(temperature(2.0), "temperature"), (top_k(3), "top_k"), (top_p(0.5), "top_p"), (smooth(0.5), "smooth")]
)
def test_a_law_of_another_kind_is_refused_by_name(f, name):
    with pytest.raises(NextsetError, match=f"{name} cannot be applied to a law of kind 'velocity'"):
        f(Other())


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_smooth_mixes_the_ids_that_survived(ratio):
    """softmax((l (1 + r) + Gumbel) / max(0.27 (1 - 0.95 r), 0.005)) with the law's own noise."""
    images, positions = torch.arange(2), torch.arange(3)
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    found = Categorical(logits).filter([top_k(3), smooth(ratio)])
    drawn = found.draw(Noise(1), images, positions)
    u = Noise(1).of("soft").uniform(images, positions, lanes=5)
    gumbel = -torch.log(-torch.log(u))
    expected = ((found.logits * (1 + ratio) + gumbel) / max(0.27 * (1 - 0.95 * ratio), 0.005)).softmax(-1)
    torch.testing.assert_close(drawn.mix, expected)
    assert (drawn.mix[found.logits.isinf()] == 0).all() and torch.equal(
        drawn.value, Categorical(found.logits).draw(Noise(1), images, positions).value
    )
