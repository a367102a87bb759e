"""The baseline: contrastive retrieval with the same encoders. A photo's vector is compared with those of all last cells.

Symmetric InfoNCE with a learnt temperature; photos of one cell are no negatives of each other. On a map, the cells'
vectors are a gallery that is made once and kept while the map is the same object. Source: sheet `just_zoom_in`, Synthetic
benchmark (Baseline). Its option of hard negatives is not built.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core.configs import Config
from nextset.core.errors import NextsetError, check_range
from nextset.core.noise import Noise
from nextset.core.protocols import Ground
from nextset.core.update import Update
from nextset.nn.encoders import Encoder, EncoderConfig
from nextset.systems.just_zoom_in import geometry
from nextset.systems.just_zoom_in.examples import Examples, actions_of, numbers_of
from nextset.systems.just_zoom_in.photos import crops
from nextset.systems.just_zoom_in.zoom import Cells

_AT_ONCE = 256  # cells whose views are held at a time
_START, _MOST = math.log(1 / 0.07), math.log(100.0)  # of the factor before the softmax
_CELLS = 2**20  # of a gallery


@dataclasses.dataclass(frozen=True)
class RetrievalConfig(Config):
    """encoder: of photos and of views, each with weights of its own unless `separate` is off. pixels: side P of what they
    read. grid, steps: the gallery has grid^(2 steps) cells, as many as a search can end in. context: side of a cell's view,
    in cells: 1 shows the cell alone, 4 what lies around it too."""

    encoder: EncoderConfig = dataclasses.field(default_factory=lambda: EncoderConfig(trained=4))
    separate: bool = True
    pixels: int = 384
    grid: int = 4
    steps: int = 4
    context: float = 1.0
    label_smoothing: float = 0.1

    def check(self) -> None:
        self.require("pixels", self.encoder.smallest <= self.pixels <= 4096, f"{self.encoder.smallest} to 4096")
        self.require("grid", 2 <= self.grid <= 32, "between 2 and 32")
        self.require("steps", 1 <= self.steps <= 16, "between 1 and 16")
        fits = self.grid ** (2 * self.steps) <= _CELLS
        self.require("steps", fits, f"such that the gallery has at most {_CELLS:,} cells")
        self.require("context", 0.1 <= self.context <= 64, "between 0.1 and 64")
        self.require("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)")


class Retrieval(nn.Module):
    """Two encoders and a temperature."""

    slug = "just_zoom_in/retrieval"
    config_type = RetrievalConfig
    asked_with = "photo"
    watched = ("ce", "accuracy")

    def __init__(self, config: RetrievalConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder)
        self.photo_encoder = Encoder(config.encoder) if config.separate else None
        self.log_scale = nn.Parameter(torch.tensor(_START))
        self._gallery: tuple[Ground, Tensor] | None = None

    @classmethod
    def examples(cls, options: dict[str, Any], config: RetrievalConfig) -> Examples:
        """What a recipe's [data] says, as batches: each photo with the view of its last cell."""
        c = config
        return Examples.open(options, grid=c.grid, steps=c.steps, pixels=c.pixels, context=c.context)

    @property
    def scale(self) -> Tensor:
        """Factor before the softmax, at most 100."""
        return self.log_scale.clamp(max=_MOST).exp()

    # ---- vectors

    def encode_photos(self, photos: Tensor) -> Tensor:
        """Photos, as `crops` takes them -> unit vectors (N, D), the direction of the mean over a photo's crops."""
        parts = crops(photos, self.config.pixels).to(self.log_scale.device)
        vectors = (self.photo_encoder or self.encoder)(parts.flatten(0, 1)).unflatten(0, parts.shape[:2]).mean(1)
        return nn.functional.normalize(vectors.float(), dim=-1)

    def encode_views(self, views: Tensor) -> Tensor:
        """Views (U, 3, P, P) -> unit vectors (U, D)."""
        return nn.functional.normalize(self.encoder(views.to(self.log_scale.device)).float(), dim=-1)

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def train(self, mode: bool = True) -> Retrieval:
        self._gallery = None  # weights are about to change
        return super().train(mode)

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """batch: as `Examples.batch` makes it with a context: "photos", "views" with "view_index" (B,), "cell" (B,)."""
        photos = self.encode_photos(batch["photos"])
        views = self.encode_views(batch["views"])[batch["view_index"].to(photos.device)]
        logits = self.scale * photos @ views.T
        cell = batch["cell"].to(photos.device)
        own = torch.eye(len(cell), dtype=torch.bool, device=cell.device)
        logits = logits.masked_fill((cell[:, None] == cell) & ~own, -torch.inf)
        losses = [smoothed(side, self.config.label_smoothing) for side in (logits, logits.T)]
        loss, ce = ((a + b) / 2 for a, b in zip(*losses, strict=True))
        hit = (logits.detach().argmax(1) == torch.arange(len(cell), device=cell.device)).float().mean()
        yield Update("retrieval", loss, {"ce": ce.detach(), "accuracy": hit, "scale": self.scale.detach()})

    # ---- requests

    def gallery(self, map: Ground) -> Tensor:
        """Unit vectors (cells, D) of all last cells of a map, by number."""
        if self._gallery is None or self._gallery[0] is not map:
            c = self.config
            parts = []
            for number in torch.arange(c.grid ** (2 * c.steps)).split(_AT_ONCE):
                actions = actions_of(number, c.steps, c.grid)
                lat, lon, side = (v[:, -1] for v in geometry.follow(map.start, actions, c.grid))
                parts.append(self.encode_views(map.view(lat, lon, side * c.context, c.pixels)))
            self._gallery = map, torch.cat(parts)
        return self._gallery[1]

    @property
    def gallery_bytes(self) -> int:
        """Of the vectors that are kept, 0 before the first photo."""
        return 0 if self._gallery is None else self._gallery[1].numel() * self._gallery[1].element_size()

    @torch.no_grad()
    def locate(
        self, photos: Tensor, map: Ground, *, beams: int = 1, temperature: float = 1.0, steps: int | None = None
    ) -> Cells:
        """The `beams` nearest cells of each photo; probabilities are those of the softmax over the whole gallery."""
        c = self.config
        if steps not in (None, c.steps):
            raise NextsetError(f"steps is {steps}, but retrieval knows the last cells alone; leave out steps")
        check_range("beams", beams, 1, c.grid ** (2 * c.steps))
        check_range("temperature", temperature, 1e-3, 1e3)
        law = self.logits(photos, map).div(temperature).log_softmax(-1)
        logp, number = law.topk(beams)
        actions = actions_of(number.cpu(), c.steps, c.grid)
        path = torch.stack(geometry.follow(map.start, actions, c.grid), -1)
        return Cells(path, actions, logp.cpu())

    def choices(self, asked: dict[str, Tensor], map: Ground) -> tuple[Tensor, Tensor]:
        """What `Examples.question` asks: logits (N, cells), and the right cells (N,)."""
        return self.logits(asked["photos"], map).cpu(), numbers_of(asked["actions"], self.config.grid)[:, -1]

    @torch.no_grad()
    def logits(self, photos: Tensor, map: Ground) -> Tensor:
        """(N, cells): what the softmax over a map's cells is taken of."""
        return self.scale * self.encode_photos(photos) @ self.gallery(map).T


def smoothed(logits: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """(smoothed, plain) cross-entropy of a square of logits whose diagonal is right; -inf takes no part."""
    law = logits.log_softmax(1)
    ce = -law.diagonal().mean()
    there = torch.isfinite(logits)
    uniform = -(law.masked_fill(~there, 0).sum(1) / there.sum(1)).mean()
    return (1 - smoothing) * ce + smoothing * uniform, ce
