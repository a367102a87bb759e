"""The law of a flow: guidance of velocities, one update a draw, noise by address, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.steps import Step
from nextset.engine.filters import top_k
from nextset.heads.categorical import Categorical
from nextset.heads.velocity import Velocity, VelocityHead, crossing
from nextset.nn.flow import solver
from tests.battery.common import Spy

IMAGES, POSITIONS = torch.tensor([4, 9]), torch.tensor([3, 0, 5])
STEP = Step.make(0, torch.arange(3), torch.arange(3))
SDE, EULER = solver("sde", 5), solver("euler", 4)


def tensors() -> tuple[Tensor, Tensor]:
    """Velocities of two branches of two images, and what is there."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 2, generator=generator), torch.randn(2, 3, 2, generator=generator)


def law(weights: tuple[float | Tensor, ...] = (2.0, -1.0), i: int = 1, steps=SDE) -> Velocity:  # type: ignore[no-untyped-def]
    v, x = tensors()
    return Velocity(v, x).guide(weights, len(weights)).filter([crossing(steps, i)])


def test_a_draw_is_one_update_of_the_guided_velocity() -> None:
    v, x = tensors()
    guided, noise = 2 * v[:2] - v[2:], Noise(0)
    eps = noise.of("step/1").normal(IMAGES, POSITIONS, lanes=2)
    found = law().draw(noise, IMAGES, POSITIONS)
    torch.testing.assert_close(found.value, SDE.update(1, x, guided, eps))
    torch.testing.assert_close(found.trace, x - SDE.times[1] * guided)
    last = law(i=4).draw(noise, IMAGES, POSITIONS)
    assert torch.equal(last.value, SDE.update(4, x, guided)) and torch.equal(last.trace, last.value)  # type: ignore[arg-type]
    flow = law(i=3, steps=EULER).draw(noise, IMAGES, POSITIONS)
    torch.testing.assert_close(flow.value, x - 0.25 * guided)


def test_weights_of_positions_and_of_one_branch() -> None:
    table = (torch.tensor([2.0, 1, 2]), torch.tensor([-1.0, 0, -1]))
    both, mixed, alone = law().velocity, law(table).velocity, law((1.0, 0.0)).velocity
    assert torch.equal(mixed[:, ::2], both[:, ::2]) and torch.equal(mixed[:, 1], alone[:, 1])
    v, x = tensors()
    assert torch.equal(Velocity(v[:2], x).guide([1.0], 1).velocity, alone)


def test_noise_belongs_to_image_position_and_interval() -> None:
    spy = Spy(0)
    law().draw(spy, IMAGES, POSITIONS)
    places = {(i, p) for i in IMAGES.tolist() for p in POSITIONS.tolist()}
    assert spy.seen.keys() == {("/step/1", "normal", i, p, 0) for i, p in places}
    quiet = Spy(0)
    law(i=4).draw(quiet, IMAGES, POSITIONS)
    law(steps=EULER).draw(quiet, IMAGES, POSITIONS)
    assert not quiet.seen, "neither the last interval nor a flow adds any"
    one, two = (law().draw(Noise(0), IMAGES, POSITIONS, attempt=a).value for a in (0, 1))
    assert not torch.equal(one, two)


def test_groups_of_positions_are_drawn_as_together() -> None:
    whole, (one, two) = law(), law().split([1, 2])
    joined = whole.join([one, two])
    draw = lambda law, at: law.draw(Noise(0), IMAGES, at).value  # noqa: E731
    assert torch.equal(draw(joined, POSITIONS), draw(whole, POSITIONS))
    assert torch.equal(draw(two, POSITIONS[1:]), draw(whole, POSITIONS)[:, 1:])
    apart = whole.join([one.filter([crossing(SDE, 2)]), two])
    assert apart.velocity.shape == whole.velocity.shape
    with pytest.raises(ValueError, match="one interval of one solver"):
        draw(apart, POSITIONS)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: law().logp(torch.zeros(2, 3, 2)), "draws tokens without knowing how likely"),
        (lambda: law().raw, "use candidates=1"),
        (lambda: law().filter([top_k(3)]), "top_k cannot be applied to a law of kind 'velocity'"),
        (lambda: Categorical(torch.zeros(1, 1, 4)).filter([crossing(SDE, 0)]), "a law of kind 'categorical'"),
    ],
)
def test_what_it_cannot_do_is_said_by_name(do, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NextsetError, match=message) as error:
        do()
    assert "\n" not in str(error.value)


def test_the_head_is_linear_and_exact() -> None:
    head, h, x = VelocityHead(8, 2), torch.randn(4, 3, 8), torch.randn(2, 3, 2)
    made = head.dist((h.bfloat16(),), STEP, (x, None))
    assert made.velocity.dtype == torch.float32 and made.now is x
    torch.testing.assert_close(head.dist((h,), STEP, (x, None)).velocity, head.output(h))
