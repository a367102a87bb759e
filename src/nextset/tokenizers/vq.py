"""The VQ tokenizer of one map: an image as a grid of ids, each the nearest code of one cell.

Encoder -> 1x1 convolution to few channels -> nearest code -> 1x1 convolution -> decoder. Codes and cells are compared, and
codes looked up, at length 1 (`normalised`), which is what keeps a large codebook in use. It knows no order of cells.

Shapes: images (B, 3, H, W) in [-1, 1]; feature maps (B, C, h, w); ids (B, h w) int64 in raster order.
Source: sheet `llamagen`, Tokenizer (arXiv 2406.06525); normalised codes: Yu et al. 2021 (arXiv 2110.04627), section 3.2.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.configs import Config
from nextset.core.errors import NextsetError, check_range
from nextset.core.noise import Noise
from nextset.core.spec import ImageSpec
from nextset.core.update import Update
from nextset.nn.autoencoder import AutoencoderConfig, Decoder, Encoder
from nextset.tokenizers.neighbourhood import Neighbourhood
from nextset.tokenizers.objective import Objective, ObjectiveConfig
from nextset.tokenizers.pyramid import Pyramid, Side, as_pairs
from nextset.tokenizers.quantisers import Codebook, Usage, revival_order, revive


@dataclasses.dataclass(frozen=True)
class VQConfig(Config):
    """A VQ tokenizer of one map. The defaults are the released one of 16 pixels a cell.

    autoencoder: its `latent` is the width between the convolutions and the 1x1 ones; decoder_multipliers: of the decoder,
    where they are not those of the encoder. channels: of a code. sides: the one side of the map at the training size,
    which decoding assumes where none is named. normalised: codes and cells at length 1. beta: weight of the commitment
    term; entropy: of the entropy term. begin: step of training at which codes come in: until then cells pass as they are,
    then all codes become cells that were seen, and those that are hardly used are replaced from time to time, as `revive_*` of
    the objective say. 0, the authors' way: codes from the first step on, and none is ever replaced.
    """

    autoencoder: AutoencoderConfig = dataclasses.field(
        default_factory=lambda: AutoencoderConfig(channels=128, latent=256)
    )
    decoder_multipliers: tuple[int, ...] = ()
    vocabulary: int = 16384
    channels: int = 8
    sides: tuple[int, ...] = (16,)
    normalised: bool = True
    beta: float = 0.25
    entropy: float = 0.0
    begin: int = 0

    def check(self) -> None:
        self.require("vocabulary", 2 <= self.vocabulary <= 2**20, "between 2 and 1048576")
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        self.require("sides", len(self.sides) == 1 and 1 <= self.sides[0] <= 512, "one side between 1 and 512")
        levels = len(self.autoencoder.multipliers)
        self.require("decoder_multipliers", len(self.decoder_multipliers) in (0, levels), f"{levels} numbers, or none")
        self.require("beta", 0 <= self.beta < 1e6, "at least 0 (and finite)")
        self.require("entropy", 0 <= self.entropy < 1e6, "at least 0 (and finite)")
        self.require("begin", self.begin >= 0, "at least 0")

    @property
    def decoder(self) -> AutoencoderConfig:
        """Sizes of the decoder."""
        multipliers = self.decoder_multipliers or self.autoencoder.multipliers
        return self.autoencoder.replace(multipliers=multipliers)

    @property
    def colours(self) -> int:
        """Channels of what the autoencoder sees as a picture."""
        return 3


class VectorQuantiser(nn.Module):
    """Vectors (..., C) to ids and back, with the terms that train the codebook. Float32 whatever the rest runs in."""

    keeps_float32 = True
    patch, lanes = 1, None  # a token is one id of one cell

    def __init__(self, vocabulary: int, channels: int, normalised: bool) -> None:
        super().__init__()
        self.channels = self.width = channels
        self.normalised = normalised
        self.codebook = Codebook(vocabulary, channels, "cosine" if normalised else "l2")
        nn.init.uniform_(self.codebook.weight, -1 / vocabulary, 1 / vocabulary)
        with torch.no_grad():
            self.codebook.weight.copy_(self.scaled(self.codebook.weight))

    def scaled(self, vectors: Tensor) -> Tensor:
        """Vectors (..., C) as they are compared: at length 1 where `normalised`, else as they are."""
        return F.normalize(vectors, dim=-1) if self.normalised else vectors

    @property
    def codes(self) -> Tensor:
        """(V, C) all code vectors as they are looked up."""
        return self.scaled(self.codebook.weight)

    def embed(self, ids: Tensor) -> Tensor:
        """ids (...) -> code vectors (..., C)."""
        return self.scaled(self.codebook(ids))

    def terms(self, z: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(what pulls codes to cells, what pulls cells to codes) of cells z (..., C), as they are compared, and their ids."""
        e = self.embed(ids)
        return F.mse_loss(e, z.detach()), F.mse_loss(z, e.detach())

    def choice_entropy(self, z: Tensor) -> Tensor:
        """Mean entropy of a cell's choice less the entropy of the mean choice, in nats, at temperature 0.01: low where cells
        are sure and codes are used evenly. z (..., C) as it is compared; the mean is over the cells of this process."""
        flat, table = z.reshape(-1, z.shape[-1]), self.codes
        affinity = 2 * flat @ table.T - flat.square().sum(1, keepdim=True) - table.square().sum(1)
        logp = (affinity / 0.01).log_softmax(-1)
        mean = logp.exp().mean(0)
        return (mean * (mean + 1e-5).log()).sum() - (logp.exp() * logp).sum(1).mean()


class VQTokenizer(Pyramid):
    """The whole tokenizer: a pyramid of one scale, of whatever size the image has."""

    config_type = VQConfig
    training_state = ("usage\\..*", "objective\\..*")  # statistics and critic of a training run, not published
    config: VQConfig
    quantiser: VectorQuantiser

    def __init__(self, config: VQConfig, objective: ObjectiveConfig | None = None) -> None:
        super().__init__()
        self.config, self.vocabulary = config, config.vocabulary
        latent = config.autoencoder.latent
        self.encoder = Encoder(config.autoencoder, config.colours)
        self.quant_conv = nn.Conv2d(latent, config.channels, 1)
        self.quantiser = VectorQuantiser(config.vocabulary, config.channels, config.normalised)
        self.post_quant_conv = nn.Conv2d(config.channels, latent, 1)
        self.decoder = Decoder(config.decoder, config.colours)
        self.usage = Usage(1, config.vocabulary)
        self.objective = Objective(objective or ObjectiveConfig())

    @property
    def spec(self) -> ImageSpec:
        return dataclasses.replace(super().spec, channels=self.config.channels)

    def at(self, side: int) -> Self:
        """The same weights for images of another size."""
        other = copy.copy(self)
        other.config = self.config.replace(sides=(side,))
        return other

    def before(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))

    def after(self, f_hat: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(f_hat))

    def cells(self, f: Tensor) -> Tensor:
        """Feature map (B, C, h, w) -> cells (B, h w, C) as they are compared with codes."""
        return self.quantiser.scaled(f.flatten(2).transpose(1, 2))

    # ---- ids and images

    @torch.no_grad()
    def encode_features(self, f: Tensor, sides: Sequence[Side] | None = None) -> Tensor:
        """Feature map (B, C, h, w) of any size -> ids (B, h w). sides: [its own], or None."""
        if sides is not None and as_pairs(sides) != (tuple(f.shape[-2:]),):
            raise NextsetError(f"the feature map is {tuple(f.shape[-2:])}, but sides are {list(sides)}; leave them out")
        return self.quantiser.codebook.nearest(self.cells(f))

    def f_hat(self, codes: Tensor, upto: int | None = None, sides: Sequence[Side] | None = None) -> Tensor:
        """ids (B, L) -> the map of their codes (B, C, h, w). sides: [(h, w)] where it is not that of the config."""
        check_range("upto", 1 if upto is None else upto, 1, 1, remedy="there is one map")
        (pair,) = as_pairs(sides) if sides is not None else self.sides
        if codes.shape[1] != pair[0] * pair[1]:
            raise NextsetError(
                f"there are {codes.shape[1]} ids, but a map of {pair[0]}x{pair[1]} has {pair[0] * pair[1]}; give its sides"
            )
        return self.quantiser.embed(codes).transpose(1, 2).unflatten(-1, pair)

    def neighbourhood(self) -> Neighbourhood:
        """Which codes are near which: for methods that replace a token by a similar one."""
        return Neighbourhood(self.quantiser.codes.detach())

    # ---- training

    def pictures(self, x: Tensor) -> Tensor:
        """A batch, or its reconstruction -> the pictures (N, 3, H, W) that the objective compares."""
        return x

    def parameter_groups(self) -> dict[str, nn.Module]:
        own = nn.ModuleList([self.encoder, self.quant_conv, self.quantiser, self.post_quant_conv, self.decoder])
        return {"main": own, **self.objective.parameter_groups()}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Reconstruction and the codebook's terms, then the critic where the objective has one. batch: {"images": (B, 3, H, W)}.

        The quantiser's loss is vq + beta commit + entropy weight x entropy. Codes come in at step `begin`.
        """
        images, c, goal = batch["images"], self.config, self.objective.config
        coded = not self.training or step >= c.begin
        f = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            z = self.cells(f.float())
            revived = self.training and c.begin and coded and step <= goal.revive_until
            if revived and (step - c.begin) % goal.revive_every == 0:
                self._revive(z.detach(), step, noise)
            ids = self.quantiser.codebook.nearest(z)
            vq, commit = self.quantiser.terms(z, ids)
            loss, parts = vq + c.beta * commit, {"vq": vq.detach(), "commit": commit.detach()}
            if c.entropy:
                entropy = self.quantiser.choice_entropy(z)
                loss, parts = loss + c.entropy * entropy, {**parts, "entropy": entropy.detach()}
            straight = z + (self.quantiser.embed(ids) - z).detach() if coded else z
        if coded:
            self.usage.record([ids])
        output = self.decode_features(straight.transpose(1, 2).unflatten(-1, f.shape[-2:])).float()
        parts |= {"used": self.usage.used()[0], "perplexity": self.usage.perplexity()[0]}
        last = self.decoder.conv_out.weight
        yield from self.objective.updates(
            self.pictures(output), self.pictures(images), step, last=last, quantiser=goal.vq * loss * coded, parts=parts
        )

    @torch.no_grad()
    def _revive(self, z: Tensor, step: int, noise: Noise) -> None:
        """Replace dead codes by cells (B, L, C) of this batch, of all processes; those far from their code come first, or
        what most pictures are full of would make the codebook."""
        cells = processes.rows(z).flatten(0, 1)
        far = (cells - self.quantiser.embed(self.quantiser.codebook.nearest(cells))).square().sum(1)
        order = revival_order(noise, step, 1 / far.clamp_min(1e-6))
        revive(self.quantiser.codebook, self.usage, cells, self.objective.config.revive_below, order)
