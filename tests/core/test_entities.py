"""Entities: partitions of a grid by name, their plan, and who sees whom in it."""

from __future__ import annotations

import pytest
import torch

from nextset.core.entities import Entities, chain, entities
from nextset.core.errors import NextsetError

PARTITIONS = ["cell", "cell:1", "cell:2", "cell:4", "token", "subsample", "subsample:4", "image"]


def levels(of: Entities, times: tuple[float, ...]) -> list[tuple[float, ...]]:
    return [times] * len(of)


@pytest.mark.parametrize("text", PARTITIONS)
def test_a_partition_holds_every_position_once(text: str) -> None:
    of = entities(text, 4)
    assert sorted(of.places.tolist()) == list(range(16)) and of.positions == 16
    assert of.coordinates.tolist() == [[y, x] for y in range(4) for x in range(4)]
    assert of.starts[-1] == 16 and torch.equal(torch.cat([of.slots(k) for k in range(len(of))]), torch.arange(16))
    assert all(h * w == len(s) for s, (_, h, w) in zip(of.sets, of.shapes, strict=True))


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("cell", [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]),
        ("subsample:2", [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]),
        ("token", [[i] for i in range(16)]),
        (" image ", [list(range(16))]),
        ("scale:1,2,4", [[0], [1, 2, 3, 4], list(range(5, 21))]),
    ],
)
def test_what_is_in_a_set_and_in_which_order(text: str, sets: list[list[int]]) -> None:
    assert [s.tolist() for s in entities(text, 4).sets] == sets


@pytest.mark.parametrize(
    ("short", "long", "side"),
    [("cell", "cell:8", 16), ("subsample", "subsample:2", 16), ("scale", "scale:1,2,4,8,16", 16), ("scale", "scale:1,2,3", 3),
     ("cell", "cell:1", 1), ("scale", "scale:1", 1), ("token", "cell:1", 8), ("image", "cell:8", 8)],
)  # fmt: skip
def test_short_names_stand_for_long_ones(short: str, long: str, side: int) -> None:
    one, two = entities(short, side), entities(long, side)
    assert [s.tolist() for s in one.sets] == [s.tolist() for s in two.sets]
    assert torch.equal(one.coordinates, two.coordinates)


def test_scales_lie_at_the_centres_of_their_cells() -> None:
    where = entities("scale", 4).coordinates
    assert where[0].tolist() == [1.5, 1.5]
    assert where[1:5].tolist() == [[0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
    assert where[5:].tolist() == [[y, x] for y in range(4) for x in range(4)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cells", "entity is 'cells', but must be one of: cell or cell:K"),
        ("cell:3", "3 does not divide the 4 tokens of a side; choose one of 1, 2, 4"),
        ("cell:two", "0 does not divide"),
        ("subsample:0", "0 does not divide"),
        ("cell:2,2", "must be one of: cell"),
        ("token:1", "must be one of: cell"),
        ("scale:1,2", "its sides must grow, from at least 1 to the 4 tokens of a side; for example scale:1,2,4"),
        ("scale:2,2,4", "its sides must grow"),
        ("scale:0,4", "its sides must grow"),
        ("", "must be one of"),
    ],
)
def test_other_words_are_refused_with_the_grammar(text: str, message: str) -> None:
    with pytest.raises(NextsetError, match=message) as error:
        entities(text, 4)
    assert "\n" not in str(error.value)


def test_entities_are_on_the_host_also_while_a_model_is_built_without_memory() -> None:
    with torch.device("meta"):
        of = entities("scale", 4)
    assert of.places.device.type == of.coordinates.device.type == "cpu" and of.starts == [0, 1, 5, 21]


def test_noisy_steps_keep_nothing_and_clean_ones_run_ahead() -> None:
    of = entities("cell", 4)
    plan = chain(of, levels(of, (1.0, 0.5)), whole=False)
    assert [s.phase for s in plan.steps] == (["noisy", "noisy", "clean"] * 4)[:-1]
    assert [bool(s.keep.any()) for s in plan.steps] == [s.ahead for s in plan.steps]
    assert [s.draw.shape[-1] for s in plan.steps] == ([4, 4, 0] * 4)[:-1]
    assert [float(s.level[0]) for s in plan.steps[:3]] == [1.0, 0.5, 0.0]
    assert len(chain(of, levels(of, (1.0, 0.5)))) == len(plan) + 1
    assert plan.slots["entity"].tolist() == [k for k in range(4) for _ in range(4)]
    assert torch.equal(plan.slots["position"], of.places) and plan.slots["y"].dtype == torch.float32
    where = torch.stack([plan.slots["y"], plan.slots["x"]], -1)
    assert torch.equal(where, of.coordinates[of.places])


@pytest.mark.parametrize("text", ["cell", "subsample", "scale", "token", "image"])
def test_a_noisy_row_sees_its_own_level_and_clean_entities_before_it(text: str) -> None:
    """All steps joined, against the sentence."""
    of = entities(text, 4)
    plan = chain(of, levels(of, (1.0, 0.3)))
    every = plan.all()
    mask = plan.mask(every)
    entity, step = plan.slots["entity"][every.feed], every.own
    clean = every.level == 0
    expected = (step[:, None] == step) | ((entity[:, None] > entity) & clean)
    assert torch.equal(mask, expected)


def test_on_a_noisy_context_the_mask_is_causal_over_entities() -> None:
    of, times = entities("subsample", 4), torch.rand(3, 4)
    plan = chain(of, [[t] for t in times.unbind(1)], noisy_context=True)
    entity = plan.slots["entity"]
    assert len(plan) == 4 and torch.equal(plan.mask(plan.all()), entity[:, None] >= entity)
    level = plan.all().level
    assert level is not None and torch.equal(level, times[:, entity])


def test_a_cached_step_needs_no_mask_and_the_clean_step_enters_once() -> None:
    of = entities("cell", 4)
    plan = chain(of, levels(of, (1.0, 0.5, 0.2)), whole=False)
    for k in range(4):
        own = [s for s in plan.steps if s.phase == "noisy" and s.feed[0] == 4 * k]
        for step in own[1:]:
            view = plan.view(step)
            assert view.mask is None and view.before == 4 * k and view.end == 4 * k + 4 and not view.appended
        if k:
            join = plan.join([plan.steps[own[0].index - 1], own[0]])
            view = plan.view(join)
            assert view.before == 4 * (k - 1) and int(view.keep.sum()) == 4
            # within the join a clean row sees clean ones alone, a noisy row everything
            assert view.mask is not None and view.mask.sum(1).tolist() == [4 * k] * 4 + [4 * k + 4] * 4


def test_levels_belong_to_entities() -> None:
    of = entities("cell", 4)
    assert len(chain(of, [(1.0,), (1.0, 0.5), (1.0,), (1.0,)])) == 4 + 1 + 4
    with pytest.raises(ValueError, match="levels of 2 entities were given for 4"):
        chain(of, [(1.0,), (0.5,)])
