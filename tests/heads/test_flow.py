"""The flow head and its law: guidance from a time on, maps apart, noise by address, what is given, what is refused, the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.plans import scale_pyramid
from nextset.heads.categorical import Categorical
from nextset.heads.diffusion import drawn_with
from nextset.heads.flow import Flow, Flowed, followed_with
from nextset.heads.flow_net import FlowNet, Mix
from nextset.nn.flow import solver
from tests.battery.common import Spy, same

IMAGES = torch.tensor([4, 9])
PLAN = scale_pyramid([2, 3])  # 4 + 9 positions
LAST, BOTH = PLAN.steps[1], PLAN.all()
MIXES: tuple[Mix, ...] = ("attention", "cross")


def head(mix: Mix = "attention", **options: Any) -> Flow:
    torch.manual_seed(0)
    return Flow(FlowNet(6, 3, 1, 16, 2, (4, 4), mix=mix, **options)).eval()


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def law(made: Flow, h: Tensor, weights: tuple[float, ...] = (2.0, -1.0), step: Any = LAST, **how: Any) -> Flowed:
    """The law of hidden states (branches * 2, m, 6); how: of `followed_with`, given (2, m) and values (2, m, 3)."""
    m = h.shape[1]
    now = how.pop("values", torch.zeros(2, m, 3)), how.pop("given", torch.zeros(2, m, dtype=torch.bool))
    chain = [followed_with(how.pop("solver", solver("euler", 4)), **how)]
    return made.dist((h,), step, now).guide(weights, len(weights)).filter(chain)


def drawn(law: Flowed, noise: Any = None, images: Tensor = IMAGES, step: Any = LAST) -> Tensor:
    return law.draw(noise or Noise(0), images, step.draw).value


@pytest.mark.parametrize("mix", MIXES)
def test_guidance_is_folded_in_at_every_time_from_one_on(mix: Mix) -> None:
    """Against Euler's method written out, one branch at a time; above the time the first branch is alone."""
    made, h = head(mix), random(4, 9, 6)
    x = Noise(0).normal(IMAGES, LAST.draw, lanes=3).double()
    turn = made.net.turn((3, 3))
    with torch.no_grad():
        for t in (1.0, 0.75, 0.5, 0.25):
            first, second = (made.net(x.float(), t, made.net.know(rows, turn), turn) for rows in h.chunk(2))
            v = 2 * first - second if t <= 0.5 else first
            x = x - 0.25 * v
    torch.testing.assert_close(drawn(law(made, h, guided_below=0.5)), x.float(), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(drawn(law(made, h, guided_below=0.75)), x.float(), atol=1e-3)


def test_a_branch_without_weight_is_never_called() -> None:
    made, h, rows = head(), random(4, 9, 6), list[int]()
    made.net.register_forward_hook(lambda net, given, out: rows.append(len(given[0])))
    alone = drawn(law(made, h[:2], (1.0,)))
    assert torch.equal(drawn(law(made, h, (1.0, 0.0))), alone) and rows == [2] * 8
    drawn(law(made, h, guided_below=0.5))
    assert rows[8:] == [2, 2, 4, 4]


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("batch", [1, 18, 36, 1000])
def test_rows_at_a_time_and_images_at_a_time_change_nothing(mix: Mix, batch: int) -> None:
    made, h = head(mix), random(4, 9, 6)
    whole = drawn(law(made, h))
    assert same(drawn(law(made, h, batch=batch)), whole)
    for i in range(2):
        one = made.dist((h[i::2],), LAST, (torch.zeros(1, 9, 3), torch.zeros(1, 9, dtype=torch.bool)))
        part = one.guide((2.0, -1.0), 2).filter([followed_with(solver("euler", 4), batch=batch)])
        assert same(drawn(part, images=IMAGES[i : i + 1]), whole[i : i + 1])


def test_every_number_belongs_to_image_and_position() -> None:
    spy = Spy(0)
    drawn(law(head(), random(4, 9, 6)), spy)
    assert spy.seen.keys() == {("", "normal", i, p, 0) for i in IMAGES.tolist() for p in LAST.draw.tolist()}
    values = [tuple(v) for v in spy.seen.values()]
    assert len(set(values)) == len(values) and all(len(v) == 3 for v in values)


@pytest.mark.parametrize("mix", MIXES)
def test_maps_of_one_law_are_drawn_apart(mix: Mix) -> None:
    made, h = head(mix), random(4, 13, 6)
    whole = law(made, h, step=BOTH)
    both = drawn(whole, step=BOTH)
    first, second = whole.split([4, 9])
    assert first.maps == ((2, 2),) and second.maps == ((3, 3),)
    assert same(drawn(first, step=PLAN.steps[0]), both[:, :4]) and same(drawn(second), both[:, 4:])
    assert same(drawn(whole.join([first, second]), step=BOTH), both)
    assert same(drawn(law(made, h[:, 4:])), both[:, 4:])
    with pytest.raises(ValueError, match="not in list"):
        whole.split([6, 7])


def test_a_map_that_is_given_is_not_drawn() -> None:
    made, h, calls = head(), random(4, 13, 6), list[int]()
    made.net.register_forward_hook(lambda net, given, out: calls.append(given[0].shape[1]))
    values, given = random(2, 13, 3), torch.zeros(2, 13, dtype=torch.bool)
    given[:, :4] = True
    found = drawn(law(made, h, step=BOTH, values=values, given=given), step=BOTH)
    assert torch.equal(found[:, :4], values[:, :4]) and calls == [9] * 4
    assert same(found[:, 4:], drawn(law(made, h[:, 4:])))


@pytest.mark.parametrize("mix", MIXES)
def test_each_position_has_a_condition_of_its_own_unless_they_are_pooled(mix: Mix) -> None:
    h, other = random(2, 9, 6), random(2, 9, 6)
    other[:, 3] += 1  # moves the mean
    order = torch.tensor([1, 0, *range(2, 9)])
    x = random(2, 9, 3, seed=3)
    for pooled in (False, True):
        net = head(mix, pooled=pooled).net
        turn = net.turn((3, 3))
        with torch.no_grad():
            base, permuted, moved = (net(x, 0.5, net.know(z, turn), turn) for z in (h, h[:, order], other))
        assert not torch.allclose(base, moved, atol=1e-4)
        changed = (base - permuted).abs().amax((0, 2))
        assert bool((changed > 1e-4).any()) == (not pooled or mix == "cross")


def test_positions_of_all_sides_lie_on_one_square() -> None:
    """Attention turns by coordinates: a map of one cell, and the first cell of a larger one, lie at the origin."""
    net = head().net
    for side in ((1, 1), (2, 2), (4, 4)):
        cos, sin = net.turn(side)
        assert torch.equal(cos[0], torch.ones(4)) and torch.equal(sin[0], torch.zeros(4))
    small, large = (torch.cat(net.turn(side), -1) for side in ((2, 2), (4, 4)))
    assert torch.equal(small, large.unflatten(0, (4, 4))[::2, ::2].flatten(0, 1))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda law: law.logp(torch.zeros(2, 9, 3)), "head draws tokens without knowing how likely"),
        (lambda law: law.filter([drawn_with()]), "inner steps cannot be given to a law of kind 'flow'"),
        (lambda law: followed_with(solver("euler", 4), 1.5), "guidance_interval is 1.5, but must be between 0 and 1"),
        (lambda law: followed_with(solver("euler", 4), batch=0), "head_batch is 0"),
        (lambda law: law.inner(0), "num_steps is 0"),
        (lambda law: Categorical(torch.zeros(1, 1, 4)).filter([followed_with(solver("euler", 4))]), "'categorical'"),
    ],
)
def test_what_it_cannot_do_is_said_by_name(do: Any, message: str) -> None:
    with pytest.raises(NextsetError, match=message) as error:
        do(law(head(), random(4, 9, 6)))
    assert "\n" not in str(error.value)


def test_the_loss_is_that_of_each_map_at_a_time_of_its_own() -> None:
    made, h, target, noise = head(), random(2, 13, 6), random(2, 13, 3, seed=2), Noise(0)
    each = made.loss(h, target, BOTH, noise, IMAGES)
    t = noise.of("t").uniform(IMAGES, torch.arange(2))
    eps = noise.of("noise").normal(IMAGES, BOTH.draw, lanes=3)
    for k, (side, rows) in enumerate((((2, 2), slice(0, 4)), ((3, 3), slice(4, 13)))):
        turn, time = made.net.turn(side), t[:, k]
        x = (1 - time[:, None, None]) * target[:, rows] + time[:, None, None] * eps[:, rows]
        v = made.net(x, time, made.net.know(h[:, rows], turn), turn)
        torch.testing.assert_close(each[k], (v - (eps - target)[:, rows]).square().mean())
    flipped = made.loss(h.flip(0), target.flip(0), BOTH, noise, IMAGES.flip(0))
    torch.testing.assert_close(flipped, each)
