"""Inner steps along a line over a generation: counts, the calls that a head really makes, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.annealing import AnnealedHead
from nextset.engine.run import Run, finish
from tests.battery.instances import instance


@pytest.mark.parametrize(
    ("first", "last", "steps", "counts"),
    [(50, 5, 4, [50, 35, 20, 5]), (5, 50, 4, [5, 20, 35, 50]), (8, 8, 3, [8, 8, 8]), (50, 5, 1, [50])],
)
def test_counts_lie_on_the_line_from_the_first_to_the_last(
    first: int, last: int, steps: int, counts: list[int]
) -> None:
    assert [AnnealedHead(first, last).count(k, steps) for k in range(steps)] == counts


def test_a_text_and_a_pair_are_the_same() -> None:
    for given in ("50-5", " 50 - 5 ", (50, 5), [50, 5]):
        made = AnnealedHead.of(given, 2, 1000)  # type: ignore[arg-type]
        assert (made.first, made.last, made.strided) == (50, 5, False)
    made = AnnealedHead.of("ddim50-5", 2, 1000)
    assert (made.first, made.last, made.strided) == (50, 5, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("50", "head_steps is '50', but must be two numbers first-last, such as 50-5"),
        ("fast-slow", "head_steps is 'fast-slow'"),
        ((50, 5, 1), r"head_steps is \(50, 5, 1\)"),
        ((5.5, 2), r"head_steps is \(5.5, 2\)"),
        (7, "head_steps is 7, but must be two numbers"),
        ("1001-5", "head_steps is 1001, but must be between 2 and 1000"),
        ("50-1", "head_steps is 1, but must be between 2 and 1000"),
    ],
)
def test_others_are_refused_before_anything_runs(given: Any, message: str) -> None:
    model: Any = instance("mar").model
    with pytest.raises(NextsetError, match=message) as error:
        model.job(torch.arange(2), steps=4, head_steps=given)
    assert "\n" not in str(error.value)


def test_a_law_without_inner_steps_is_refused() -> None:
    it = instance("var")
    with pytest.raises(NextsetError, match="head_steps cannot be given to a law of kind 'categorical'"):
        finish(Run.of(it.job(torch.arange(1)), Noise(0), controllers=[AnnealedHead(5, 2)]))


def calls(keep: int = 0, **settings: Any) -> tuple[list[int], Run]:
    """Calls of the head's network in each step of a run over the instance, of which the first tokens are given."""
    model: Any = instance("mar").model
    job, seen = model.job(torch.arange(16) % 5, steps=4, guidance_scale=1.0, **settings), [0]
    if keep:
        job.canvas.pin(torch.randn(16, 9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9) < keep)
    hooks = [
        model.diffusion.net.register_forward_hook(lambda net, given, out: seen.append(seen.pop() + 1)),
        model.decoder_norm.register_forward_hook(lambda net, given, out: seen.append(0)),
    ]
    try:
        run = Run.of(job, Noise(0))
        finish(run)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[1:], run


def test_each_step_draws_in_its_own_number_of_calls() -> None:
    found, annealed = calls(head_steps="8-2")
    assert found == [8, 6, 4, 2]
    assert calls(inner_steps="8")[0] == [8] * 4
    same, constant = calls(head_steps=(8, 8), inner_steps="5")
    assert same == [8] * 4 and torch.equal(constant.codes(), calls(inner_steps="8")[1].codes())
    first = annealed.job.plan.steps[0].draw[:, :, None].expand(-1, -1, 4)
    assert torch.equal(annealed.codes().gather(1, first), constant.codes().gather(1, first))


def test_steps_may_lie_at_a_fixed_stride() -> None:
    found, annealed = calls(head_steps="ddim8-2")
    assert found == [8, 6, 4, 2]
    assert not torch.equal(annealed.codes(), calls(head_steps="8-2")[1].codes())
    # where the number divides 1,000, it is the spacing that inner_steps knows by that name
    assert torch.equal(calls(head_steps="ddim8-8")[1].codes(), calls(inner_steps="ddim8")[1].codes())


def test_a_flow_has_no_stride() -> None:
    model: Any = instance("flowar").model
    with pytest.raises(NextsetError, match="have no stride; leave ddim out of head_steps"):
        finish(Run.of(model.job(torch.arange(1), head_steps="ddim4-2"), Noise(0)))


def test_the_line_ends_at_the_last_step_of_what_is_hidden() -> None:
    assert calls(keep=7, head_steps="8-2")[0] == [8, 2]
