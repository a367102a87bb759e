"""Plans of observations and decisions, and the canvas whose next input depends on what was decided."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.interleaved import Environment, interleaved


class Counter:
    """A world whose state is the number that the decisions spell; it is seen as (number, how often it was looked at)."""

    def __init__(self) -> None:
        self.looks = 0

    def start(self, entries: int) -> dict[str, Tensor]:
        return {"n": torch.zeros(entries, dtype=torch.int64)}

    def move(self, state: dict[str, Tensor], decision: Tensor) -> dict[str, Tensor]:
        return {"n": state["n"] * 10 + decision}

    def observe(self, state: dict[str, Tensor]) -> Tensor:
        self.looks += 1
        return torch.stack([state["n"].float(), torch.full(state["n"].shape, 0.5)], -1)

    def embed(self, decisions: Tensor) -> Tensor:
        return torch.stack([decisions.float(), torch.full(decisions.shape, -1.0)], -1)


def drawn(*values: int, logp: float | None = None) -> Drawn:
    ids = torch.tensor(values)[:, None]
    return Drawn(ids, None if logp is None else torch.full(ids.shape, logp))


def test_a_plan_feeds_what_was_decided_with_what_is_seen_next():
    plan = interleaved(1, 3)
    assert [s.feed.tolist() for s in plan.steps] == [[0, 1], [2, 3], [4, 5]]
    assert [s.draw.tolist() for s in plan.steps] == [[0], [1], [2]]
    assert [s.feed[s.read[0, 0]].item() for s in plan.steps] == [1, 3, 5], "decisions are read at observations"
    assert plan.slots["segment"].tolist() == [0, 1, 2, 1, 2, 1, 2] and plan.size == 7
    assert plan.slots["index"].tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert torch.equal(plan.mask(plan.all()), torch.ones(6, 6).tril().bool()), "the last decision is never fed"


@pytest.mark.parametrize("conditions", [0, 1, 3])
def test_conditions_come_first_and_may_be_missing(conditions: int):
    plan = interleaved(conditions, 2)
    assert plan.steps[0].feed.tolist() == list(range(conditions + 1))
    assert plan.steps[1].feed.tolist() == [conditions + 1, conditions + 2]


def test_no_rounds_are_refused():
    with pytest.raises(NextsetError, match="rounds is 0, but must be at least 1"):
        interleaved(1, 0)


def test_the_next_input_depends_on_what_was_written():
    canvas, plan = Environment(Counter(), 2, 3), interleaved(1, 3)
    assert canvas.input(plan.steps[0]).tolist() == [[[0, 0], [0, 0.5]]] * 2
    canvas.write(plan.steps[0], drawn(7, 4))
    assert canvas.input(plan.steps[1]).tolist() == [[[7, -1], [7, 0.5]], [[4, -1], [4, 0.5]]]
    canvas.write(plan.steps[1], drawn(1, 2))
    assert canvas.input(plan.steps[2])[:, 1, 0].tolist() == [71, 42]
    assert canvas.done == 2 and canvas.codes().tolist() == [[7, 1, 0], [4, 2, 0]]


def test_a_state_is_looked_at_once():
    world, plan = Counter(), interleaved(1, 3)
    canvas = Environment(world, 2, 3)
    canvas.pin(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.ones(3, dtype=torch.bool))
    joined = canvas.input(plan.all())
    stepped = torch.cat([canvas.input(step) for step in plan.steps], 1)
    assert torch.equal(joined, stepped) and world.looks == 3


def test_another_decision_forgets_what_came_after_it():
    canvas, plan = Environment(Counter(), 1, 3), interleaved(1, 3)
    for step, value in zip(plan.steps, (1, 2, 3), strict=True):
        canvas.write(step, drawn(value))
    canvas.write(plan.steps[0], drawn(1))
    assert canvas.done == 3, "the same decision changes nothing"
    canvas.write(plan.steps[0], drawn(9))
    assert canvas.done == 1
    with pytest.raises(NextsetError, match="what follows decision 1 was asked for"):
        canvas.input(plan.steps[2])
    assert canvas.input(plan.steps[1])[0, 1, 0] == 9


def test_given_decisions_are_kept_and_cost_no_probability():
    canvas, plan = Environment(Counter(), 2, 2), interleaved(1, 2)
    canvas.pin(torch.tensor([[5, 0], [6, 0]]), torch.tensor([[True, False], [False, False]]))
    assert not canvas.pinned(plan.steps[0]) and canvas.done == 0
    canvas.write(plan.steps[0], drawn(1, 2, logp=-0.5))
    assert canvas.codes()[:, 0].tolist() == [5, 2] and canvas.logp[:, 0].tolist() == [0, -0.5]
    canvas.pin(torch.tensor([[5, 0], [3, 0]]), torch.tensor([True, False]))
    assert canvas.pinned(plan.steps[0]) and canvas.done == 1


def test_entries_move_with_their_states():
    canvas, plan = Environment(Counter(), 2, 2), interleaved(1, 2)
    canvas.input(plan.steps[0])
    canvas.write(plan.steps[0], drawn(7, 4, logp=-1.0))
    canvas.input(plan.steps[1])
    canvas.select(torch.tensor([1, 1, 0]))
    assert canvas.input(plan.steps[1])[:, 1, 0].tolist() == [4, 4, 7]
    canvas.write(plan.steps[1], drawn(1, 2, 3))
    assert canvas.state(2)["n"].tolist() == [41, 42, 73] and canvas.logp.shape == (3, 2)


def test_as_many_decisions_as_the_canvas_has_must_be_given():
    with pytest.raises(NextsetError, match=r"shape \(2, 3\), but the canvas has \(2, 2\)"):
        Environment(Counter(), 2, 2).pin(torch.zeros(2, 3, dtype=torch.int64), torch.ones(3, dtype=torch.bool))
