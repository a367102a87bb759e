"""The tokenizer whose scales are independent: an image's feature map at any side, each quantised on its own.

Encoder -> 1x1 convolution -> area resize to a side -> nearest code by cosine; what is looked up is the code at length 1.
A scale is a whole picture, so that any side can be encoded, and decoded without the others. It knows no order of scales.
Source: sheet `flexvar`, Tokenizer (arXiv 2502.20313). The terms and sizes of its training are chosen here: the authors'
training code is not released.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.errors import check_range
from nextset.core.noise import Noise
from nextset.core.spec import ImageSpec
from nextset.core.update import Update
from nextset.nn.autoencoder import AutoencoderConfig, Decoder
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig, ResidualQuantiser
from nextset.tokenizers.objective import ObjectiveConfig
from nextset.tokenizers.pyramid import Side, as_pairs

# pixels below which a picture is too small for the perceptual term and the critic
LEAST = 16


@dataclasses.dataclass(frozen=True)
class FlexibleVQConfig(MultiScaleVQConfig):
    """channels: of the codes, beside `autoencoder.latent` of the feature map. sides: those that `encode` makes when none
    are named. Codes are compared by cosine, between 1x1 convolutions, without smoothing."""

    autoencoder: AutoencoderConfig = dataclasses.field(
        default_factory=lambda: AutoencoderConfig(channels=128, latent=256)
    )
    channels: int = 32
    vocabulary: int = 8912
    distance: str = "cosine"  # type: ignore[assignment]
    phi_ratio: float = 0.0
    bottleneck_kernel: int = 1

    def check(self) -> None:
        super().check()
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        self.require("distance", self.distance == "cosine", "'cosine'")
        self.require("phi_ratio", self.phi_ratio == 0, "0: scales are not added up")


class IndependentQuantiser(ResidualQuantiser):
    """A feature map at several sides, each on its own."""

    def __init__(self, config: FlexibleVQConfig) -> None:
        super().__init__(config.replace(autoencoder=config.autoencoder.replace(latent=config.channels)))

    def embed(self, ids: Tensor) -> Tensor:
        """ids (B, n) -> code vectors of length 1 (B, n, C)."""
        return F.normalize(self.codebook(ids), dim=-1)

    def scales(
        self, f: Tensor, sides: Sequence[tuple[int, int]], targets: Sequence[Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each side: (ids (B, n_k), vectors that were looked up (B, n_k, C), map of the codes (B, C, h_k, w_k)).

        Gradients flow into f by the vectors, and into the codes by the map.
        """
        for side in sides:
            z = self.shrink(f, side).flatten(2).transpose(1, 2)
            ids = self.codebook.nearest(z)
            yield ids, z, self.embed(ids).transpose(1, 2).unflatten(-1, side)


class FlexibleVQ(MultiScaleVQ):
    """The whole tokenizer."""

    config_type = FlexibleVQConfig
    config: FlexibleVQConfig
    decoder: Decoder

    def __init__(self, config: FlexibleVQConfig, objective: ObjectiveConfig | None = None) -> None:
        super().__init__(config, objective)
        latent, kernel = config.autoencoder.latent, config.bottleneck_kernel
        self.quant_conv = nn.Conv2d(latent, config.channels, kernel, padding=kernel // 2)
        self.quantiser = IndependentQuantiser(config)
        self.post_quant_conv = nn.Conv2d(config.channels, latent, kernel, padding=kernel // 2)

    @property
    def spec(self) -> ImageSpec:
        return dataclasses.replace(super().spec, channels=self.config.channels)

    def at(self, sides: Sequence[int]) -> Self:
        """The same weights, with other sides where none are named."""
        other = copy.copy(self)
        other.config = self.config.replace(sides=tuple(sides))
        return other

    # ---- codes to images

    def f_hat(self, codes: Tensor, upto: int | None = None, sides: Sequence[Side] | None = None) -> Tensor:
        """ids (B, L) -> the map (B, C, h, w) of scale `upto` - 1 alone (None = the last), at its own side."""
        pairs = as_pairs(sides) if sides is not None else self.sides
        k = len(pairs) if upto is None else upto
        check_range("upto", k, 1, len(pairs), remedy="it counts scales")
        start = sum(h * w for h, w in pairs[: k - 1])
        h, w = pairs[k - 1]
        return self.quantiser.embed(codes[:, start : start + h * w]).transpose(1, 2).unflatten(-1, (h, w))

    @torch.no_grad()
    def decode_scale(self, codes: Tensor, k: int, sides: Sequence[Side] | None = None) -> Tensor:
        """The picture of scale k alone, at its own size: (B, 3, h_k, w_k) x downsampling, float32 in [-1, 1]."""
        return super().decode(codes, k + 1, sides)

    @torch.no_grad()
    def decode(self, codes: Tensor, upto: int | None = None, sides: Sequence[Side] | None = None) -> Tensor:
        """ids (B, L) -> images (B, 3, H, W) float32 in [-1, 1] of the last scale; of scale `upto` - 1 enlarged to the size
        of the last, when given, so that scales can be compared."""
        images = super().decode(codes, upto, sides)
        if upto is None:
            return images
        h, w = (as_pairs(sides) if sides is not None else self.sides)[-1]
        down = self.config.autoencoder.downsampling
        return F.interpolate(images, size=(h * down, w * down), mode="bicubic", align_corners=False).clamp(-1, 1)

    # ---- training

    def explain(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """(map of the last side, the quantiser's loss) of a feature map; hits are recorded.

        The loss is the mean over sides of |sg(z) - e|^2 + beta |z - sg(e)|^2 on vectors of length 1.
        """
        loss, maps, used = f.new_zeros(()), f, []
        for ids, z, maps in self.quantiser.scales(f, self.sides):
            z, e = F.normalize(z, dim=-1), maps.flatten(2).transpose(1, 2)
            loss = loss + F.mse_loss(e, z.detach()) + self.config.beta * F.mse_loss(z, e.detach())
            used.append(ids)
        self.usage.record(used)
        return maps, loss / len(self.sides)

    def decoded_side(self, step: int, noise: Noise) -> tuple[int, int]:
        """Which side a training step decodes: the last in half of the steps, else any whose picture is not too small."""
        down = self.config.autoencoder.downsampling
        others = [s for s in self.sides[:-1] if min(s) * down >= LEAST]
        which, index = noise.of("decoded-side").uniform(torch.tensor([step]), torch.arange(2))[0].tolist()
        return others[int(index * len(others))] if others and which < 0.5 else self.sides[-1]

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Quantise at all sides and decode one, then the critic where the objective has one. batch: {"images": (B, 3, H, W)}.

        The picture of a smaller side is held against the image, averaged over areas to that size.
        """
        images, goal = batch["images"], self.objective.config
        f = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            f = f.float()
            revived = torch.zeros((), device=f.device)
            if self.training and step % goal.revive_every == 0 and step <= goal.revive_until:
                revived = self._revive(f, step, noise).float()
            _, vq = self.explain(f)
            side = self.decoded_side(step, noise)
            ((_, z, codes),) = self.quantiser.scales(f, [side])
            z = F.normalize(z, dim=-1).transpose(1, 2).unflatten(-1, side)
            straight = z + (codes - z).detach()
        output = self.decode_features(straight).float()
        wanted = images if output.shape == images.shape else F.interpolate(images, output.shape[-2:], mode="area")
        used, perplexity = self.usage.used(), self.usage.perplexity()
        parts = {"vq": vq.detach(), "revived": revived}
        parts |= {f"used_{k}": used[k] for k in range(len(self.sides))}
        parts |= {f"perplexity_{k}": perplexity[k] for k in range(len(self.sides))}
        last = self.decoder.conv_out.weight
        yield from self.objective.updates(output, wanted, step, last=last, quantiser=goal.vq * vq, parts=parts)
