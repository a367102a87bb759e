"""Guidance tables."""

from __future__ import annotations

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.steps import Step
from nextset.engine.guidance import alone, constant, ramp


def step(k: int) -> Step:
    return Step.make(k, torch.tensor([0]))


def test_ramp_grows_from_nothing_to_its_end():
    assert [ramp(2.0, 5)(step(k)) for k in range(5)] == [(1, 0), (1.5, -0.5), (2, -1), (2.5, -1.5), (3, -2)]
    assert ramp(2.0, 1)(step(0)) == (1, 0), "a plan of one step is not guided"


def test_constant_and_alone():
    assert constant(3.0)(step(7)) == (3, -2) and constant(1.0)(step(0)) == (1, 0) and alone(step(3)) == (1,)


@pytest.mark.parametrize(
    "make", [lambda: ramp(-1, 3), lambda: constant(-0.1), lambda: constant(1001), lambda: ramp(float("nan"), 3)]
)
def test_impossible_scales_are_refused(make):
    with pytest.raises(NextsetError, match=r"guidance_scale is .*, but must be between 0 and 1000"):
        make()
