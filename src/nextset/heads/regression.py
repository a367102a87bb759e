"""A head that guesses each continuous token: one call, one answer, trained by the squared error.

What the diffusion head is compared with. It can do no better than the mean of the tokens that are possible, so that it
draws nothing that has several modes. Its network is that of the diffusion head, which is shown no token and no time: both
have the same weights. Source: sheet `mar`, Miniature claim.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.protocols import NoiseSource
from nextset.core.steps import Step
from nextset.heads.diffusion import TokenDenoiser
from nextset.heads.implicit import Implicit


class Regressed(Implicit):
    """The law that knows one token a position. Guidance sums the guesses."""

    kind = "regression"

    def inner(self, steps: int, strided: bool = False) -> Self:
        raise NextsetError("a regression head guesses a token in one call and has no inner steps; leave head_steps out")

    @torch.no_grad()
    def draw(self, noise: NoiseSource, images: Tensor, positions: Tensor, attempt: int | Tensor = 0) -> Drawn:
        """See `Implicit.draw`; no noise is used. h: hidden states of the first branch."""
        assert self.weights is not None, "guide comes before draw"
        weights = self.weights.to(self.hidden.device)[:, None, :, None]
        rows = self.hidden.flatten(0, -2).split(self.batch)
        guesses = torch.cat([guess(self.net, part) for part in rows]).unflatten(0, self.hidden.shape[:-1])
        return Drawn((guesses * weights).sum(0), h=self.hidden[0])


def guess(net: TokenDenoiser, hidden: Tensor) -> Tensor:
    """Tokens (rows, C) of hidden states (rows, D): what the network says of no token at time 0."""
    nothing, time = hidden.new_zeros(len(hidden), net.channels), hidden.new_zeros(1)
    return net(nothing, time, net.condition(hidden))[:, : net.channels]


class Regression(nn.Module):
    """The head: hidden states to a law, and its loss. Stays float32 when a model is cast."""

    keeps_float32 = True

    def __init__(self, width: int, channels: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.net = TokenDenoiser(width, channels, depth, hidden)

    def dist(self, h: tuple[Tensor, ...], step: Step, now: Any = None) -> Regressed:
        """h: one tap (rows, m, D) -> the law of the m tokens."""
        return Regressed(self.net, h[0].float())

    def loss(
        self, h: Tensor, target: Tensor, noise: NoiseSource, images: Tensor, positions: Tensor, repeats: int = 1
    ) -> tuple[Tensor, Tensor]:
        """(squared error, 0) of each token, (N, m) both, in the place of the diffusion head's; h (N, m, D), target (N, m,
        C). Nothing is noised, so that nothing is repeated."""
        error = (guess(self.net, h.flatten(0, 1)).float() - target.flatten(0, 1)).square().mean(-1)
        return error.unflatten(0, target.shape[:2]), torch.zeros(target.shape[:2], device=target.device)
