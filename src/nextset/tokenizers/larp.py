"""LARP: a clip as a sequence of ids that learned queries gather from all of it (Wang et al. 2024, arXiv 2410.21264).

Patches of the clip and query tokens go through one transformer; what the queries become is quantised, and a second
transformer paints the patches from it. So an id belongs to no place: the grid in which ids are laid out is a name that
generators use. The authors' networks see pixels in [0, 1]; the change of range is made here and nowhere else.

Shapes: videos (B, 3, T, H, W) in [-1, 1]; queries after quantisation (B, L, C), at length 1; ids (B, L) int64.
Source: sheet `nar`, Video tokenizer (LARP).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.configs import Config
from nextset.core.errors import check_range
from nextset.core.noise import Noise, categorical
from nextset.core.spec import VideoSpec
from nextset.core.update import Update
from nextset.nn import sincos
from nextset.nn.vit import ViTBlock
from nextset.tokenizers.clips import check_clips, check_ids, frames_of
from nextset.tokenizers.neighbourhood import Neighbourhood
from nextset.tokenizers.objective import Objective, ObjectiveConfig
from nextset.tokenizers.quantisers import Usage
from nextset.tokenizers.vq import VectorQuantiser


@dataclasses.dataclass(frozen=True)
class LarpConfig(Config):
    """Sizes of both transformers, of clips and of codes. The defaults are the released `LARP-L-long`.

    frames, size: of a clip, size in pixels a side. patch: frames and pixels a side of one patch; decoder_patch: of the
    decoder, where it is another. grid: (t, h, w) in which the ids are laid out, t h w = number of queries.
    decoder_width, decoder_depth, decoder_heads: 0 = as the encoder's. channels: of a code. temperature: of the draw of
    an id in training, softmax(cosine / temperature); 0 = the nearest code there too. beta: weight of the commitment
    term.
    """

    frames: int = 16
    size: int = 128
    patch: tuple[int, int] = (4, 8)
    decoder_patch: tuple[int, ...] = ()
    grid: tuple[int, int, int] = (4, 16, 16)
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_width: int = 0
    decoder_depth: int = 0
    decoder_heads: int = 0
    channels: int = 16
    vocabulary: int = 8192
    block_norm_eps: float = 1e-6
    temperature: float = 0.03
    beta: float = 0.25

    def check(self) -> None:
        self.require("frames", 1 <= self.frames <= 1024, "between 1 and 1024")
        self.require("size", 1 <= self.size <= 4096, "between 1 and 4096")
        self.require("decoder_patch", len(self.decoder_patch) in (0, 2), "frames and pixels of a patch, or nothing")
        for name in ("patch", "decoder_patch"):
            frames, pixels = getattr(self, name) or self.patch
            fits = frames >= 1 and pixels >= 1 and self.frames % frames == 0 and self.size % pixels == 0
            self.require(name, fits, f"a divisor of {self.frames} frames, and one of {self.size} pixels")
        self.require("grid", min(self.grid) >= 1 and self.tokens <= 65536, "three sides, at most 65536 ids in all")
        self.require("width", 8 <= self.width <= 16384, "between 8 and 16384")
        self.require("decoder_width", 0 <= self.decoder_width <= 16384, "between 8 and 16384, or 0")
        self.require("depth", 1 <= self.depth <= 128, "between 1 and 128")
        self.require("decoder_depth", 0 <= self.decoder_depth <= 128, "between 1 and 128, or 0")
        for name, (width, _, heads) in (("heads", self.encoder), ("decoder_heads", self.decoder)):
            self.require(name, heads >= 1 and width % heads == 0 == width % 4, f"a divisor of {width}, a multiple of 4")
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        self.require("vocabulary", 2 <= self.vocabulary <= 2**20, "between 2 and 1048576")
        self.require("block_norm_eps", 0 < self.block_norm_eps < 1, "above 0, and below 1")
        self.require("temperature", 0 <= self.temperature < 1e3, "at least 0, and below 1000")
        self.require("beta", 0 <= self.beta < 1e6, "at least 0 (and finite)")

    @property
    def tokens(self) -> int:
        """Ids of a clip."""
        t, h, w = self.grid
        return t * h * w

    @property
    def encoder(self) -> tuple[int, int, int]:
        """Width, depth and heads of the encoder."""
        return self.width, self.depth, self.heads

    @property
    def decoder(self) -> tuple[int, int, int]:
        """Width, depth and heads of the decoder."""
        return self.decoder_width or self.width, self.decoder_depth or self.depth, self.decoder_heads or self.heads

    def cells(self, patch: tuple[int, ...]) -> tuple[int, int, int]:
        """(t, h, w) of the patches of a clip."""
        return self.frames // patch[0], self.size // patch[1], self.size // patch[1]


class Encoder(nn.Module):
    """Videos (B, 3, T, H, W) in [0, 1] -> what the queries gathered (B, L, C). Positions of patches are a stored table:
    released files hold them rounded."""

    positions: Tensor

    def __init__(self, config: LarpConfig) -> None:
        super().__init__()
        self.patch = config.patch
        width, depth, heads = config.encoder
        frames, pixels = self.patch
        self.embed = nn.Linear(3 * frames * pixels * pixels, width)
        self.register_buffer("positions", sincos.clip(*config.cells(self.patch), width))
        # as large as positions: what attention adds to all queries alike would drown smaller ones
        self.queries = nn.Parameter(torch.randn(config.tokens, width))
        self.blocks = nn.ModuleList(ViTBlock(width, heads, eps=config.block_norm_eps) for _ in range(depth))

    def forward(self, videos: Tensor) -> Tensor:
        frames, pixels = self.patch
        x = videos.unflatten(4, (-1, pixels)).unflatten(3, (-1, pixels)).unflatten(2, (-1, frames))
        patches = x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)  # inside: channel, frame, row, column
        h = self.embed(patches) + self.positions
        h = torch.cat([h, self.queries.expand(len(h), -1, -1).to(h.dtype)], 1)
        for block in self.blocks:
            h = block(h)
        return h[:, -len(self.queries) :]


class Decoder(nn.Module):
    """Quantised queries (B, L, C) -> videos (B, 3, T, H, W), near [0, 1] and not clamped."""

    positions: Tensor
    queries: Tensor

    def __init__(self, config: LarpConfig) -> None:
        super().__init__()
        self.patch = config.decoder_patch or config.patch
        width, depth, heads = config.decoder
        self.cells = config.cells(self.patch)
        self.register_buffer("positions", sincos.line(torch.arange(config.tokens), width))
        self.register_buffer("queries", sincos.clip(*self.cells, width))
        self.kind = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(ViTBlock(width, heads, eps=config.block_norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pixels = nn.Linear(width, 3 * self.patch[0] * self.patch[1] * self.patch[1])

    def forward(self, z: Tensor) -> Tensor:
        h = z + self.positions
        h = torch.cat([h, (self.queries + self.kind).expand(len(h), -1, -1).to(h.dtype)], 1)
        for block in self.blocks:
            h = block(h)
        patches = self.pixels(self.norm(h[:, -len(self.queries) :]))
        frames, pixels = self.patch
        x = patches.unflatten(2, (frames, pixels, pixels, 3)).unflatten(1, self.cells)
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6).flatten(4, 5).flatten(2, 3)


class Larp(nn.Module):
    """The whole tokenizer."""

    config_type = LarpConfig
    training_state = ("usage\\..*", "objective\\..*")  # statistics and critic of a training run, not published

    def __init__(self, config: LarpConfig, objective: ObjectiveConfig | None = None) -> None:
        super().__init__()
        self.config, self.vocabulary = config, config.vocabulary
        self.encoder = Encoder(config)
        self.to_code = nn.Linear(config.encoder[0], config.channels)
        self.quantiser = VectorQuantiser(config.vocabulary, config.channels, normalised=True)
        self.from_code = nn.Linear(config.channels, config.decoder[0])
        self.decoder = Decoder(config)
        self.usage = Usage(1, config.vocabulary)
        self.objective = Objective(objective or ObjectiveConfig())
        for module in (self.encoder, self.to_code, self.from_code, self.decoder):
            for linear in module.modules():
                if isinstance(linear, nn.Linear):
                    nn.init.xavier_uniform_(linear.weight)
                    if linear.bias is not None:
                        nn.init.zeros_(linear.bias)

    # ---- what it is

    @property
    def sides(self) -> tuple[tuple[int, int], ...]:
        """(h, w) of its one set of ids: the planes of the grid, one under another."""
        t, h, w = self.config.grid
        return ((t * h, w),)

    @property
    def spec(self) -> VideoSpec:
        """Sizes, for whoever uses it."""
        c = self.config
        return VideoSpec(
            downsampling=max(1, c.size // c.grid[2]),
            channels=c.channels,
            vocabulary=c.vocabulary,
            tokens=c.tokens,
            size=(c.size, c.size),
            frames=c.frames,
            grid=c.grid,
        )

    # ---- videos to ids and back

    def features(self, videos: Tensor) -> Tensor:
        """Videos (B, 3, T, H, W) in [-1, 1] -> vectors (B, L, C) before quantisation, at length 1, in float32."""
        c = self.config
        check_clips(videos, c.frames, (c.size, c.size))
        z = self.to_code(self.encoder((videos + 1) / 2))
        return self.quantiser.scaled(z.float())

    def decode_features(self, z: Tensor) -> Tensor:
        """Quantised vectors (B, L, C) -> videos, not clamped."""
        return self.decoder(self.from_code(z.to(self.from_code.weight.dtype))) * 2 - 1

    @torch.no_grad()
    def encode(self, videos: Tensor) -> Tensor:
        """Videos -> ids (B, L) of the nearest codes."""
        return self.quantiser.codebook.nearest(self.features(videos))

    @torch.no_grad()
    def decode(self, codes: Tensor, upto: int | None = None) -> Tensor:
        """ids (B, L) -> videos (B, 3, T, H, W) float32 in [-1, 1]; `upto` counts scales, of which there is one."""
        check_range("upto", 1 if upto is None else upto, 1, 1, remedy="there is one set of ids")
        check_ids(codes, self.config.tokens)
        return self.decode_features(self.quantiser.embed(codes)).float().clamp(-1, 1)

    def neighbourhood(self) -> Neighbourhood:
        """Which codes are near which: for methods that replace a token by a similar one."""
        return Neighbourhood(self.quantiser.codes.detach())

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        own = nn.ModuleList([self.encoder, self.to_code, self.quantiser, self.from_code, self.decoder])
        return {"main": own, **self.objective.parameter_groups()}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Reconstruction and the codebook's terms, then the critic where the objective has one; it judges frames.

        batch: {"images": (B, 3, T, H, W)}. The quantiser's loss is vq + beta commit. In training ids are drawn, with
        the noise "codes" of (step, place in the whole batch). No code is revived: `revive_*` of the objective do nothing.
        """
        videos, c, goal = batch["images"], self.config, self.objective.config
        z = self.features(videos)
        with torch.autocast(videos.device.type, enabled=False):
            ids = self._drawn(z.detach(), step, noise) if self.training else self.quantiser.codebook.nearest(z)
            vq, commit = self.quantiser.terms(z, ids)
            straight = z + (self.quantiser.embed(ids) - z).detach()
        self.usage.record([ids])
        output = self.decode_features(straight).float()
        parts = {"vq": vq.detach(), "commit": commit.detach()}
        parts |= {"used": self.usage.used()[0], "perplexity": self.usage.perplexity()[0]}
        weighed = goal.vq * (vq + c.beta * commit)
        last = self.decoder.pixels.weight
        yield from self.objective.updates(
            frames_of(output), frames_of(videos), step, last=last, quantiser=weighed, parts=parts
        )

    def _drawn(self, z: Tensor, step: int, noise: Noise) -> Tensor:
        """Ids (B, L) from softmax(cosine / temperature) of vectors (B, L, C) at length 1."""
        if not self.config.temperature:
            return self.quantiser.codebook.nearest(z)
        probs = (z.flatten(0, 1) @ self.quantiser.codes.detach().T / self.config.temperature).softmax(-1)
        place = torch.arange(len(probs)) + processes.rank() * len(probs)
        u = noise.of("codes").uniform(torch.tensor([step]), place)[0].to(probs.device)
        return categorical(probs, u).view(z.shape[:-1])
