"""What a tokenizer is trained for, apart from its own quantiser terms: the reconstruction of pixels."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from nextset.core.configs import Config
from nextset.nn.losses import gradient_loss, psnr


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig(Config):
    """Weights of the terms, and how a codebook is kept alive.

    l1, l2, gradient: weights of the pixel terms. vq: weight of the quantiser's terms. revive_every: steps between
    replacements of codes whose mean hits a step lie under `revive_below`, until step `revive_until`.
    """

    l1: float = 1.0
    l2: float = 0.0
    gradient: float = 0.5
    vq: float = 1.0
    revive_every: int = 100
    revive_below: float = 0.03
    revive_until: int = 1_000_000

    def check(self) -> None:
        for name in ("l1", "l2", "gradient", "vq"):
            self.require(name, getattr(self, name) >= 0, "at least 0")
        self.require("revive_every", self.revive_every >= 1, "at least 1")


def reconstruction_loss(
    output: Tensor, images: Tensor, config: ReconstructionConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted pixel terms and their parts, with the PSNR in dB; both arguments (B, 3, H, W), images in [-1, 1]."""
    l1 = (output - images).abs().mean()
    l2 = (output - images).square().mean()
    gradient = gradient_loss(output, images)
    loss = config.l1 * l1 + config.l2 * l2 + config.gradient * gradient
    parts = {
        "l1": l1.detach(),
        "gradient": gradient.detach(),
        "psnr": psnr(output.detach().clamp(-1, 1), images).mean(),
    }
    return loss, parts
