"""Guidance tables."""

from __future__ import annotations

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.steps import Step
from nextset.engine.guidance import GuideAt, alone, constant, each_step, ramp


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


def test_a_scale_for_each_step():
    table = each_step([1.0, 3.0])
    assert table(step(0)) == (1.0, 0.0) and table(step(1)) == (3.0, -2.0)
    with pytest.raises(NextsetError, match="guidance_scale is -1"):
        each_step([2.0, -1.0])


class Running:
    """As much of a run as a controller of hidden states reads."""

    def __init__(self, *steps: Step) -> None:
        self.running = Step.joined(steps) if len(steps) > 1 else steps[0]


def test_guidance_on_a_hidden_state_folds_two_branches_and_gives_both_the_result():
    guide = GuideAt(["blocks.1"], [1.0, 3.0])
    h = torch.tensor([[[1.0]], [[10.0]], [[2.0]], [[20.0]]])  # two branches of two entries
    assert guide.on_site(Running(step(1)), "blocks.0", h) is h, "another site"
    assert torch.equal(guide.on_site(Running(step(0)), "blocks.1", h), h), "scale 1: both go on as they are"
    found = guide.on_site(Running(step(1)), "blocks.1", h)
    assert found.flatten().tolist() == [-1.0, -10.0, -1.0, -10.0]  # 3 x first - 2 x second


def test_guidance_on_a_hidden_state_knows_the_steps_of_a_join():
    guide = GuideAt(["site"], [1.0, 2.0])
    h = torch.tensor([[[1.0], [1.0]], [[3.0], [3.0]]])
    found = guide.on_site(Running(step(0), step(1)), "site", h)
    assert found[..., 0].tolist() == [[1.0, -1.0], [3.0, -1.0]]
