"""The categorical law and its softmax head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.core.noise import Noise, Tape
from nextset.core.steps import Step
from nextset.engine.filters import top_k, top_p
from nextset.heads.categorical import Categorical, Softmax

G = torch.Generator().manual_seed(0)
STEP = Step.make(0, torch.arange(3), torch.arange(3))


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def drawn(law: Categorical, u: torch.Tensor) -> torch.Tensor:
    return law.draw(Tape({"": u}), torch.arange(u.shape[0]), torch.arange(u.shape[1])).value


@settings(deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 9), st.integers(0, 9), st.floats(0, 1, exclude_max=True, width=32))
def test_a_draw_is_an_inverse_cdf_over_ascending_ids(seed, vocabulary, k, u):
    raw = torch.randn(1, 1, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    law = Categorical(raw).filter([top_k(k)])
    found = int(drawn(law, torch.tensor([[u]])))
    p = law.probs[0, 0]
    above = [i for i, total in enumerate(p.cumsum(-1)) if total > u]
    last = int((p > 0).nonzero().max())  # where the sum ends below u by rounding
    assert found == min([*above, last]) and p[found] > 0


def test_the_last_id_with_mass_is_the_last_that_is_drawn():
    raw = torch.tensor([[[0.0, 0.0, 0.0, -torch.inf]]])
    assert int(drawn(Categorical(raw), torch.tensor([[1 - 2**-24]]))) == 2
    assert int(drawn(Categorical(raw), torch.tensor([[0.0]]))) == 0


def test_frequencies_follow_the_law():
    law = Categorical(torch.log(torch.tensor([0.5, 0.3, 0.2])).expand(1, 20000, 3))
    ids = law.draw(Noise(0), torch.zeros(1, dtype=torch.int64), torch.arange(20000)).value
    found = torch.bincount(ids[0], minlength=3) / 20000
    torch.testing.assert_close(found, torch.tensor([0.5, 0.3, 0.2]), atol=0.012, rtol=0)


def test_guidance_folds_branches():
    rows = logits(6, 4, 5)
    with_, without, third = rows.split(2)
    law = Categorical(rows).guide([2.0, -1.0, 0.5], 3)
    torch.testing.assert_close(law.logits, 2 * with_ - without + 0.5 * third)
    per_position = torch.tensor([1.0, 2.0, 3.0, 4.0])
    law = Categorical(rows[:4]).guide([per_position, 1 - per_position], 2)
    torch.testing.assert_close(law.logits, with_ * per_position[:, None] + without * (1 - per_position)[:, None])
    alone = Categorical(rows).guide([1], 1)
    assert torch.equal(alone.logits, rows) and alone.logits.data_ptr() == rows.data_ptr(), (
        "one branch of weight 1 is not copied"
    )


def test_probabilities_are_those_of_the_filtered_law():
    law = Categorical(logits(2, 3, 6)).filter([top_k(4), top_p(0.9)])
    ids = law.draw(Noise(0), torch.arange(2), torch.arange(3)).value
    torch.testing.assert_close(law.probs.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(law.logp(ids), law.probs.gather(-1, ids[..., None])[..., 0].log())
    removed = law.logits.isinf().to(torch.uint8).argmax(-1)
    assert (law.logp(removed) == -torch.inf).all()


def test_split_and_join():
    law = Categorical(logits(2, 7, 5)).filter([top_k(3)])
    parts = law.split([1, 4, 2])
    assert [p.logits.shape[1] for p in parts] == [1, 4, 2]
    again = law.join(parts)
    assert torch.equal(again.logits, law.logits) and torch.equal(again.raw, law.raw)


def test_noise_is_addressed_by_image_and_position():
    law = Categorical(logits(3, 4, 50))
    images, positions = torch.tensor([4, 0, 9]), torch.tensor([3, 1, 8, 2])
    ids = law.draw(Noise(7), images, positions).value
    swapped = (
        Categorical(law.logits[[2, 0, 1]][:, [1, 0, 2, 3]])
        .draw(Noise(7), images[[2, 0, 1]], positions[[1, 0, 2, 3]])
        .value
    )
    assert torch.equal(swapped, ids[[2, 0, 1]][:, [1, 0, 2, 3]])
    each = law.draw(Noise(7), images, positions.expand(3, -1)).value
    assert torch.equal(each, ids), "an order of one's own is the same as a shared one"
    assert not torch.equal(law.draw(Noise(7), images, positions, attempt=1).value, ids)
    mixed = law.draw(Noise(7), images, positions, attempt=torch.tensor([0, 1, 0])).value
    assert torch.equal(mixed[[0, 2]], ids[[0, 2]]) and not torch.equal(mixed[1], ids[1])


def test_a_draw_asks_for_no_mixture_and_no_logp():
    found = Categorical(logits(1, 2, 4)).draw(Noise(0), torch.arange(1), torch.arange(2))
    assert found.mix is None and found.logp is None and found.value.dtype == torch.int64


# ---- head


def test_the_head_is_a_linear_layer_in_float32():
    head = Softmax(6, 5)
    with torch.no_grad():
        head.bias.normal_(generator=G)
    h = torch.randn(2, 3, 6, generator=G)
    expected = h @ head.weight.T + head.bias
    torch.testing.assert_close(head.dist((h,), STEP).logits, expected)
    assert head.keeps_float32


@pytest.mark.parametrize(
    "context, close", [(torch.autocast("cpu", dtype=torch.bfloat16), 2e-2), (torch.no_grad(), 1e-6)]
)
def test_logits_are_float32_whatever_the_trunk_runs_in(context, close):
    head, h = Softmax(6, 5), torch.randn(2, 3, 6, generator=G).bfloat16()
    with context:
        found = head.logits(h)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, h.float() @ head.weight.T + head.bias, atol=close, rtol=close)


def test_gradients_reach_the_head_and_what_is_before_it():
    head, h = Softmax(6, 5), torch.randn(2, 3, 6, generator=G, requires_grad=True)
    head.dist((h,), STEP).logp(torch.ones(2, 3, dtype=torch.int64)).mean().backward()
    for t in (h, head.weight, head.bias):
        assert t.grad is not None and t.grad.abs().sum() > 0
