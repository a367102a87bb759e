"""The multi-scale residual VQ tokenizer: an image as token maps of growing side.

Encoder -> quantiser -> decoder, three parts that can be used alone. The quantiser explains a feature map scale by
scale: each scale's codes are looked up, resized to full size, smoothed by a small convolution (phi), added to the sum
`f_hat`, and the next scale explains what is left. It is also what a residual-pyramid canvas sums its drawn ids with.

Shapes: images (B, 3, H, W) in [-1, 1]; feature maps (B, C, h, w); ids (B, L) int64, scales one after another from
coarse to fine, raster order inside a scale. Source: Tian et al. 2024 (arXiv 2404.02905), section 3.2 and algorithms 1, 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.configs import Config
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.update import Update
from nextset.nn.autoencoder import AutoencoderConfig, Decoder, Encoder
from nextset.tokenizers.objective import Objective, ObjectiveConfig
from nextset.tokenizers.pyramid import Pyramid
from nextset.tokenizers.quantisers import Codebook, Distance, Usage, revival_order, revive


@dataclasses.dataclass(frozen=True)
class MultiScaleVQConfig(Config):
    """A multi-scale residual VQ tokenizer.

    sides: of the token maps, coarse to fine; the last is that of the feature map at the training resolution.
    phi_ratio: weight of the smoothing convolution against the identity (0 = off). phi_share: 0 = one convolution a
    scale, 1 = one for all, n = n of them shared by neighbours. phi_count: convolutions when phi_share is 0 (None = one
    a scale). beta: weight of the commitment term. sign of `distance`: how the nearest code is found.
    """

    autoencoder: AutoencoderConfig = dataclasses.field(default_factory=AutoencoderConfig)
    vocabulary: int = 4096
    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    distance: Distance = "l2"
    phi_ratio: float = 0.5
    phi_share: int = 4
    phi_count: int | None = None
    beta: float = 0.25
    bottleneck_kernel: int = 3

    def check(self) -> None:
        self.require("vocabulary", 2 <= self.vocabulary <= 2**20, "between 2 and 1048576")
        ok = 1 <= len(self.sides) <= 64 and all(1 <= s <= 512 for s in self.sides)
        self.require("sides", ok, "1 to 64 sides between 1 and 512")
        self.require("sides", list(self.sides) == sorted(self.sides), "in growing order")
        self.require("phi_ratio", abs(self.phi_ratio) <= 1, "between -1 and 1")
        self.require("phi_share", 0 <= self.phi_share <= 64, "between 0 and 64")
        self.require("phi_count", self.phi_count is None or 1 <= self.phi_count <= 64, "between 1 and 64")
        self.require("bottleneck_kernel", self.bottleneck_kernel in (1, 3, 5), "1, 3 or 5")


class Phi(nn.Module):
    """x -> (1 - r) x + r conv3x3(x), with convolutions chosen by the place of a scale between first and last."""

    def __init__(self, channels: int, ratio: float, share: int, count: int) -> None:
        super().__init__()
        self.ratio = abs(ratio)
        convolutions = (share or count) if self.ratio > 1e-6 else 0
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convolutions))

    def index(self, k: int, scales: int) -> int:
        """Convolution of scale k of `scales`. Ties are decided by float64 rounding, as in the released model."""
        n = len(self.convs)
        if n == 1:
            return 0
        edge = 1 / (3 * n) if n == 4 else 1 / (2 * n)
        place = k / (scales - 1) if scales > 1 else 0.0
        return int(np.argmin(np.abs(np.linspace(edge, 1 - edge, n) - place)))

    def forward(self, x: Tensor, k: int, scales: int) -> Tensor:
        if not len(self.convs):
            return x
        return x.mul(1 - self.ratio) + self.convs[self.index(k, scales)](x).mul(self.ratio)


class ResidualQuantiser(nn.Module):
    """A feature map as a sum of scales, each a map of codes. Runs in float32 whatever the rest runs in."""

    keeps_float32 = True
    patch, lanes = 1, None  # a token is one id of one cell

    def __init__(self, config: MultiScaleVQConfig) -> None:
        super().__init__()
        channels = config.autoencoder.latent
        self.channels = self.width = channels
        self.codebook = Codebook(config.vocabulary, channels, config.distance)
        self.phi = Phi(channels, config.phi_ratio, config.phi_share, config.phi_count or len(config.sides))

    def embed(self, ids: Tensor) -> Tensor:
        """ids (B, n) -> raw code vectors (B, n, C)."""
        return self.codebook(ids)

    def mix(self, weights: Tensor) -> Tensor:
        """Weights over the vocabulary (B, n, V) -> mixed code vectors (B, n, C)."""
        return weights @ self.codebook.weight.to(weights.dtype)

    def contribution(self, h: Tensor, k: int, sides: Sequence[tuple[int, int]]) -> Tensor:
        """What scale k adds to f_hat: vectors (B, h_k w_k, C) -> (B, C, h, w), resized bicubically and smoothed."""
        side, full = sides[k], sides[-1]
        maps = h.transpose(1, 2).reshape(h.shape[0], -1, *side)
        if k < len(sides) - 1:
            maps = F.interpolate(maps, size=full, mode="bicubic", align_corners=False)
        return self.phi(maps, k, len(sides))

    @staticmethod
    def shrink(f: Tensor, side: tuple[int, int]) -> Tensor:
        """A feature map (B, C, h, w) at the size of a scale, by area averages; windows overlap where sides do not divide."""
        return f if f.shape[-2:] == side else F.interpolate(f, size=side, mode="area")

    def scales(
        self, f: Tensor, sides: Sequence[tuple[int, int]], targets: Sequence[Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Explain f scale by scale: yields (ids (B, n_k), vectors that were looked up (B, n_k, C), f_hat so far).

        targets: what f_hat should be after each scale, (B, C, h, w) each; f for all of them by default. Gradients flow
        into the codes and phi, never into f.
        """
        if tuple(f.shape[-2:]) != tuple(sides[-1]):
            raise NextsetError(
                f"the feature map is {tuple(f.shape[-2:])}, but the last scale is {tuple(sides[-1])}; give sides that end there"
            )
        f = f.detach()
        rest, f_hat = f, torch.zeros_like(f)
        for k, side in enumerate(sides):
            wanted = rest if targets is None else rest + (targets[k].detach() - f)
            z = self.shrink(wanted, side).flatten(2).transpose(1, 2)
            ids = self.codebook.nearest(z)
            added = self.contribution(self.embed(ids), k, sides)
            f_hat, rest = f_hat + added, rest - added.detach()
            yield ids, z, f_hat


class MultiScaleVQ(Pyramid):
    """The whole tokenizer."""

    config_type = MultiScaleVQConfig
    training_state = ("usage\\..*", "objective\\..*")  # statistics and critic of a training run, not published

    def __init__(self, config: MultiScaleVQConfig, objective: ObjectiveConfig | None = None) -> None:
        super().__init__()
        self.config, self.vocabulary = config, config.vocabulary
        latent, kernel = config.autoencoder.latent, config.bottleneck_kernel
        self.encoder = Encoder(config.autoencoder)
        self.quant_conv = nn.Conv2d(latent, latent, kernel, padding=kernel // 2)
        self.quantiser = ResidualQuantiser(config)
        self.post_quant_conv = nn.Conv2d(latent, latent, kernel, padding=kernel // 2)
        self.decoder = Decoder(config.autoencoder)
        self.usage = Usage(len(config.sides), config.vocabulary)
        self.objective = Objective(objective or ObjectiveConfig())

    def before(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))

    def after(self, f_hat: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(f_hat))

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        own = nn.ModuleList([self.encoder, self.quant_conv, self.quantiser, self.post_quant_conv, self.decoder])
        return {"main": own, **self.objective.parameter_groups()}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Reconstruction + VQ, then the critic where the objective has one. batch: {"images": (B, 3, H, W)}.

        vq = mean over scales of beta |sg(f_hat_k) - t_k|^2 + |f_hat_k - sg(t_k)|^2 with targets t_k, by default f; codes
        that are hardly used are replaced by vectors just seen every `revive_every` steps, from the first step on.
        """
        images = batch["images"]
        goal = self.objective.config
        f = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            f = f.float()
            if self.training and step % goal.revive_every == 0 and step <= goal.revive_until:
                revived = self._revive(f, step, noise)
            else:
                revived = torch.zeros((), device=f.device)
            seen, vq = self.explain(f)
            straight = f + (seen - f).detach()
        output = self.decode_features(straight).float()
        used, perplexity = self.usage.used(), self.usage.perplexity()
        parts = {"vq": vq.detach(), "revived": revived.float()}
        parts |= {f"used_{k}": used[k] for k in range(len(self.sides))}
        parts |= {f"perplexity_{k}": perplexity[k] for k in range(len(self.sides))}
        last = self.decoder.conv_out.weight
        yield from self.objective.updates(output, images, step, last=last, quantiser=goal.vq * vq, parts=parts)

    def explain(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """(f_hat of all scales, the quantiser's loss) of a feature map; hits are recorded."""
        targets = self.targets(f, self.sides)
        loss, f_hat, used = f.new_zeros(()), f, []
        for k, (ids, _, f_hat) in enumerate(self.quantiser.scales(f, self.sides, targets)):
            target = f if targets is None else targets[k]
            loss = loss + self.config.beta * F.mse_loss(target, f_hat.detach()) + F.mse_loss(f_hat, target.detach())
            used.append(ids)
        self.usage.record(used)
        return f_hat, loss / len(self.sides)

    @torch.no_grad()
    def _revive(self, f: Tensor, step: int, noise: Noise) -> Tensor:
        """Replace dead codes by what the scales of this batch, of all processes, would have looked up."""
        tokens = torch.tensor([h * w for h, w in self.sides])
        seen = [z for _, z, _ in self.quantiser.scales(f, self.sides, self.targets(f, self.sides))]
        maps = processes.rows(torch.cat(seen, 1)).split(tokens.tolist(), 1)
        samples = torch.cat([z.reshape(-1, z.shape[-1]) for z in maps])
        # every scale offers equally many vectors, or the finest would make the whole codebook
        counts = tokens.repeat_interleave(tokens * maps[0].shape[0])
        order = revival_order(noise, step, counts).to(f.device)
        return revive(self.quantiser.codebook, self.usage, samples, self.objective.config.revive_below, order)
