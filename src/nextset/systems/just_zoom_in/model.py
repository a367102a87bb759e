"""Just Zoom In: where was this photo taken? A choice of a cell of a map, of a cell of that cell, ... (Erzurumlu et al. 2026,
arXiv 2603.25686).

What is its own: a small causal decoder over one photo and, in turn, the view of the map and the cell that was chosen there.
What is seen next depends on what was chosen, so the canvas is an environment, and the map its world.

Shapes: photos N, rows R, fed slots n, width D, steps S, cells of a view V = grid^2, pixels P; pictures in [-1, 1].
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.errors import NextsetError, NextsetWarning, check_range
from nextset.core.interleaved import CONDITION, Environment, World, interleaved
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.protocols import Ground, Job
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.beams import Beams, Scored
from nextset.engine.filters import chain
from nextset.engine.guidance import alone
from nextset.engine.run import Run, finish, look
from nextset.heads.categorical import Softmax
from nextset.nn.encoders import Encoder
from nextset.nn.llama import LlamaBlock, RMSNorm
from nextset.nn.rope import Turns, angles, frequencies, turns
from nextset.systems.just_zoom_in.config import JustZoomInConfig
from nextset.systems.just_zoom_in.examples import Examples
from nextset.systems.just_zoom_in.photos import crops
from nextset.systems.just_zoom_in.zoom import Cells, Shown, Zoom, on_the_map

AT_ONCE = 64  # pictures that the encoder reads at a time while it searches; changes no result


class Conditioned(NamedTuple):
    """What the trunk needs of a request: the photos' vectors (R, D), and the turns of all slots."""

    photo: Tensor
    turns: Turns


class JustZoomIn(nn.Module):
    """The encoder of photos and views, and the decoder that decides."""

    slug = "just_zoom_in"
    config_type = JustZoomInConfig
    asked_with = "photo"
    watched = ("ce", "accuracy")

    def __init__(self, config: JustZoomInConfig) -> None:
        super().__init__()
        self.config = c = config
        self.encoder = Encoder(c.encoder)
        self.photo_encoder = Encoder(c.encoder) if c.separate else None
        self.action = nn.Embedding(c.actions, c.width)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            LlamaBlock(c.width, c.heads, c.feed_forward, eps=c.eps, dropout=c.dropout) for _ in range(c.depth)
        )
        self.sites = tuple(f"blocks.{i}" for i in range(c.depth))
        self.norm = RMSNorm(c.width, c.eps)
        self.classifier = Softmax(c.width, c.actions, bias=False)
        nn.init.kaiming_uniform_(self.classifier.weight, a=5**0.5)  # as the authors', torch's default for linear maps

    # ---- what the engine calls

    def plan(self, steps: int | None = None) -> Plan:
        """One decision a step, behind the photo; all of them by default."""
        return _plan(self.config.steps if steps is None else steps)

    def prepare(self, conditions: Sequence[Tensor]) -> Conditioned:
        """Crops (N, n, 3, P, P) of each branch, or their vectors (N, D) -> the photos' vectors."""
        c, device = self.config, self.action.weight.device
        photo = torch.cat([x if x.dim() == 2 else self.encode_photos(x) for x in conditions])
        table = turns(angles(torch.arange(1 + 2 * c.steps)[:, None], frequencies(c.width // c.heads // 2, c.rope_base)))
        return Conditioned(photo.to(device), Turns(*(t.to(device) for t in table)))

    def trunk(self, x: Tensor, cond: Conditioned, ctx: Any) -> Tensor:
        """Vectors (R, n, D) of the fed slots -> hidden states (R, n, D). The condition's slot is made of the photo."""
        dtype = self.action.weight.dtype
        of_photo = (ctx.attr("segment") == CONDITION)[:, None]
        h = self.dropout(torch.where(of_photo, cond.photo[:, None].to(dtype), x.to(dtype)))
        turn = cond.turns.at(ctx.attr("slot"))
        for site, block in zip(self.sites, self.blocks, strict=True):
            h = ctx.hook(site, block(h, ctx, site, turn))
        return self.norm(h)

    def head(self, step: Step, cond: Conditioned) -> Softmax:
        return self.classifier

    # ---- pictures

    def encode_photos(self, photos: Tensor) -> Tensor:
        """Photos, as `crops` takes them -> (N, D), the mean over a photo's crops."""
        parts = crops(photos, self.config.pixels)
        vectors = self._encode(self.photo_encoder or self.encoder, parts.flatten(0, 1))
        return vectors.unflatten(0, parts.shape[:2]).mean(1)

    def encode_views(self, views: Tensor) -> Tensor:
        """Views (U, 3, P, P) of the map -> (U, D)."""
        side = self.config.pixels
        if tuple(views.shape[1:]) != (3, side, side):
            raise NextsetError(
                f"views of the map have shape {tuple(views.shape[1:])}, but the model reads (3, {side}, {side}); ask the map for them at that size"
            )
        return self._encode(self.encoder, views)

    def _encode(self, encoder: Encoder, pictures: Tensor) -> Tensor:
        pictures = pictures.to(self.action.weight.device)
        parts = (pictures,) if torch.is_grad_enabled() else pictures.split(AT_ONCE)
        return torch.cat([encoder(part) for part in parts])

    # ---- requests

    def job(
        self,
        photos: Tensor,
        map: Ground,
        *,
        beams: int = 1,
        sample: bool = False,
        temperature: float = 1.0,
        top_k: int = 0,
        steps: int | None = None,
    ) -> Job:
        """Where photos (N, 3, h, w), or (N, n, 3, h, w) where a place has several, were taken, on a map that is searched from
        its `start`. `finish` gives `Cells`.

        beams: cells a photo, the likeliest paths (1 = greedy). sample: draw the path instead, one. temperature: of the law,
        1 as trained; it also decides what probabilities are said. top_k: choices of a step that count, 0 = all. steps: stop
        early, at a coarser cell. Cells whose centre the map does not cover are not chosen.
        """
        c = self.config
        steps = c.steps if steps is None else steps
        check_range("steps", steps, 1, c.steps, remedy="the model is trained for no more")
        if sample and beams != 1:
            raise NextsetError(f"beams is {beams}, but a sampled search has one path; leave out beams or sample")
        last, finest = map.start[2] / c.grid ** (steps - 1) / c.pixels, map.native_mpp
        if last < finest / 4:
            warnings.warn(
                f"the last view has {last:.3g} m a pixel, but the map's finest is {finest:.3g} m; stop earlier (steps), or use a finer map",
                NextsetWarning,
                stacklevel=2,
            )
        world = Zoom(map, self.encode_views, self.action, c.grid, c.pixels)
        filters, asked = chain(top_k, 0.0, temperature), crops(photos, c.pixels)

        def found(canvas: Any) -> Cells:
            return Cells.of(canvas, len(asked) if beams > 1 else len(canvas.codes()))

        job = self.search(asked, world, steps)
        canvas: Any = job.canvas
        job.filters = lambda step: [*on_the_map(canvas, world, step.index), *filters]
        job.finish = found
        job.controllers = (Scored() if sample else Beams(beams),)
        return job

    @torch.no_grad()
    def locate(self, photos: Tensor, map: Ground, *, seed: int = 0, **settings: Any) -> Cells:
        """What `job` with these settings finds; seed: of what is drawn where `sample` asks for it."""
        return finish(Run.of(self.job(photos, map, **settings), Noise(seed, "locate")))  # type: ignore[return-value]

    def search(self, photos: Tensor, world: World, steps: int | None = None) -> Job:
        """A search of any world, without filters and without beams; photos as `prepare` takes them."""
        plan = self.plan(steps)
        canvas = Environment(world, len(photos), len(plan), device=self.action.weight.device)
        branches = (Branch("photo", photos),)
        return Job(self, plan, canvas, branches, alone, lambda step: [], lambda canvas: canvas.codes(), len(photos))

    # ---- training

    @classmethod
    def examples(cls, options: dict[str, Any], config: JustZoomInConfig) -> Examples:
        """What a recipe's [data] says, as batches: each photo with the views and cells on the way to its place."""
        c = config
        return Examples.open(options, grid=c.grid, steps=c.steps, pixels=c.pixels, context=None)

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Teacher forcing with true views and cells: smoothed cross-entropy, all steps alike.

        batch: {"photos": as `crops` takes them, "actions": (B, S), "views": (B, S, 3, P, P), or the different ones of the
        batch (U, 3, P, P) with "view_index" (B, S), "index": (B,) global sample indices}.
        """
        views, index = batch["views"], batch.get("view_index")
        if index is None:
            index = torch.arange(views.shape[0] * views.shape[1]).view(views.shape[:2])
            views = views.flatten(0, 1)
        seen = self.encode_views(views)
        actions = batch["actions"].to(seen.device)
        logits = self.teacher_forced(self.encode_photos(batch["photos"]), seen[index.to(seen.device)], actions)
        loss, ce = self.loss(logits, actions)
        hit = (logits.detach().argmax(-1) == actions).float()
        parts = {"ce": ce.detach(), "accuracy": hit.mean(), "whole_path": hit.amin(1).mean()}
        yield Update("generator", loss, parts)

    def teacher_forced(self, photos: Tensor, views: Tensor, actions: Tensor) -> Tensor:
        """Logits (B, S, V) of each decision given the true ones before it: vectors (B, D) and (B, S, D), actions (B, S)."""
        job = self.search(photos, Shown(views, self.action), actions.shape[1])
        job.canvas.pin(actions, torch.ones(actions.shape[1], dtype=torch.bool))
        law = look(Run.of(job, Noise(0), cache="none"), job.plan.all(), filtered=False)
        return law.logits  # type: ignore[attr-defined,no-any-return]

    def choices(self, asked: dict[str, Tensor], map: Ground) -> tuple[Tensor, Tensor]:
        """What `Examples.question` asks: logits (N * S, V) of all decisions on the true path, and the right ones (N * S,)."""
        views = asked["views"]
        seen = self.encode_views(views.flatten(0, 1)).unflatten(0, views.shape[:2])
        actions = asked["actions"].to(seen.device)
        logits = self.teacher_forced(self.encode_photos(asked["photos"]), seen, actions)
        return logits.flatten(0, 1).cpu(), actions.flatten().cpu()

    def loss(self, logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """(smoothed cross-entropy, plain cross-entropy), means over photos and steps."""
        flat, target = logits.flatten(0, 1), actions.flatten()
        smoothed = F.cross_entropy(flat, target, label_smoothing=self.config.label_smoothing)
        return smoothed, F.cross_entropy(flat, target)


@functools.lru_cache(maxsize=16)
def _plan(steps: int) -> Plan:
    return interleaved(1, steps)
