"""Numbers by counter: the values of the specification, bit by bit."""

from __future__ import annotations

import numpy as np

from nextset.judges.hashing import SEED, mix, order, symmetric, words


def test_known_words() -> None:
    assert [hex(int(x)) for x in mix(np.array([0, 1, SEED]))] == [
        "0xe220a8397b1dcdaf",
        "0x910a2dec89025cc1",
        "0x6486828236cdc99b",
    ]
    assert [f"{int(x):x}" for x in words(SEED, 1, np.arange(3))] == [
        "adeaf10cb4e08676",
        "3bf43d0af586b02c",
        "3ff78b8df09450d3",
    ]


def test_known_numbers_which_float32_holds() -> None:
    u = symmetric(SEED, 1, np.arange(3))
    assert u.tolist() == [0.3587324023246765, -0.5316088795661926, -0.5002580285072327]
    many = symmetric(SEED, 7, np.arange(100_000))
    assert (many.astype(np.float32) == many).all()
    assert np.abs(many).max() < 1 and abs(many.mean()) < 0.01
    assert abs((many**2).mean() - 1 / 3) < 0.01


def test_seed_and_stream_matter_and_shape_does_not() -> None:
    index = np.arange(12)
    first = words(SEED, 1, index)
    assert not (first == words(SEED + 1, 1, index)).any() and not (first == words(SEED, 2, index)).any()
    assert (words(SEED, 1, index.reshape(3, 4)) == first.reshape(3, 4)).all()


def test_order_is_fixed_and_holds_everything_once() -> None:
    assert order(8, 301).tolist() == np.argsort(words(SEED, 301, np.arange(8))).tolist()
    assert sorted(order(1000, 302)) == list(range(1000))
    assert (order(1000, 301) != order(1000, 302)).mean() > 0.99
