"""Noise: known answers of Philox, and numbers that depend on their address alone."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextset.core.noise import Noise, Tape, categorical, philox, quantile

IMAGES, POSITIONS = torch.arange(8), torch.arange(50)


# the known-answer vectors that come with Random123 (philox4x32, 10 rounds): counter, key, result
@pytest.mark.parametrize(
    "counter, key, result",
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter: tuple[int, ...], key: tuple[int, int], result: tuple[int, ...]) -> None:
    words = philox(tuple(torch.tensor(c) for c in counter), key)  # type: ignore[arg-type]
    assert tuple(int(w) for w in words) == result


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_numbers_do_not_depend_on_batch_order_or_what_was_drawn_before(kind: str) -> None:
    noise = Noise(3, "x")
    draw = getattr(noise, kind)
    whole = draw(IMAGES, POSITIONS)
    assert torch.equal(draw(IMAGES[5:6], POSITIONS)[0], whole[5])
    assert torch.equal(draw(IMAGES.flip(0), POSITIONS.flip(0)).flip(0, 1), whole)
    each = torch.stack([POSITIONS.roll(i) for i in range(8)])
    assert torch.equal(draw(IMAGES, each), torch.stack([row.roll(i) for i, row in enumerate(whole)]))
    assert torch.equal(draw(IMAGES, POSITIONS, lanes=7)[..., 0], whole)
    assert torch.equal(draw(IMAGES, POSITIONS, lanes=7), draw(IMAGES, POSITIONS, lanes=9)[..., :7])


@pytest.mark.parametrize("attempt", [3, torch.arange(8)])
def test_several_purposes_at_once_are_those_of_each(attempt: int | torch.Tensor) -> None:
    noise, purposes = Noise(3, "x"), ("step/0", "step/1", "y")
    each = torch.stack([POSITIONS.roll(i) for i in range(8)])
    for positions in (POSITIONS, each):
        many = noise.normals(purposes, IMAGES, positions, attempt=attempt, lanes=5)
        one_by_one = [noise.of(p).normal(IMAGES, positions, attempt=attempt, lanes=5) for p in purposes]
        assert torch.equal(many, torch.stack(one_by_one))
    tape = Tape({"a": torch.rand(8, 50, 2), "b": torch.rand(8, 50, 2)})
    both = tape.normals(("b", "a"), IMAGES[:3], POSITIONS[:7], lanes=2)
    assert torch.equal(both, torch.stack([tape.values[name][:3, :7] for name in "ba"]))


def test_every_part_of_an_address_matters() -> None:
    base = Noise(3, "x")
    whole = base.uniform(IMAGES, POSITIONS)
    others = [
        Noise(4, "x").uniform(IMAGES, POSITIONS),
        Noise(3, "y").uniform(IMAGES, POSITIONS),
        base.of("x").uniform(IMAGES, POSITIONS),
        base.uniform(IMAGES + 8, POSITIONS),
        base.uniform(IMAGES, POSITIONS + 50),
        base.uniform(IMAGES, POSITIONS, attempt=1),
        base.uniform(IMAGES, POSITIONS, attempt=1 << 16),
        base.uniform(IMAGES, POSITIONS, lanes=2)[..., 1],
    ]
    for other in others:
        assert (other == whole).float().mean() < 0.01
    per_image = base.uniform(IMAGES, POSITIONS, attempt=torch.tensor([0, 1] * 4))
    assert torch.equal(per_image[0], whole[0]) and torch.equal(per_image[1], others[5][1])


def test_uniforms_are_uniform_and_stay_below_one() -> None:
    u = Noise(0).uniform(torch.arange(1000), torch.arange(1000)).double()
    assert float(u.min()) >= 0 and float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 4 * math.sqrt(1 / 12 / 1e6)
    counts = (u * 64).long().flatten().bincount(minlength=64)
    chi2 = ((counts - 1e6 / 64) ** 2 / (1e6 / 64)).sum()
    assert float(chi2) < 63 + 5 * math.sqrt(2 * 63)


def test_normals_have_the_moments_of_a_normal() -> None:
    z = Noise(0).normal(torch.arange(1000), torch.arange(1000)).double()
    assert z.dtype == torch.float64 and bool(z.isfinite().all())
    assert abs(float(z.mean())) < 4e-3 and abs(float(z.var()) - 1) < 6e-3
    assert abs(float((z**3).mean())) < 2e-2 and abs(float((z**4).mean()) - 3) < 5e-2


def test_the_quantile_inverts_the_distribution_function() -> None:
    """Against the definition: Phi(quantile(p)) = p, to the accuracy of erfc, over the whole range of 32-bit words."""
    words = torch.cat([torch.arange(64), torch.logspace(1, 31.99, 500, 2).long(), 2**32 - 1 - torch.arange(64)])
    p = (words.double() + 0.5) * 2.0**-32
    z = quantile(p)
    for a, b in zip(p.tolist(), z.tolist(), strict=True):
        back = 0.5 * math.erfc(-b / math.sqrt(2))
        # in the tails a relative error e of z moves p by about z^2 e
        assert abs(back - a) <= 1e-15 * (1 + b * b) * a + 2e-16
    assert torch.equal(
        quantile(1 - torch.tensor([0.25, 0.0625]).double()), -quantile(torch.tensor([0.25, 0.0625]).double())
    )
    assert abs(float(quantile(torch.tensor([0.975], dtype=torch.float64))) - NormalDist().inv_cdf(0.975)) < 1e-14
    assert float(quantile(torch.tensor([0.5]).double())) == 0


def test_a_permutation_holds_each_thing_once() -> None:
    noise = Noise(1, "order")
    assert noise.permutation(1000).sort().values.tolist() == list(range(1000))
    assert not torch.equal(noise.permutation(1000), noise.permutation(1000, 1))
    assert torch.equal(noise.permutation(1000, 1), Noise(1, "order").permutation(1000, 1))


def test_a_tape_returns_what_was_recorded_and_names_what_it_lacks() -> None:
    values = torch.rand(4, 10)
    tape = Tape({"draw": values}).of("any").of("draw")
    assert torch.equal(tape.uniform(torch.tensor([2, 0]), torch.tensor([9, 1])), values[[2, 0]][:, [9, 1]])
    lanes = torch.rand(4, 10, 3)
    assert torch.equal(Tape({"z": lanes}, "z").normal(torch.tensor([1]), torch.tensor([[5, 4]])), lanes[1:2, [5, 4]])
    with pytest.raises(KeyError, match="no numbers for 'other'; it has draw"):
        tape.of("other").uniform(torch.tensor([0]), torch.tensor([0]))


@given(
    st.lists(st.sampled_from([0.0, 1e-9, 0.1, 0.5, 3.0]), min_size=1, max_size=12).filter(lambda w: sum(w) > 0),
    st.floats(0, 1, exclude_max=True, width=32),
)
def test_categorical_follows_the_inverse_cdf_and_never_draws_what_was_removed(weights: list[float], u: float) -> None:
    probs = torch.tensor(weights) / sum(weights)
    drawn = int(categorical(probs, torch.tensor(u)))
    assert probs[drawn] > 0
    expected = int((probs.cumsum(0) <= u).sum())
    last = max(i for i, w in enumerate(probs.tolist()) if w > 0)
    assert drawn == min(expected, last)
