"""Player: one parameter group of a model with its optimiser. Most models have one player; an adversarial game has two.

It turns losses into gradients of its own parameters and gradients into steps. When to do so is the trainer's business.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.update import Trainable
from nextset.training.finite import Finite
from nextset.training.optim import (
    adamw,
    clip_gradients,
    decay_groups,
    load_optimizer_tensors,
    optimizer_tensors,
    set_rates,
)
from nextset.training.parallel import Whole, laid_out_as
from nextset.training.recipes import TrainConfig


class Player:
    """parameters: names in the model -> trainable parameters. weights: where they are. scale: factor of the learning
    rate. no_decay: parts of names that weight decay leaves out."""

    def __init__(
        self, parameters: dict[str, nn.Parameter], weights: Whole, config: TrainConfig, scale: float,
        no_decay: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.names = list(parameters)
        self.finite = Finite(self.names)
        self._parameters = parameters
        self._own = {name: weights.own(p) for name, p in parameters.items()}
        self._weights, self._clip, self._scale = weights, config.clip, scale
        self._optimizer = adamw(decay_groups(self._own.items(), no_decay), config.lr, config.betas, config.eps)

    @property
    def device(self) -> torch.device:
        return next(iter(self._own.values())).device

    def backward(self, loss: Tensor) -> None:
        """Add the loss' gradient to this player's parameters, and to no other's: a generator's loss goes through the
        critic and leaves nothing there."""
        torch.autograd.backward(loss, inputs=self._weights.leaves(list(self._parameters.values())))

    def reduce(self) -> None:
        """Make the gradient that of the whole batch."""
        self._weights.reduce(list(self._parameters.values()))

    def clip(self) -> tuple[Tensor, Tensor]:
        """(joint norm before clipping, norm of each parameter's gradient), see `clip_gradients`."""
        return clip_gradients(list(self._own.values()), self._clip, self._weights.norms)

    def step(self, lr: float, weight_decay: float) -> None:
        """Follow the gradients and forget them."""
        set_rates(self._optimizer, lr * self._scale, weight_decay)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """Optimiser state, and gradients that wait for a later step (of Updates with apply=False)."""
        gradients = {f"{name}/gradient": p.grad for name, p in self._own.items() if p.grad is not None}
        tensors = {**optimizer_tensors(self._optimizer), **gradients}
        return {key: self._weights.joined(self._parameter(key), tensor) for key, tensor in tensors.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave; KeyError for parameters that are not this player's."""
        parts = {key: self._weights.part(self._parameter(key), tensor) for key, tensor in tensors.items()}
        gradients = {name: parts.pop(f"{name}/gradient", None) for name in self.names}
        load_optimizer_tensors(self._optimizer, parts)
        for name, gradient in gradients.items():
            own = self._own[name]
            own.grad = None if gradient is None else laid_out_as(own, gradient)

    def _parameter(self, key: str) -> nn.Parameter:
        """The one that a tensor "<parameter>/<field>" belongs to."""
        return self._parameters[key.rsplit("/", 1)[0]]


def players(model: nn.Module, weights: Whole, config: TrainConfig) -> dict[str, Player]:
    """The players of a model by the name of their parameter group.

    Frozen parameters play no part; a parameter belongs to the model and to one player. A model may name parameters that
    never decay in an attribute `no_decay`, a tuple of parts of names.
    """
    groups = cast(Trainable, model).parameter_groups()
    for name in config.lr_scale:
        if name not in groups:
            raise NextsetError(f"lr_scale names the group {name!r}, but the model has {', '.join(groups)}")
    names = {parameter: name for name, parameter in model.named_parameters()}
    no_decay = tuple(getattr(model, "no_decay", ()))
    found: dict[str, Player] = {}
    for group, module in groups.items():
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise NextsetError(f"group {group!r} has no parameter to train; unfreeze it or leave it out")
        if not names.keys() >= set(parameters):
            raise ValueError(f"group {group!r} has parameters that are not the model's, or are another group's")
        named = {names.pop(p): p for p in parameters}
        found[group] = Player(named, weights, config, config.lr_scale.get(group, 1.0), no_decay)
    return found
