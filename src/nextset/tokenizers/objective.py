"""What a tokenizer is trained for, apart from its own quantiser terms: pictures that look like the given ones.

Pixel terms, a perceptual term and, from some step on, a critic. Every tokenizer hands its reconstruction over and gets
the Updates back, so that the game is written once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.configs import Config
from nextset.core.update import Update
from nextset.nn.critics import PatchCritic, critic_hinge, generator_hinge
from nextset.nn.losses import gradient_loss, psnr
from nextset.nn.perceptual import Lpips, RandomFeatures


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig(Config):
    """Weights of the terms, the critic, and how a codebook is kept alive.

    l1, l2, gradient: pixel terms. perceptual: `RandomFeatures`, which needs no download. lpips: LPIPS, with the files
    lpips_vgg and lpips_heads. vq: the quantiser's terms.
    adversarial: weight of the critic's opinion from step `critic_start` on, relative to the other terms' gradient at the
    decoder's last layer where `adaptive`; the critic has `critic_channels` and `critic_layers`, and itself learns from
    step `critic_start` - `critic_ahead` on, so that its first opinion is worth something.
    revive_every: steps between replacements of codes whose mean hits a step lie under `revive_below`, until step
    `revive_until`.
    """

    l1: float = 1.0
    l2: float = 0.0
    gradient: float = 0.5
    perceptual: float = 0.0
    lpips: float = 0.0
    lpips_vgg: str = ""
    lpips_heads: str = ""
    vq: float = 1.0
    adversarial: float = 0.0
    adaptive: bool = True
    critic_start: int = 0
    critic_ahead: int = 0
    critic_channels: int = 64
    critic_layers: int = 2
    revive_every: int = 100
    revive_below: float = 0.03
    revive_until: int = 1_000_000

    def check(self) -> None:
        for name in ("l1", "l2", "gradient", "perceptual", "lpips", "vq", "adversarial"):
            self.require(name, 0 <= getattr(self, name) < 1e6, "at least 0 (and finite)")
        self.require("revive_every", self.revive_every >= 1, "at least 1")
        for name in ("critic_start", "critic_ahead"):
            self.require(name, getattr(self, name) >= 0, "at least 0")
        channels = self.critic_channels
        self.require("critic_channels", 8 <= channels <= 1024 and channels % 8 == 0, "a multiple of 8, 8 to 1024")
        self.require("critic_layers", 1 <= self.critic_layers <= 5, "between 1 and 5")
        files = bool(self.lpips_vgg and self.lpips_heads)
        self.require("lpips", files or not self.lpips, "0 unless lpips_vgg and lpips_heads name their files")


class Objective(nn.Module):
    """The terms of an `ObjectiveConfig`, with the networks that they need. The critic is its one trainable part."""

    def __init__(self, config: ObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.features = RandomFeatures() if config.perceptual else None
        self.lpips = Lpips(config.lpips_vgg, config.lpips_heads) if config.lpips else None
        self.critic = PatchCritic(config.critic_channels, config.critic_layers) if config.adversarial else None

    def parameter_groups(self) -> dict[str, nn.Module]:
        """The group of the critic, if there is one."""
        return {} if self.critic is None else {"critic": self.critic}

    def reconstruction(self, output: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted pixel and perceptual terms and their parts, with the PSNR in dB; both (B, 3, H, W)."""
        c = self.config
        terms = {
            "l1": (c.l1, (output - images).abs().mean()),
            "l2": (c.l2, (output - images).square().mean()),
            "gradient": (c.gradient, gradient_loss(output, images)),
        }
        if self.features is not None:
            terms["perceptual"] = (c.perceptual, self.features(output, images))
        if self.lpips is not None:
            terms["lpips"] = (c.lpips, self.lpips(output, images))
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        parts = {name: value.detach() for name, (weight, value) in terms.items() if weight}
        return loss, {**parts, "psnr": psnr(output.detach().clamp(-1, 1), images).mean()}

    def updates(
        self, output: Tensor, images: Tensor, step: int, *, last: Tensor, quantiser: Tensor, parts: dict[str, Tensor]
    ) -> Iterator[Update]:
        """The tokenizer's Update, then the critic's.

        output: the reconstruction (B, 3, H, W) with its graph. last: the weight that makes the pixels, where the
        gradients of both sides are compared. quantiser: the quantiser's weighted loss. parts: what else is logged.
        """
        c = self.config
        loss, own = self.reconstruction(output, images)
        total = loss + quantiser
        playing = self.critic is not None and step >= c.critic_start
        if playing:
            opinion = generator_hinge(self.critic(output))  # type: ignore[misc]
            weight = c.adversarial * (self._balance(loss, opinion, last) if c.adaptive else 1.0)
            total = total + weight * opinion
            own |= {"adversarial": opinion.detach(), "adversarial_weight": torch.as_tensor(weight)}
        yield Update("tokenizer", total, {**own, **parts})
        if self.critic is not None and step >= c.critic_start - c.critic_ahead:
            real, made = self.critic(images), self.critic(output.detach())
            scores = {"real": real.detach().mean(), "made": made.detach().mean()}
            yield Update("critic", critic_hinge(real, made), scores, group="critic")

    @staticmethod
    def _balance(loss: Tensor, opinion: Tensor, last: Tensor) -> Tensor:
        """|gradient of the loss| / |gradient of the opinion| at the last layer, at most 10,000: Esser et al. 2021
        (VQGAN), section 3.1."""
        gradients = [torch.autograd.grad(x, last, retain_graph=True)[0] for x in (loss, opinion)]
        a, b = (processes.mean(g).norm() for g in gradients)  # of the whole batch
        return (a / (b + 1e-6)).clamp(0, 1e4).detach()
