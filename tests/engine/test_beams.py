"""Beams against every sequence there is; draws that carry their probability; ids that are not allowed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.beams import Beams, Scored
from nextset.engine.controllers import Controller, Record
from nextset.engine.filters import only, temperature
from nextset.engine.run import Run, advance, finish, following, look
from tests.engine.toys import Toy, V, job
from tests.tiny import tiny_model

SHORT = 3  # positions: 1331 sequences


class Keep(Controller):
    """Writes down what is drawn."""

    def __init__(self) -> None:
        self.drawn: list[Drawn] = []

    def on_draw(self, run, step, drawn):
        self.drawn.append(drawn)
        return drawn


def beamed(width: int, n: int = 2, *, toy: Toy | None = None, filters=(), given: dict[int, int] | None = None) -> Run:
    asked = job(n, SHORT, toy=toy or Toy(), filters=filters)
    for position, value in (given or {}).items():
        values = torch.zeros(n, SHORT, dtype=torch.int64)
        values[:, position] = value
        asked.canvas.pin(values, torch.arange(SHORT).expand(n, -1) == position)
    run = Run.of(asked, Noise(0), controllers=[Beams(width)])
    finish(run)
    return run


def scores(n: int = 2, *, toy: Toy | None = None, filters=()) -> Tensor:
    """Log probability (n, V^3) of every sequence, in ascending order of ids."""
    every = torch.tensor(list(itertools.product(range(V), repeat=SHORT)))
    found = []
    for image in range(n):
        asked = job(len(every), SHORT, toy=toy or Toy(), filters=filters, images=torch.full((len(every),), image))
        asked.canvas.pin(every, torch.ones_like(every, dtype=torch.bool))
        with torch.no_grad():
            law = look(Run.of(asked, Noise(0), cache="none"), asked.plan.all())
        found.append(law.logp(every).sum(1))
    return torch.stack(found)


def number(ids: Tensor) -> Tensor:
    """Place of sequences (..., 3) among all of them."""
    return (ids * torch.tensor([V * V, V, 1])).sum(-1)


@pytest.mark.parametrize("recurrent", [False, True])
def test_wide_beams_find_the_likeliest_sequences_in_order(recurrent: bool):
    """As many beams as there are prefixes leave nothing out: the search is exact."""
    run = beamed(V**2, toy=Toy(recurrent=recurrent))
    found = number(run.codes().view(2, V**2, SHORT))
    best = scores(toy=Toy(recurrent=recurrent)).sort(descending=True).indices[:, : V**2]
    assert torch.equal(found, best)


def test_one_beam_is_the_greedy_choice():
    record, asked = Record(), job(3, SHORT)
    run = Run.of(asked, Noise(0), controllers=[record, Beams(1)])
    finish(run)
    greedy = torch.cat([law.logits.argmax(-1) for law in record.dists], 1)
    assert torch.equal(run.codes(), greedy) and run.job.entries == 3


def test_beams_of_an_image_do_not_depend_on_the_others():
    both = beamed(4).codes().view(2, 4, SHORT)
    assert torch.equal(beamed(4, 1).codes(), both[0])


def test_beams_grow_to_their_width_and_no_further():
    run = beamed(V + 4)
    assert run.codes().shape == (2 * (V + 4), SHORT)
    assert len(run.codes()[: V + 4].unique(dim=0)) == V + 4


def test_equal_scores_go_to_the_lower_id():
    level = lambda law: law.replace(torch.zeros_like(law.logits))  # noqa: E731
    assert number(beamed(5, filters=[level]).codes()).tolist() == [0, 1, 2, 3, 4] * 2


def test_given_choices_are_kept_by_every_beam():
    run = beamed(5, given={1: 8})
    codes = run.codes().view(2, 5, SHORT)
    assert (codes[..., 1] == 8).all() and all(len(c.unique(dim=0)) == 5 for c in codes)
    assert (beamed(5, given={0: 3, 1: 8}).codes()[:, :2] == torch.tensor([3, 8])).all()


def test_only_allowed_ids_are_chosen_and_impossible_sequences_come_last():
    """Two ids in three positions make 8 sequences; ten beams fill up with impossible ones."""
    allowed, keep = torch.isin(torch.arange(V), torch.tensor([2, 5])), Keep()
    run = Run.of(job(1, SHORT, filters=[only(allowed)]), Noise(0), controllers=[Beams(10), keep])
    finish(run)
    alive = run.codes()[:8]
    assert set(alive.flatten().tolist()) == {2, 5} and len(alive.unique(dim=0)) == 8
    assert keep.drawn[-1].logp.isinf().flatten().tolist() == [False] * 8 + [True] * 2  # type: ignore[union-attr]


def test_draws_carry_their_log_probability():
    keep, filters = Keep(), [temperature(0.7)]
    run = Run.of(job(2, SHORT, filters=filters), Noise(0), controllers=[Scored(), keep])
    finish(run)
    total = torch.cat([drawn.logp for drawn in keep.drawn], 1).sum(1)  # type: ignore[misc]
    expected = scores(filters=filters).gather(1, number(run.codes())[:, None])[:, 0]
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-5)


def test_what_beams_cannot_do_is_said():
    with pytest.raises(NextsetError, match="beams is 0, but must be between 1 and 1024"):
        Beams(0)
    run = Run.of(job(2, 5), Noise(0), controllers=[Beams(2)])
    advance(run, following(run))  # type: ignore[arg-type]
    run.select(torch.tensor([0, 1, 2]))
    with pytest.raises(NextsetError, match="there are 3 entries, but beams of 4"):
        advance(run, following(run))  # type: ignore[arg-type]
    bits = [lambda law: law.replace(law.logits[..., None])]
    with pytest.raises(NextsetError, match="beams choose among ids, but this law is 'categorical' and has none"):
        beamed(2, filters=bits)
    with pytest.raises(NextsetError, match="beams decide one choice a step, but step 1 draws 4"):
        finish(Run.of(tiny_model().job(torch.tensor([0])), Noise(0), controllers=[Beams(2)]))
