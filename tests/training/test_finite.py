"""The first accident is remembered until somebody asks, with its step and its place."""

from __future__ import annotations

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.training.finite import Finite

NAN = float("nan")
LABELS = ("loss", "pixels", "vq")


def look(finite: Finite, step: int, scalars: list[float], norms: list[float], update: str = "toy") -> None:
    finite.watch(update, LABELS, torch.tensor(scalars), torch.tensor(norms), step)


def test_the_first_accident_is_told_late():
    finite = Finite(["a", "b", "c"])
    finite.check("nothing was watched yet")
    look(finite, 4, [1, 1, 1], [1, 1, 1])
    finite.check("all is well")
    look(finite, 5, [1, 1, 1], [NAN, float("inf"), 1])
    look(finite, 5, [NAN, NAN, NAN], [NAN, NAN, NAN], "other")
    look(finite, 6, [NAN, NAN, NAN], [NAN, NAN, NAN])
    with pytest.raises(NextsetError) as caught:
        finite.check("rest")
    assert str(caught.value) == "the gradient of 'b' (2 of 3 parameters) is not finite at step 5; rest"


@pytest.mark.parametrize(
    ("scalars", "words"),
    [([NAN, 1, NAN], "vq of 'toy'"), ([NAN, NAN, NAN], "pixels and vq of 'toy'"), ([NAN, 1, 1], "loss of 'toy'")],
)
def test_parts_are_named_before_gradients(scalars, words):
    finite = Finite(["a"])
    look(finite, 9, scalars, [NAN])
    with pytest.raises(NextsetError, match=f"^{words} is not finite at step 9"):
        finite.check("rest")
