"""Ema: a running mean of a model's trainable parameters.

Buffers and frozen parameters are not averaged: under `swapped` and in `state` they are what the model has now.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nextset.training.parallel import laid_out_as, local


class Ema:
    """mean <- d mean + (1 - d) parameter, in float32, with d = min(decay, (1 + n) / (10 + n)) at update n = 1, 2, ...

    The warm-up of d forgets the random start within a few updates, so that means are of use early in a short run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._means: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew at the parameters as they are."""
        self.updates = 0
        self._means = {name: p.detach().float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = [local(p.detach()).float() for p in self._parameters.values()]
        torch._foreach_lerp_([local(mean) for mean in self._means.values()], now, 1.0 - decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """The model with its means as parameters; the trained values return afterwards, bit by bit."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._put(self._means)
        try:
            yield self.model
        finally:
            self._put(kept)

    def state(self) -> dict[str, Tensor]:
        """A state dict of the whole model with the means in it, to be saved as a model."""
        means = {name: self._means[name].to(p.dtype) for name, p in self._parameters.items()}
        return {**self.model.state_dict(), **means}

    def means(self) -> dict[str, Tensor]:
        """The means by parameter name (float32), as `load` wants them."""
        return dict(self._means)

    def load(self, means: dict[str, Tensor], updates: int) -> None:
        """Continue from saved means. Other names than the model's trainable parameters raise KeyError."""
        if means.keys() != self._means.keys():
            raise KeyError(f"means of other parameters: {sorted(means.keys() ^ self._means.keys())[:3]}")
        for name, mean in self._means.items():
            mean.copy_(laid_out_as(mean, means[name]))
        self.updates = updates

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])
