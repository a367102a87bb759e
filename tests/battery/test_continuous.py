"""Systems of continuous tokens: a head's rows at a time change nothing, and latents, moments and masks that cannot be meant
are refused in one line."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.steps import Step
from nextset.engine.controllers import Controller
from nextset.engine.run import Run, finish
from nextset.heads.implicit import Implicit
from nextset.hub.requests import settings_known
from nextset.tokenizers.attached import OnLatents
from tests.battery.common import everything, generate, same
from tests.battery.instances import INSTANCES, Instance, instance

FOUR = torch.tensor([3, 0, 11, 7])
CONTINUOUS = [name for name in INSTANCES if isinstance(instance(name).model, OnLatents)]
OF_HEADS = [name for name in CONTINUOUS if "head_batch" in settings_known(instance(name).model.job)]


class RowsAtATime(Controller):
    """Lets the head compute that many rows at a time."""

    def __init__(self, rows: int) -> None:
        self.rows, self.laws = rows, 0

    def on_dist(self, run: Run, step: Step, dist: Any) -> Any:
        assert isinstance(dist, Implicit)
        self.laws += 1
        return dist.replace(batch=self.rows)


def test_the_systems_that_are_meant_are_here() -> None:
    assert "mar" in OF_HEADS and set(OF_HEADS) <= set(CONTINUOUS)


@pytest.mark.parametrize("name", OF_HEADS)
def test_an_image_is_the_same_at_any_batch_and_any_rows_of_the_head(name: str) -> None:
    it = instance(name)
    codes = generate(it.job(FOUR), FOUR)[0].codes().clone()
    for rows, at in ((1, [0, 1, 2, 3]), (5, [2, 0]), (10**6, [3])):
        order = FOUR[at]
        few = RowsAtATime(rows)
        again = generate(it.job(order), order, controllers=(few,))[0].codes()
        assert few.laws > 0 and same(again, codes[at])


@pytest.mark.parametrize("name", CONTINUOUS)
def test_everything_known_comes_back_exactly(name: str) -> None:
    job = instance(name).job(FOUR)
    given = torch.randn(job.canvas.codes().shape, generator=torch.Generator().manual_seed(0))
    job.canvas.pin(given, everything(given))
    run = Run.of(job, Noise(0), FOUR)
    finish(run)
    assert torch.equal(run.codes(), given) and run.forwards == 0


def refused(call: Any, *parts: str) -> None:
    with pytest.raises(NextsetError) as error:
        call()
    said = str(error.value)
    assert "\n" not in said and all(part in said for part in parts), said


@pytest.mark.parametrize("name", CONTINUOUS)
def test_latents_of_another_size_or_other_channels_are_refused(name: str) -> None:
    it = instance(name)
    canvas = it.job(FOUR).canvas
    n, tokens, channels = canvas.codes().shape
    for wrong in ((n, tokens, channels + 1), (n, tokens + 1, channels)):
        values = torch.zeros(wrong)
        refused(lambda v=values: canvas.pin(v, everything(v)), str(tuple(wrong)), str((n, tokens, channels)))
    assert not canvas.given.any(), "nothing is half given"


@pytest.mark.parametrize("name", CONTINUOUS)
def test_moments_of_another_size_or_other_channels_are_refused(name: str) -> None:
    it: Instance = instance(name)
    assert it.batch is not None
    batch = it.batch(torch.arange(2))
    n, channels, h, w = batch["features"].shape
    for wrong in ((n, channels + 2, h, w), (n, channels, h + 1, w)):
        refused(
            lambda shape=wrong: next(iter(it.model.updates({**batch, "features": torch.zeros(shape)}, 0, Noise(0)))),  # type: ignore[operator]
            str(tuple(wrong[1:])),
            str((channels, h, w)),
        )


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize(("value", "what"), [(0.0, "everything"), (1.0, "nothing")])
def test_a_mask_hides_a_part(name: str, value: float, what: str) -> None:
    model: Any = instance(name).model
    side = math.isqrt(model.config.tokens)
    refused(lambda: model.keep_mask(torch.full((side, side), value)), f"the mask hides {what} of {side**2} tokens")
