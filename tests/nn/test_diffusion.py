"""Tables of a diffusion process, fewer steps of it, its sampler against laws that are known, its bound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.nn.diffusion import Process, cosine, cosine_strided, respacing

TEXTS = ["", "100", "10", "ddim25", "10,15,20", "3,1", "2"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("4", [0, 333, 666, 999]),
        ("3,1", [0, 250, 499, 500]),
        ("ddim4", [0, 250, 500, 750]),
        ("ddim250", list(range(0, 1000, 4))),
        ("1,1,1", [0, 334, 667]),
        ("1000", list(range(1000))),
        ("", list(range(1000))),
    ],
)
def test_which_steps_are_kept(text: str, kept: list[int]) -> None:
    assert respacing(text) == kept


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "inner steps are 'fast', but must be a number"),
        ("ddim", "gives nothing of them"),
        ("ddim7x", "'ddimN' for a fixed stride"),
        ("ddim700", "no whole stride over 1000 steps gives 700"),
        ("10,,5", "numbers for equal sections"),
        ("0", "a number"),
        ("-5", "a number"),
        ("1001", "a section of 1000 steps cannot give 1001"),
        ("400,600", "a section of 500 steps cannot give 600"),
        ("1", "at least 2 steps"),
    ],
)
def test_other_words_are_refused_with_the_grammar(text: str, message: str) -> None:
    with pytest.raises(NextsetError, match=message) as error:
        respacing(text)
    assert "ddimN" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", TEXTS)
def test_fewer_steps_are_the_same_process_at_these_steps(text: str) -> None:
    whole, few = cosine(), cosine(text)
    assert few.betas.dtype == torch.float64 and bool(((few.betas > 0) & (few.betas < 1)).all())
    torch.testing.assert_close(few.alphas, whole.alphas[few.timesteps], rtol=1e-9, atol=1e-15)
    # E x_{t-1} given x_t and x_0 keeps the law of x_{t-1}: its factors make sqrt(a_{t-1}) of sqrt(a_t)
    found = few.of_clean + few.of_noisy * few.alphas.sqrt()
    torch.testing.assert_close(found, few.before.sqrt(), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("count", [2, 5, 37, 50, 350, 1000])
def test_a_stride_gives_any_number_of_steps_and_never_begins_far_from_noise(count: int) -> None:
    steps = cosine_strided(count).timesteps.tolist()
    assert len(steps) == count and steps[0] == 0 and steps[-1] == (count - 1) * 1000 // count
    assert {b - a for a, b in itertools.pairwise(steps)} <= {1000 // count, 1000 // count + 1}
    if 1000 % count == 0:
        assert steps == respacing(f"ddim{count}")


def test_tables_stay_in_memory_when_a_model_is_built_without() -> None:
    with torch.device("meta"):
        process = cosine("17")
    assert process.alphas.device.type == "cpu"


def oracle(process: Process, mean: float, std: float):  # type: ignore[no-untyped-def]
    """What the best network says of data that are normal, with the variance of the exact transition where std = 0."""
    level = dict(zip(process.timesteps.tolist(), process.alphas.tolist(), strict=True))

    def predict(x: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        a = level[t]
        return (x - math.sqrt(a) * mean) * math.sqrt(1 - a) / (a * std**2 + 1 - a), torch.full_like(x, -1.0)

    return predict


@pytest.mark.parametrize("text", ["2", "20", "ddim25"])
def test_a_single_value_is_found_from_any_noise(text: str) -> None:
    process, generator = cosine(text), torch.Generator().manual_seed(0)
    x = torch.randn(50, 3, generator=generator)
    found, trace = process.sample(x, oracle(process, 0.7, 0.0), lambda i: torch.randn(50, 3, generator=generator))
    torch.testing.assert_close(found, torch.full_like(found, 0.7), atol=2e-4, rtol=0)
    assert torch.equal(trace.mean, found)


def test_a_normal_law_is_sampled_with_its_spread() -> None:
    process, generator = cosine("100"), torch.Generator().manual_seed(0)
    draw = lambda i: torch.randn(4000, 1, generator=generator)  # noqa: E731
    found, _ = process.sample(draw(0), oracle(process, -1.0, 0.5), draw)
    assert abs(float(found.mean()) + 1) < 0.03 and abs(float(found.std()) - 0.5) < 0.03
    cold, trace = process.sample(draw(0), oracle(process, -1.0, 0.5), draw, temperature=0.5)
    assert float(cold.std()) < 0.85 * float(found.std()) and bool((trace.std > 0).all())


def test_the_trace_adds_up_what_every_transition_but_the_last_spread() -> None:
    process = cosine("5")
    asked: list[int] = []

    def noise(i: int) -> torch.Tensor:
        asked.append(i)
        return torch.zeros(2, 1)

    _, trace = process.sample(torch.ones(2, 1), lambda x, t: (x, torch.full_like(x, 1.0)), noise)
    assert asked == [0, 1, 2, 3], "the last transition adds no noise"
    expected = 0.5 * process.betas[1:].log().sum()
    torch.testing.assert_close(trace.log_std, expected.float().expand(2, 1))
    torch.testing.assert_close(trace.std, process.betas[0].sqrt().float().expand(2, 1))


def test_the_bound_is_zero_for_the_true_transition_and_grows_with_a_wrong_one() -> None:
    process, generator = cosine(), torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 64, 4, generator=generator)
    k = torch.arange(1, 65) * 3
    x = process.noisy(x0, k, noise)
    exact = process.bound(x0, x, k, noise, torch.full_like(x0, -1.0))
    torch.testing.assert_close(exact, torch.zeros(64), atol=2e-3, rtol=0)
    wide = process.bound(x0, x, k, noise, torch.full_like(x0, 9.0))  # far beyond the upper bound
    assert bool((wide > exact).all())
    assert bool((process.bound(x0, x, k, noise + 0.5, torch.full_like(x0, -1.0)) > exact).all())


def test_the_first_step_is_scored_in_bins_that_add_up_to_one() -> None:
    process = cosine()
    levels = torch.arange(256) / 127.5 - 1
    k, v = torch.zeros(256, dtype=torch.int64), torch.zeros(256, 1)
    x = torch.full((256, 1), 0.1)
    bits = process.bound(levels[:, None], x, k, torch.zeros(256, 1), v)
    assert abs(float((2**-bits).sum()) - 1) < 1e-3 and int(bits.argmin()) == round((0.1 + 1) * 127.5)
