"""Decay groups, clipping, optimiser state by name, the mean of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nextset.training.ema import Ema
from nextset.training.optim import (
    adamw,
    clip_gradients,
    decay_groups,
    load_optimizer_tensors,
    optimizer_tensors,
    set_rates,
)

from .toys import Line


def test_decay_groups():
    model = Line()
    decay, rest = decay_groups(model.named_parameters(), ("outer",))
    assert decay["names"] == ["inner.0.weight"] and decay["decay"]
    assert rest["names"] == ["inner.0.bias", "inner.1.weight", "inner.1.bias", "outer.weight", "outer.bias"]


def test_weight_decay_shrinks_only_what_decays():
    model = nn.Linear(3, 3)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = adamw(decay_groups(model.named_parameters()), 0.1, (0.9, 0.95), 1e-8)
    set_rates(optimizer, 0.1, 0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(model.weight, before[0] * 0.95)
    torch.testing.assert_close(model.bias, before[1])


@pytest.mark.parametrize("limit", [0.0, 1.0, 100.0])
def test_clipping(limit):
    parameters = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[2].grad = torch.tensor([2.0, 0.0, 1.0]), torch.tensor([2.0])
    norm, each = clip_gradients(parameters, limit)
    assert float(norm) == pytest.approx(3.0)
    assert each.tolist() == pytest.approx([5**0.5, 0.0, 2.0])
    after = torch.cat([parameters[0].grad, parameters[2].grad]).norm()
    assert float(after) == pytest.approx(1.0 if limit == 1.0 else 3.0, rel=1e-5)
    assert parameters[1].grad is None


def test_clipping_without_gradients():
    norm, each = clip_gradients([nn.Parameter(torch.zeros(3))], 1.0)
    assert float(norm) == 0.0 and each.tolist() == [0.0]


def test_optimizer_state_by_name():
    model, other = Line(), Line()
    one, two = (adamw(decay_groups(m.named_parameters()), 0.1, (0.9, 0.95), 1e-8) for m in (model, other))
    model.outer.weight.grad = torch.ones(1, 8)
    one.step()
    tensors = optimizer_tensors(one)
    assert set(tensors) == {"outer.weight/step", "outer.weight/exp_avg", "outer.weight/exp_avg_sq"}
    load_optimizer_tensors(two, tensors)
    state = two.state[other.outer.weight]
    assert float(state["step"]) == 1 and torch.equal(state["exp_avg"], one.state[model.outer.weight]["exp_avg"])
    with pytest.raises(KeyError):
        load_optimizer_tensors(two, {"elsewhere/step": torch.zeros(())})


def test_ema():
    model = Line()
    ema = Ema(model, 0.5)
    weight = model.outer.weight.detach().clone()
    with torch.no_grad():
        model.outer.weight += 1
        model.inner[1].running_mean += 5
    ema.update()
    decay = 2 / 11  # warm-up: (1 + n) / (10 + n) at n = 1
    mean = ema.means()["outer.weight"].clone()
    torch.testing.assert_close(mean, weight + 1 - decay)
    with ema.swapped() as swapped:
        assert torch.equal(swapped.outer.weight, mean)
    assert torch.equal(model.outer.weight, ema.model.outer.weight) and not torch.equal(model.outer.weight, mean)
    state = ema.state()
    assert state.keys() == model.state_dict().keys()
    assert torch.equal(state["outer.weight"], mean)
    assert float(state["inner.1.running_mean"][0]) == 5.0
    for _ in range(200):
        ema.update()
    torch.testing.assert_close(ema.means()["outer.weight"], model.outer.weight.detach())
    with pytest.raises(KeyError):
        ema.load({"x": torch.zeros(1)}, 1)
