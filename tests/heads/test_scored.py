"""Draws that say how likely they were, and drawing again."""

from __future__ import annotations

import torch

from nextset.core.noise import Noise
from nextset.engine.filters import top_k
from nextset.heads.categorical import Categorical
from nextset.heads.scored import scored

LOGITS = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(0))
IMAGES, POSITIONS = torch.arange(3), torch.arange(4)


def test_a_scored_law_draws_the_same_and_says_how_likely_it_was() -> None:
    plain = Categorical(LOGITS).draw(Noise(0), IMAGES, POSITIONS)
    drawn = scored()(Categorical(LOGITS)).draw(Noise(0), IMAGES, POSITIONS)
    assert torch.equal(drawn.value, plain.value)
    torch.testing.assert_close(drawn.logp.exp(), LOGITS.softmax(-1).gather(-1, drawn.value[..., None])[..., 0])


def test_the_likelihood_is_that_of_the_filtered_law() -> None:
    assert (scored()(top_k(1)(Categorical(LOGITS))).draw(Noise(0), IMAGES, POSITIONS).logp == 0).all()


def test_a_redraw_is_another_attempt_of_any_candidate() -> None:
    law = Categorical(torch.zeros(3, 4, 100))
    for attempt in (0, torch.tensor([0, 1, 2]) << 16):
        first, again = (scored(j)(law).draw(Noise(0), IMAGES, POSITIONS, attempt).value for j in (0, 1))
        assert torch.equal(again, law.draw(Noise(0), IMAGES, POSITIONS, attempt + 1).value)
        assert not torch.equal(first, again)
