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
    laid_out_as,
    load_optimizer_tensors,
    optimizer_tensors,
    set_rates,
)
from nextset.training.recipes import TrainConfig


class Player:
    """parameters: names in the model -> trainable parameters. scale: factor of the learning rate. no_decay: parts of
    names that weight decay leaves out."""

    def __init__(
        self, parameters: dict[str, nn.Parameter], config: TrainConfig, scale: float, no_decay: tuple[str, ...]
    ) -> None:
        self.names = list(parameters)
        self.finite = Finite(self.names)
        self._parameters = list(parameters.values())
        self._clip, self._scale = config.clip, scale
        self._optimizer = adamw(decay_groups(parameters.items(), no_decay), config.lr, config.betas, config.eps)

    @property
    def device(self) -> torch.device:
        return self._parameters[0].device

    def backward(self, loss: Tensor) -> None:
        """Add the loss' gradient to this player's parameters, and to no other's: a generator's loss goes through the
        critic and leaves nothing there."""
        torch.autograd.backward(loss, inputs=self._parameters)

    def clip(self) -> tuple[Tensor, Tensor]:
        """(joint norm before clipping, norm of each parameter's gradient), see `clip_gradients`."""
        return clip_gradients(self._parameters, self._clip)

    def step(self, lr: float, weight_decay: float) -> None:
        """Follow the gradients and forget them."""
        set_rates(self._optimizer, lr * self._scale, weight_decay)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """Optimiser state, and gradients that wait for a later step (of Updates with apply=False)."""
        waiting = zip(self.names, self._parameters, strict=True)
        gradients = {f"{name}/gradient": p.grad for name, p in waiting if p.grad is not None}
        return {**optimizer_tensors(self._optimizer), **gradients}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave; KeyError for parameters that are not this player's."""
        load_optimizer_tensors(self._optimizer, {k: v for k, v in tensors.items() if not k.endswith("/gradient")})
        for name, parameter in zip(self.names, self._parameters, strict=True):
            gradient = tensors.get(f"{name}/gradient")
            parameter.grad = None if gradient is None else laid_out_as(parameter, gradient)


def players(model: nn.Module, config: TrainConfig) -> dict[str, Player]:
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
        found[group] = Player({names.pop(p): p for p in parameters}, config, config.lr_scale.get(group, 1.0), no_decay)
    return found
