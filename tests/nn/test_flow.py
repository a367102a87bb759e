"""Flows: the path and its velocity, grids, solvers against laws that are known, what a network is told of the time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.nn.flow import Solver, TimeEmbedding, noised, solver, thousandths, velocity, waves


def normal_law(mean: float, std: float):  # type: ignore[no-untyped-def]
    """The velocity of the best network for data that are normal: E[noise - x_0 | x_t]."""

    def predict(x: Tensor, t: float) -> Tensor:
        variance = ((1 - t) * std) ** 2 + t**2
        off = x - (1 - t) * mean
        return t / variance * off - (mean + (1 - t) * std**2 / variance * off)

    return predict


def draws(rows: int = 4000):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    return lambda i: torch.randn(rows, 1, generator=generator)


def test_the_path_goes_from_data_to_noise_at_its_velocity() -> None:
    x, eps = torch.randn(2, 5, 3)
    t = torch.linspace(0, 1, 5)[:, None]
    path = noised(x, eps, t)
    assert torch.equal(path[0], x[0]) and torch.equal(path[-1], eps[-1])
    torch.testing.assert_close(noised(x, eps, t + 0.5) - path, 0.5 * velocity(x, eps))


@pytest.mark.parametrize("n", [1, 2, 7, 40, 50])
def test_grids(n: int) -> None:
    even = solver("euler", n)
    assert len(even) == even.calls == n and even.times[0] == 1 and even.times[-1] == 0
    assert solver("heun", n).times == even.times and solver("heun", n).calls == 2 * n - 1
    if n >= 3:
        noisy = solver("sde", n)
        assert noisy.calls == n and noisy.times[0] == 1 and noisy.times[-2:] == (0.04, 0.0)
        gaps = -torch.tensor(noisy.times[:-1]).diff()
        torch.testing.assert_close(gaps, torch.full_like(gaps, 0.96 / (n - 1)))
        assert [noisy.noisy(i) for i in range(n)] == [True] * (n - 1) + [False]


@pytest.mark.parametrize("kind", ["euler", "heun"])
def test_a_single_value_is_found_from_any_noise(kind: str) -> None:
    found = solver(kind, 8).sample(draws(50)(0).double(), normal_law(0.7, 0.0))
    torch.testing.assert_close(found, torch.full_like(found, 0.7), atol=1e-9, rtol=0)


def test_the_sde_finds_a_single_value_up_to_the_noise_of_its_last_point() -> None:
    draw = draws(500)
    found = solver("sde", 200).sample(draw(0), normal_law(0.7, 0.0), draw)
    assert abs(float(found.mean()) - 0.7) < 0.01 and 0.03 < float(found.std()) < 0.06


@pytest.mark.parametrize(("kind", "steps"), [("euler", 100), ("heun", 20), ("sde", 200)])
def test_a_normal_law_is_sampled_with_its_spread(kind: str, steps: int) -> None:
    draw = draws()
    found = solver(kind, steps).sample(draw(0), normal_law(-1.0, 0.5), draw)
    assert abs(float(found.mean()) + 1) < 0.03 and abs(float(found.std()) - 0.5) < 0.03
    assert found.dtype == torch.float32


def test_an_error_of_heun_falls_faster_than_one_of_euler() -> None:
    x = draws(20)(0).double()

    def error(kind: str, steps: int) -> float:
        exact = -1 + 0.5 * x  # the flow of a normal law only shifts and scales
        return float((solver(kind, steps).sample(x, normal_law(-1.0, 0.5)) - exact).abs().max())

    assert 1.7 < error("euler", 20) / error("euler", 40) < 2.3
    assert error("heun", 20) / error("heun", 40) > 3.3 and error("heun", 10) < error("euler", 20)


def test_the_sde_forgets_what_it_began_with() -> None:
    """Two chains of one noise and different beginnings end alike; those of a flow do not."""
    law = normal_law(0.0, 1.0)
    one, two = (solver("sde", 100).sample(torch.full((4, 1), start), law, draws(4)) for start in (-1.0, 1.0))
    first, second = (solver("euler", 100).sample(torch.full((4, 1), start), law) for start in (-1.0, 1.0))
    assert float((two - one).abs().max()) < 1 < 1.9 < float((second - first).abs().min())


def test_one_update_is_the_formula() -> None:
    x, v, eps = torch.randn(3, 2, 3, dtype=torch.float64)
    steps = solver("sde", 5)
    t, u = steps.times[1], steps.times[2]
    score = -((1 - t) * v + x) / t
    expected = x + (v - t * score) * (u - t) + math.sqrt(2 * t * (t - u)) * eps
    torch.testing.assert_close(steps.update(1, x, v, eps), expected)
    torch.testing.assert_close(steps.update(4, x, v), x + (x + (2 - 0.04) * v) * -0.04)
    with pytest.raises(ValueError, match="interval 1 of the SDE adds noise"):
        steps.update(1, x, v)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solver("sde", 2), "num_steps is 2, but must be .*3.*'sde' needs at least 3"),
        (lambda: solver("euler", 0), "num_steps is 0"),
        (lambda: solver("eular", 4), "the sampler is 'eular', but must be one of euler, heun, sde; .*euler"),
        (lambda: Solver((1.0,)), "must fall from 1 to 0"),
        (lambda: Solver((1.0, 0.5, 0.5)), "must fall from 1 to 0"),
        (lambda: Solver((1.5, 0.0)), "must fall from 1 to 0"),
        (lambda: Solver((1.0, 0.0), "rk4"), "the sampler is 'rk4'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_followed_is_said_in_a_line(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NextsetError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_network_is_told_the_time_of_a_float32_truncated() -> None:
    told = {0.0: 0, 1.0: 1000, 0.9996: 999, 0.68: 680, 0.56: 560, 0.0009: 0, 0.04: 40}
    assert {t: int(thousandths(torch.tensor(t, dtype=torch.float64))) for t in told} == told
    t = torch.tensor(solver("euler", 50).times[16], dtype=torch.float64)  # 0.68 but for its last bit
    assert int(thousandths(t)) == 680 and int(t * 1000) == 679, "the trap that the cast avoids"


def test_the_embedding_knows_a_time_by_its_thousandth_alone() -> None:
    torch.manual_seed(0)
    embed = TimeEmbedding(8)
    a, b, c = embed(torch.tensor([0.5004, 0.5009, 0.5012]))
    assert torch.equal(a, b) and not torch.equal(b, c)
    assert embed(torch.rand(2, 3)).shape == (2, 3, 8)
    angles = torch.arange(128) / 128
    torch.testing.assert_close(waves(torch.tensor(7)), torch.cat([(7 * 1e4**-angles).cos(), (7 * 1e4**-angles).sin()]))
