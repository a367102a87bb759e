"""The head that guesses: one answer, the mean of what is possible; guided, but neither random nor annealed."""

from __future__ import annotations

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.steps import Step
from nextset.heads.diffusion import drawn_with
from nextset.heads.regression import Regression, guess
from tests.battery.common import Spy, same

STEP = Step.make(0, torch.arange(3), torch.arange(3))
IMAGES, POSITIONS = torch.tensor([4, 9]), torch.arange(3)


def head() -> Regression:
    torch.manual_seed(0)
    made = Regression(6, 3, 1, 16)
    for parameter in made.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    return made


def test_a_guess_is_guided_and_uses_no_noise() -> None:
    made, h, spy = head(), torch.randn(4, 3, 6), Spy(0)
    law = made.dist((h,), STEP).guide((2.0, -1.0), 2)
    found = law.draw(spy, IMAGES, POSITIONS).value
    with torch.no_grad():
        first, second = (guess(made.net, rows.flatten(0, 1)).view(2, 3, 3) for rows in h.chunk(2))
    assert same(found, 2 * first - second) and not spy.seen
    assert same(law.replace(batch=5).draw(Noise(1), IMAGES, POSITIONS).value, found)


def test_it_is_trained_towards_the_mean_of_what_is_possible() -> None:
    made, h = head(), torch.zeros(2, 3, 6)
    target = torch.stack([torch.ones(3, 3), torch.full((3, 3), 3.0)])
    optimiser = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(150):
        error, other = made.loss(h, target, Noise(0), IMAGES, POSITIONS)
        assert error.shape == other.shape == (2, 3) and not other.any()
        optimiser.zero_grad()
        error.mean().backward()
        optimiser.step()
    with torch.no_grad():
        torch.testing.assert_close(guess(made.net, torch.zeros(1, 6)), torch.full((1, 3), 2.0), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda law: law.inner(5), "a regression head guesses a token in one call and has no inner steps"),
        (lambda law: law.filter([drawn_with()]), "inner steps cannot be given to a law of kind 'regression'"),
        (lambda law: law.logp(torch.zeros(2, 3, 3)), "without knowing how likely they are"),
    ],
)
def test_what_it_cannot_do_is_said_by_name(do, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NextsetError, match=message):
        do(head().dist((torch.randn(4, 3, 6),), STEP).guide((1.0, 0.0), 2))
