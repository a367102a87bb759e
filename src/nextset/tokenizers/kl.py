"""The KL autoencoder: an image as a map of continuous latents, without a codebook.

Encoder -> mean and log variance of each cell -> decoder. Latents are scaled to standard deviation 1, by a factor that is
stored among the weights: another autoencoder has another. It knows no generator; a token is a patch of cells.
Source: Rombach et al. 2022 (arXiv 2112.10752), section 3.1; sheet `mar`, Tokenizer.

Shapes: images (B, 3, H, W) in [-1, 1]; moments (B, 2 c, h, w), mean before log variance; latents (B, c, h, w), scaled;
codes (B, L, c p p), the latents as tokens in raster order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.configs import Config
from nextset.core.errors import NextsetError, check_range
from nextset.core.latents import patchify, unpatchify
from nextset.core.noise import Noise
from nextset.core.spec import ImageSpec
from nextset.core.update import Update
from nextset.nn.autoencoder import AutoencoderConfig, Decoder, Encoder
from nextset.tokenizers.objective import Objective, ObjectiveConfig


@dataclasses.dataclass(frozen=True)
class KLConfig(Config):
    """sides: one, of the grid of tokens at the training resolution. patch: cells of a token, a side. kl: weight of the
    divergence from a standard normal, in nats for each number of the image. `autoencoder.attention` is the encoder's;
    decoder_attention: also in the decoder's smallest level."""

    autoencoder: AutoencoderConfig = dataclasses.field(
        default_factory=lambda: AutoencoderConfig(channels=128, latent=16)
    )
    sides: tuple[int, ...] = (16,)
    patch: int = 1
    kl: float = 1e-6
    decoder_attention: bool = False

    def check(self) -> None:
        self.require("sides", len(self.sides) == 1 and 1 <= self.sides[0] <= 512, "one side between 1 and 512")
        self.require("patch", 1 <= self.patch <= 16, "between 1 and 16")
        self.require("kl", 0 <= self.kl < 1e3, "at least 0, and below 1000")


class Scale(nn.Module):
    """The factor that gives latents standard deviation 1: learned as a running mean, exact in any dtype."""

    keeps_float32 = True
    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.ones(()))

    @torch.no_grad()
    def record(self, latents: Tensor, decay: float = 0.99) -> None:
        """Follow 1 / standard deviation of the latents of this step, of all processes together."""
        x = latents.float()
        mean, square = processes.mean(x.mean()), processes.mean(x.square().mean())
        self.value.lerp_((square - mean.square()).clamp_min(1e-12).rsqrt(), 1 - decay)


class KLAutoencoder(nn.Module):
    """The whole tokenizer. `features` are moments, so that a generator may sample latents anew each time it sees them."""

    config_type = KLConfig
    training_state = ("objective\\..*",)

    def __init__(self, config: KLConfig, objective: ObjectiveConfig | None = None) -> None:
        super().__init__()
        self.config, c = config, config.autoencoder
        self.encoder = Encoder(c.replace(latent=2 * c.latent))
        self.quant_conv = nn.Conv2d(2 * c.latent, 2 * c.latent, 1)
        self.post_quant_conv = nn.Conv2d(c.latent, c.latent, 1)
        self.decoder = Decoder(c.replace(attention=config.decoder_attention))
        self.scale = Scale()
        self.objective = Objective(objective or ObjectiveConfig())

    # ---- what it is

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of the one grid of tokens at the training resolution."""
        return ((self.config.sides[0],) * 2,)

    @property
    def spec(self) -> ImageSpec:
        """Sizes; there is no vocabulary."""
        c, side = self.config, self.config.sides[0]
        pixels = side * c.patch * c.autoencoder.downsampling
        return ImageSpec(
            downsampling=c.autoencoder.downsampling,
            channels=c.autoencoder.latent,
            vocabulary=None,
            tokens=side * side,
            size=(pixels, pixels),
            patch=c.patch,
        )

    # ---- images to latents and back

    def features(self, images: Tensor) -> Tensor:
        """Images -> moments; the log variance is clamped to [-30, 20]."""
        unit = self.config.autoencoder.downsampling * self.config.patch
        if images.shape[-2] % unit or images.shape[-1] % unit:
            raise NextsetError(
                f"the image is {images.shape[-1]}x{images.shape[-2]} pixels, but both sides must be multiples of {unit}; resize it"
            )
        if images.device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)
        mean, log = self.quant_conv(self.encoder(images)).chunk(2, 1)
        return torch.cat([mean, log.clamp(-30, 20)], 1)

    def latents(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Moments -> scaled latents: means, or samples with standard normal noise (B, c, h, w)."""
        return sampled(moments, noise) * self.scale.value

    def decode_features(self, latents: Tensor) -> Tensor:
        """Scaled latents -> images, not clamped."""
        return self._paint(latents / self.scale.value)

    def _paint(self, z: Tensor) -> Tensor:
        z = z.to(self.post_quant_conv.weight.dtype)
        if z.device.type == "cpu":
            z = z.contiguous(memory_format=torch.channels_last)
        return self.decoder(self.post_quant_conv(z))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images -> codes: the means."""
        return patchify(self.latents(self.features(images)), self.config.patch)

    @torch.no_grad()
    def decode(self, codes: Tensor, upto: int | None = None) -> Tensor:
        """Codes of the training resolution -> images (B, 3, H, W) float32 in [-1, 1]; `upto` counts scales, of which
        there is one."""
        check_range("upto", 1 if upto is None else upto, 1, 1, remedy="it counts scales")
        return self.decode_features(unpatchify(codes, self.config.patch, self.sides[0])).float().clamp(-1, 1)

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        own = nn.ModuleList([self.encoder, self.quant_conv, self.post_quant_conv, self.decoder])
        return {"main": own, **self.objective.parameter_groups()}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Reconstruction of sampled latents + KL, then the critic where the objective has one. batch: {"images": (B, 3, H, W)}."""
        images = batch["images"]
        moments = self.features(images).float()
        b, _, h, w = moments.shape
        place = torch.arange(b * h * w) + processes.rank() * b * h * w  # the noise of a cell of the whole batch
        channels = self.config.autoencoder.latent
        eps = noise.of("posterior").normal(torch.tensor([step]), place, lanes=channels)[0].to(images.device)
        z = sampled(moments, eps.view(b, h, w, channels).permute(0, 3, 1, 2))
        output = self._paint(z).float()
        if self.training:
            self.scale.record(z)
        nats = divergence(moments).mean()
        weighed = self.config.kl * nats / images[0].numel()
        parts = {"kl": nats.detach(), "scale": self.scale.value.clone()}
        last = self.decoder.conv_out.weight
        yield from self.objective.updates(output, images, step, last=last, quantiser=weighed, parts=parts)


def sampled(moments: Tensor, noise: Tensor | None) -> Tensor:
    """Latents before scaling, of moments: means, or mean + deviation * noise; (B, c, h, w) float32."""
    mean, log = moments.float().chunk(2, 1)
    return mean if noise is None else mean + (0.5 * log).exp() * noise


def divergence(moments: Tensor) -> Tensor:
    """KL of each image's latents from a standard normal, in nats, summed over cells and channels: (B,)."""
    mean, log = moments.float().chunk(2, 1)
    return 0.5 * (mean.square() + log.exp() - 1 - log).flatten(1).sum(1)
