"""Training: gradients reach what an Update steps, noise makes a step repeatable."""

from __future__ import annotations

import copy

import torch

from nextset.core.noise import Noise
from nextset.core.update import Update
from tests.battery.instances import Instance, having


def train_copy(it: Instance) -> torch.nn.Module:
    """The system's model in training mode, with drop path off."""
    model = copy.deepcopy(it.model).train()
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.p = 0.0
    return model


@having("train")
def test_gradients_reach_every_trainable_parameter(it: Instance):
    model = train_copy(it)
    groups = model.parameter_groups()
    reached: dict[str, set[str]] = {}
    for step in range(2):  # a step may train a part of the plan
        for update in model.updates(it.batch(torch.arange(32)), step, Noise(0)):
            assert isinstance(update, Update) and update.group in groups
            assert update.loss.dim() == 0 and torch.isfinite(update.loss)
            assert not any(torch.is_tensor(v) and v.requires_grad for v in update.parts.values()), "parts are detached"
            groups[update.group].zero_grad()
            update.loss.backward()
            names = {
                n for n, p in groups[update.group].named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
            }
            reached.setdefault(update.group, set()).update(names)
    for group, names in reached.items():
        wanted = {n for n, p in groups[group].named_parameters() if p.requires_grad}
        assert wanted - names == set(), f"no gradient in group {group!r}"


@having("train")
def test_a_step_is_a_function_of_its_samples_and_the_noise(it: Instance):
    """The same samples, the same loss; a batch is the mean of its samples whatever their order."""
    model = train_copy(it)

    def losses(samples: torch.Tensor, seed: int = 0) -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([u.loss for u in model.updates(it.batch(samples), 3, Noise(seed))])

    samples = torch.arange(8)
    assert torch.equal(losses(samples), losses(samples))
    torch.testing.assert_close(losses(samples.flip(0)), losses(samples))
    parts = torch.stack([losses(samples[:4]), losses(samples[4:])]).mean(0)
    torch.testing.assert_close(parts, losses(samples))


@having("train")
def test_a_step_of_descent_lowers_the_loss(it: Instance):
    model, batch = train_copy(it), it.batch(torch.arange(8))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    values = []
    for _ in range(3):
        for update in model.updates(batch, 0, Noise(0)):
            optimiser.zero_grad()
            update.loss.backward()
            optimiser.step()
        values.append(float(update.loss.detach()))
    assert values[2] < values[0]


@having("train")
def test_training_leaves_no_memory_behind(it: Instance):
    """Plans cache masks by step: their number must not grow with training steps."""
    counts = []
    for step in range(3):
        with torch.no_grad():
            assert [u for u in it.model.updates(it.batch(torch.arange(2)), step, Noise(0))]
        counts.append(len(it.job(torch.arange(2)).plan._views))
    assert counts[0] == counts[2]
