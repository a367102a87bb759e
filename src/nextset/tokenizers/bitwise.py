"""The bitwise multi-scale tokenizer: each token of a scale is a sign vector, so that there is no codebook to collapse.

Binary spherical quantisation, scale after scale: what is left of the feature map is shrunk, put on the unit sphere and
rounded to the corner whose signs it has; the corner is resized to full size and subtracted. A token may stand for a
patch of 2x2 cells; then it has four times the bits, in the order of pixel-unshuffle.

Shapes: images (B, 3, H, W) in [-1, 1]; feature maps (B, d, h, w); bits (B, L, D) int64 in {0, 1} with D = d patch^2,
scales from coarse to fine, raster order inside. Source: sheet `infinity`, Tokenizer (arXiv 2412.04431, section 3.1; the
entropy terms are those of BSQ, arXiv 2406.07548, section 3.2).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

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


@dataclasses.dataclass(frozen=True)
class BitwiseConfig(Config):
    """A bitwise multi-scale tokenizer.

    sides: of the token maps at the training resolution. patch: cells of the feature map that a token stands for, a side.
    entropy: weight of the entropy terms: each bit is sure of itself, and over a batch both values are used alike.
    sharpness: of the soft bits that these terms are computed with. commitment: weight of |f - sum of scales|^2.
    """

    autoencoder: AutoencoderConfig = dataclasses.field(
        default_factory=lambda: AutoencoderConfig(
            channels=128, multipliers=(1, 2, 4, 4, 4), groups=0, attention=False, middle_attention=False
        )
    )
    sides: tuple[int, ...] = (1, 2, 4, 6, 8, 12, 16)
    patch: int = 1
    entropy: float = 0.1
    sharpness: float = 10.0
    commitment: float = 0.25
    straight_through: Literal["sum", "scales"] = "sum"

    def check(self) -> None:
        ok = 1 <= len(self.sides) <= 64 and all(1 <= s <= 512 for s in self.sides)
        self.require("sides", ok and list(self.sides) == sorted(self.sides), "1 to 64 growing sides between 1 and 512")
        self.require("patch", self.patch in (1, 2, 4), "1, 2 or 4")
        for name in ("entropy", "commitment"):
            self.require(name, 0 <= getattr(self, name) < 1e6, "at least 0")
        self.require("sharpness", 0 < self.sharpness < 1e6, "above 0")


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, without smoothing before it, in both directions (the released code's trilinear with one frame)."""
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class BitwiseQuantiser(nn.Module):
    """A feature map as a sum of scales of sign vectors of length 1. It has no weights, and runs in float32."""

    def __init__(self, channels: int, patch: int = 1) -> None:
        super().__init__()
        self.channels, self.patch = channels, patch
        self.width = self.lanes = channels * patch**2

    def cells(self, side: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of a scale in cells of the feature map."""
        return side[0] * self.patch, side[1] * self.patch

    def embed(self, bits: Tensor) -> Tensor:
        """Bits (B, n, D) -> vectors (B, n, D) of +-1 / sqrt(d)."""
        return (bits * 2 - 1).float() / math.sqrt(self.channels)

    def mix(self, weights: Tensor) -> Tensor:
        raise NextsetError("a mixture of codes was asked of a bitwise tokenizer, which has none; leave out more_smooth")

    def fold(self, tokens: Tensor, side: tuple[int, int]) -> Tensor:
        """Tokens (B, n, D) -> map (B, d, h, w) at the size of their scale."""
        maps = tokens.transpose(1, 2).unflatten(-1, side)
        return F.pixel_shuffle(maps, self.patch) if self.patch > 1 else maps

    def unfold(self, maps: Tensor) -> Tensor:
        """Map (B, d, h, w) -> tokens (B, n, D)."""
        maps = F.pixel_unshuffle(maps, self.patch) if self.patch > 1 else maps
        return maps.flatten(2).transpose(1, 2)

    def contribution(self, h: Tensor, k: int, sides: Sequence[tuple[int, int]]) -> Tensor:
        """What scale k adds: vectors (B, n, D) -> (B, d, H, W)."""
        return resize(self.fold(h, sides[k]), self.cells(sides[-1]))

    def shrink(self, f: Tensor, side: tuple[int, int]) -> Tensor:
        """The input of a scale: a sum (B, d, H, W) at its size, one column of D channels a token: (B, D, h, w)."""
        maps = resize(f, self.cells(side))
        return F.pixel_unshuffle(maps, self.patch) if self.patch > 1 else maps

    def rest(self, f: Tensor, side: tuple[int, int]) -> Tensor:
        """What is left of a map (B, d, H, W) at the size of a scale, on the unit sphere: tokens (B, n, D).

        Area averages here, though inputs are resized bilinearly (sheet, trap 1).
        """
        cells = self.cells(side)
        z = f if tuple(f.shape[-2:]) == cells else F.interpolate(f, size=cells, mode="area")
        return self.unfold(F.normalize(z, dim=1, eps=1e-12))

    @staticmethod
    def bits(z: Tensor) -> Tensor:
        """Signs (B, n, D) -> bits: 1 where above 0."""
        return (z > 0).long()

    def scales(
        self, f: Tensor, sides: Sequence[tuple[int, int]], targets: Sequence[Tensor] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Explain f (B, d, H, W) scale by scale: yields (bits (B, n_k, D), what was rounded (B, n_k, D), sum so far).

        Gradients reach f through what was rounded, straight through the rounding; what is subtracted is a constant.
        targets: None; every scale explains all that is left.
        """
        size = self.cells(sides[-1])
        if tuple(f.shape[-2:]) != size:
            raise NextsetError(
                f"the feature map is {tuple(f.shape[-2:])}, but the last scale is {size}; give sides that end there"
            )
        left, f_hat = f, torch.zeros_like(f)
        for k, side in enumerate(sides):
            z = self.rest(left, side)
            bits = self.bits(z)
            added = self.contribution(self.embed(bits), k, sides)
            if z.requires_grad:
                f_hat = f_hat + self.contribution(z + (self.embed(bits) - z).detach(), k, sides)
            else:
                f_hat = f_hat + added
            left = left - added
            yield bits, z, f_hat


class BitUsage(nn.Module):
    """How often each bit is 1, by scale: an exponential mean, part of the training state and of no model."""

    ones: Tensor

    def __init__(self, scales: int, bits: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("ones", torch.full((scales, bits), 0.5), persistent=True)

    @torch.no_grad()
    def record(self, bits: Sequence[Tensor]) -> None:
        """Bits (B, n_k, D) of each scale, of all processes together."""
        shares = torch.stack([b.float().mean((0, 1)) for b in bits])
        self.ones.lerp_(processes.mean(shares), 1 - self.decay)

    def entropy(self) -> Tensor:
        """(K, D) in [0, 1] bits: 1 = both values alike, 0 = the bit is always the same."""
        return binary_entropy(self.ones) / math.log(2)


def binary_entropy(p: Tensor) -> Tensor:
    """-p log p - (1 - p) log (1 - p), natural, for p in [0, 1]."""
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())


class BitwisePyramid(Pyramid):
    """The whole tokenizer."""

    config_type = BitwiseConfig
    training_state = ("usage\\..*", "objective\\..*")  # statistics and critic of a training run, not published
    vocabulary = 2

    def __init__(self, config: BitwiseConfig, objective: ObjectiveConfig | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.autoencoder)
        self.quantiser = BitwiseQuantiser(config.autoencoder.latent, config.patch)
        self.decoder = Decoder(config.autoencoder)
        self.usage = BitUsage(len(config.sides), self.quantiser.width)
        self.objective = Objective(objective or ObjectiveConfig())

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        own = nn.ModuleList([self.encoder, self.decoder])
        return {"main": own, **self.objective.parameter_groups()}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Reconstruction, commitment and entropy, then the critic where the objective has one.

        batch: {"images": (B, 3, H, W)}.
        """
        images, goal = batch["images"], self.objective.config
        f = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            f = f.float()
            f_hat, terms = self.explain(f)
            if self.config.straight_through == "sum":
                f_hat = f + (f_hat - f).detach()
        output = self.decode_features(f_hat).float()
        loss = self.config.commitment * terms["commitment"] + self.config.entropy * (terms["unsure"] - terms["balance"])
        used = self.usage.entropy()
        parts = {name: value.detach() for name, value in terms.items()}
        parts |= {f"bit_entropy_{k}": used[k].mean() for k in range(len(self.sides))}
        parts |= {f"least_bit_{k}": used[k].min() for k in range(len(self.sides))}
        last = self.decoder.conv_out.weight
        yield from self.objective.updates(output, images, step, last=last, quantiser=goal.vq * loss, parts=parts)

    def explain(self, f: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(sum of scales, straight through, and the quantiser's terms) of a feature map; bits are recorded.

        unsure: mean entropy of a soft bit, balance: entropy of its mean over batch and places, both in nats, means over
        scales. A soft bit is sigmoid(4 sharpness z / sqrt(d)).
        """
        scale = 4 * self.config.sharpness / math.sqrt(self.quantiser.channels)
        scales = list(self.quantiser.scales(f, self.sides))
        soft = [torch.sigmoid(z * scale) for _, z, _ in scales]
        self.usage.record([bits for bits, _, _ in scales])
        f_hat = scales[-1][2]
        return f_hat, {
            "commitment": F.mse_loss(f, f_hat.detach()),
            "unsure": torch.stack([binary_entropy(s).mean() for s in soft]).mean(),
            "balance": torch.stack([binary_entropy(s.mean((0, 1))).mean() for s in soft]).mean(),
        }
