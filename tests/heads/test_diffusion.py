"""The implicit law and the diffusion head: guidance inside the chain, noise by address, what is refused, the loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.steps import Step
from nextset.engine.filters import temperature, top_k
from nextset.heads.categorical import Categorical
from nextset.heads.diffusion import Diffused, Diffusion, drawn_with
from nextset.nn.diffusion import cosine
from tests.battery.common import Spy

IMAGES, POSITIONS = torch.tensor([4, 9]), torch.tensor([[0, 3, 5], [7, 1, 2]])
STEP = Step.make(0, torch.arange(3), torch.arange(3))


@pytest.fixture(scope="module")
def head() -> Diffusion:
    torch.manual_seed(0)
    made = Diffusion(6, 3, 2, 16)
    for parameter in made.parameters():
        parameter.data.add_(torch.randn(parameter.shape) * 0.1)
    return made


@pytest.fixture
def h() -> Tensor:
    return torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(1))  # two branches of two images


def law(head: Diffusion, h: Tensor, weights: tuple[float, ...] = (2.0, -1.0), **how: object) -> Diffused:
    chain = [drawn_with(**{"inner_steps": "4", **how})]  # type: ignore[arg-type]
    return head.dist((h,), STEP).guide(weights, len(weights)).filter(chain)


def drawn(law: Diffused, noise: Noise | None = None, rows: slice = slice(None)) -> Tensor:
    return law.draw(noise or Noise(0), IMAGES[rows], POSITIONS[rows]).value


def test_guidance_is_folded_in_at_every_inner_call(head: Diffusion, h: Tensor) -> None:
    """Against the chain written out, one branch at a time."""
    process, net, noise = cosine("4"), head.net, Noise(0)
    x = noise.normal(IMAGES, POSITIONS, lanes=3)
    with torch.no_grad():
        for i, k in enumerate((3, 2, 1, 0)):
            t = process.timesteps[k : k + 1]
            first, second = (net(x.flatten(0, 1), t, net.condition(rows.flatten(0, 1))) for rows in h.chunk(2))
            epsilon = (2 * first - second)[:, :3].view_as(x)
            log = process.learned_log_variance(first[:, 3:].view_as(x), k)
            x = process.mean(process.clean(x, k, epsilon), x, k)
            if k:
                x = x + (0.5 * log).exp() * noise.of(f"step/{i}").normal(IMAGES, POSITIONS, lanes=3)
    torch.testing.assert_close(drawn(law(head, h)), x, atol=1e-5, rtol=1e-5)


def test_weights_of_positions_and_of_one_branch(head: Diffusion, h: Tensor) -> None:
    same = drawn(law(head, h, (torch.tensor([2.0, 2, 2]), torch.tensor([-1.0, -1, -1]))))  # type: ignore[arg-type]
    torch.testing.assert_close(same, drawn(law(head, h)))
    torch.testing.assert_close(drawn(law(head, h, (1.0, 0.0))), drawn(law(head, h[:2], (1.0,))), atol=1e-5, rtol=1e-5)
    mixed = drawn(law(head, h, (torch.tensor([2.0, 1, 2]), torch.tensor([-1.0, 0, -1]))))  # type: ignore[arg-type]
    torch.testing.assert_close(mixed[:, ::2], same[:, ::2])
    torch.testing.assert_close(mixed[:, 1], drawn(law(head, h, (1.0, 0.0)))[:, 1])


@pytest.mark.parametrize("numbers", [1, 40, 10**6])
def test_noise_is_drawn_in_blocks_of_any_size(
    head: Diffusion, h: Tensor, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drawn(law(head, h))
    calls: list[int] = []
    normals = Noise.normals

    def counted(self: Noise, purposes: list[str], *address: Tensor, **how: int) -> Tensor:
        calls.append(len(purposes))
        return normals(self, purposes, *address, **how)

    monkeypatch.setattr("nextset.heads.diffusion._AHEAD", numbers)
    monkeypatch.setattr(Noise, "normals", counted)
    assert torch.equal(drawn(law(head, h)), whole)
    assert calls == {1: [1, 1, 1], 40: [2, 1], 10**6: [3]}[numbers], "18 numbers a transition, and three that need them"


@pytest.mark.parametrize("batch", [1, 5, 12, 1000])
def test_rows_at_a_time_and_images_at_a_time_change_nothing(head: Diffusion, h: Tensor, batch: int) -> None:
    whole = drawn(law(head, h))
    torch.testing.assert_close(drawn(law(head, h, batch=batch)), whole, atol=1e-5, rtol=1e-5)
    for i in range(2):
        part = drawn(law(head, h[i::2], batch=batch), rows=slice(i, i + 1))
        torch.testing.assert_close(part, whole[i : i + 1], atol=1e-5, rtol=1e-5)


def test_every_number_belongs_to_image_position_and_inner_step(head: Diffusion, h: Tensor) -> None:
    spy = Spy(0)
    drawn(law(head, h), spy)
    places = {(i, p) for i, own in zip(IMAGES.tolist(), POSITIONS.tolist(), strict=True) for p in own}
    expected = {(purpose, "normal", i, p, 0) for i, p in places for purpose in ("", "/step/0", "/step/1", "/step/2")}
    assert spy.seen.keys() == expected
    values = [tuple(v) for v in spy.seen.values()]
    assert len(set(values)) == len(values) and all(len(v) == 3 for v in values)
    again = law(head, h).draw(Noise(0), IMAGES, POSITIONS, attempt=1).value
    assert not torch.equal(again, drawn(law(head, h)))


def test_groups_of_positions_are_drawn_as_together(head: Diffusion, h: Tensor) -> None:
    whole = law(head, h, temperature=0.5)
    parts = whole.split([1, 2])
    torch.testing.assert_close(drawn(whole.join(parts)), drawn(whole))
    alone = parts[1].draw(Noise(0), IMAGES, POSITIONS[:, 1:]).value
    torch.testing.assert_close(alone, drawn(whole)[:, 1:], atol=1e-5, rtol=1e-5)
    other = whole.join([parts[0].filter([drawn_with("4", 1.0)]), parts[1]])
    torch.testing.assert_close(drawn(other)[:, 1:], drawn(whole)[:, 1:])
    assert not torch.equal(drawn(other)[:, 0], drawn(whole)[:, 0])


def test_temperature_scales_what_is_injected_and_not_what_it_begins_with(head: Diffusion, h: Tensor) -> None:
    class First(Noise):
        """One seed for the first noise, another for what is injected."""

        def __init__(self, seeds: tuple[int, int], purpose: str = "") -> None:
            super().__init__(seeds[bool(purpose)], purpose)
            self.seeds = seeds

        def of(self, purpose: str) -> First:
            return First(self.seeds, purpose)

    cold = law(head, h, temperature=0.0)
    assert torch.equal(drawn(cold, First((0, 1))), drawn(cold, First((0, 2))))
    assert not torch.equal(drawn(cold, First((0, 1))), drawn(cold, First((3, 1))))
    warm = law(head, h)
    assert not torch.equal(drawn(warm, First((0, 1))), drawn(warm, First((0, 2))))


def test_a_draw_says_what_it_was_made_of(head: Diffusion, h: Tensor) -> None:
    found = law(head, h).draw(Noise(0), IMAGES, POSITIONS)
    assert torch.equal(found.h, h[:2]) and found.logp is None
    assert torch.equal(found.trace.mean, found.value) and bool((found.trace.std > 0).all())  # type: ignore[attr-defined]
    assert found.value.dtype == torch.float32 and not found.value.requires_grad


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda law: law.logp(torch.zeros(2, 3, 3)), "head draws tokens without knowing how likely"),
        (lambda law: law.raw, "head draws tokens without knowing how likely"),
        (lambda law: law.filter([top_k(3)]), "top_k cannot be applied to a law of kind 'implicit'"),
        (lambda law: law.filter([temperature(0.5)]), "temperature cannot be applied to a law of kind 'implicit'"),
        (lambda law: law.filter([drawn_with("many")]), "inner steps are 'many'"),
        (lambda law: law.filter([drawn_with(temperature=-1.0)]), "temperature is -1"),
        (lambda law: law.filter([drawn_with(batch=0)]), "head_batch is 0"),
        (lambda law: Categorical(torch.zeros(1, 1, 4)).filter([drawn_with()]), "a law of kind 'categorical'"),
    ],
)
def test_what_it_cannot_do_is_said_by_name(head: Diffusion, h: Tensor, do, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NextsetError, match=message) as error:
        do(law(head, h))
    assert "\n" not in str(error.value)


def test_the_loss_is_a_function_of_images_positions_and_seed(head: Diffusion, h: Tensor) -> None:
    target = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2))
    mse, bound = head.loss(h[:2], target, Noise(0), IMAGES, POSITIONS, repeats=3)
    assert mse.shape == bound.shape == (2, 3)
    flipped = head.loss(h[:2].flip(0), target.flip(0), Noise(0), IMAGES.flip(0), POSITIONS.flip(0), repeats=3)
    torch.testing.assert_close(flipped[0].flip(0), mse)
    torch.testing.assert_close(flipped[1].flip(0), bound)
    once = head.loss(h[:2], target, Noise(0), IMAGES, POSITIONS)[0]
    assert not torch.allclose(once, mse), "each repeat is noised anew"


def test_the_bound_trains_the_variance_alone(head: Diffusion, h: Tensor) -> None:
    target = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2))
    mse, bound = head.loss(h[:2], target, Noise(0), IMAGES, POSITIONS)
    noise, variance = head.net.output.bias[:3], head.net.output.bias[3:]
    assert noise.shape == variance.shape
    (of_mse,) = torch.autograd.grad(mse.sum(), head.net.output.bias, retain_graph=True)
    (of_bound,) = torch.autograd.grad(bound.sum(), head.net.output.bias)
    assert bool((of_mse[:3] != 0).all()) and bool((of_mse[3:] == 0).all())
    assert bool((of_bound[:3] == 0).all()) and bool((of_bound[3:] != 0).all())
