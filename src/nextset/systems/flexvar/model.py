"""FlexVAR: next-scale prediction without residuals (Jiao et al. 2025, arXiv 2502.20313).

A scale is the whole picture at its side, predicted from the one before. No weight belongs to a scale: positions come from
one learned map that is resized, so any list of sides will do. Shapes as in VAR's model; a side is (h, w) in cells.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.errors import NextsetError, NextsetWarning, check_range
from nextset.core.noise import Noise
from nextset.core.protocols import Job
from nextset.core.update import Update
from nextset.engine.guidance import alone, constant
from nextset.systems.flexvar.orders import Flat, bar, filters_by_side, flat, ramp_by_side
from nextset.systems.flexvar.sides import Pair, at_random, checked, for_size, for_steps, shaped
from nextset.systems.var import Var, VarConfig
from nextset.systems.var.model import Conditioned
from nextset.tokenizers.flexible import FlexibleVQ
from nextset.tokenizers.multiscale import MultiScaleVQ


@dataclasses.dataclass(frozen=True)
class FlexVarConfig(VarConfig):
    """sides: of a request that names none. places: side of the map of positions. draws, share, budget: how a training
    step's list is drawn (see `sides.at_random`)."""

    vocabulary: int = 8912
    places: int = 32
    draws: tuple[tuple[int, int, int], ...] = ((1, 2, 2), (3, 10, 5), (11, 15, 2), (16, 16, 1))
    share: float = 0.05
    budget: int = 680

    def check(self) -> None:
        super().check()
        whole = not (self.raster or self.progressive or self.corruption)
        self.require("raster", whole, "false, with progressive and corruption 0: they are of residual scales")
        self.require("width", self.width % 2 == 0, "even: positions begin as pairs of sine and cosine")
        self.require("places", 1 <= self.places <= 512, "between 1 and 512")
        self.require("share", 0 <= self.share <= 1, "between 0 and 1")
        self.require("budget", self.budget >= 1, "at least 1")
        ends = [edge for first, last, _ in self.draws for edge in (first, last)]
        fits = all(1 <= count <= last - first + 1 for first, last, count in self.draws)
        ok = bool(ends) and ends == sorted(ends) and ends[0] >= 1 and ends[-1] <= 512 and fits
        self.require("draws", ok, "rising ranges [first, last, how many] of sides between 1 and 512")


def sinusoids(width: int, side: int) -> Tensor:
    """The map of positions before training (1, C, side, side): channel 2i is sin(y w_i), channel 2i + 1 is cos(x w_i)."""
    w = torch.exp(torch.arange(0, width, 2) * (-math.log(10000) / width))
    angle = torch.arange(side) * w[:, None]
    rows, columns = angle.sin()[:, :, None], angle.cos()[:, None, :]
    return torch.stack([rows.expand(-1, -1, side), columns.expand(-1, side, -1)], 1).flatten(0, 1)[None]


class FlexVar(Var):
    """VAR's blocks and head on one map of positions."""

    slug = "flexvar"
    config_type = FlexVarConfig
    config: FlexVarConfig
    order: Flat

    def __init__(self, config: FlexVarConfig, tokenizer: MultiScaleVQ | None = None) -> None:
        super().__init__(config, tokenizer)
        del self.level
        self.position = nn.Parameter(sinusoids(config.width, config.places))

    def make_order(self) -> Flat:
        return flat(checked(self.config.sides))

    def attach(self, tokenizer: MultiScaleVQ) -> None:
        """Use this tokenizer. It may have more sides than a request names: codes for training are made at all of its own."""
        if not isinstance(tokenizer, FlexibleVQ):
            raise NextsetError(
                f"the tokenizer is {type(tokenizer).__name__}, but independent scales need a FlexibleVQ; train one with model.type=flexible_vq"
            )
        super().attach(tokenizer)
        self._outside["usual"] = tokenizer.at(self.config.sides)

    @property
    def tokenizer(self) -> FlexibleVQ:
        """The tokenizer, at the sides of a request that names none."""
        return self._outside.get("usual") or super().tokenizer  # type: ignore[return-value]

    def at(self, sides: Sequence[int | Pair]) -> FlexVar:
        """The same weights on another list of sides."""
        other = copy.copy(self)
        other.order = flat(checked(sides))
        return other

    @property
    def sizes(self) -> list[int]:
        return [h * w for h, w in self.order.sides]

    # ---- what the engine calls

    def positions(self, side: Pair) -> Tensor:
        """The map at a side, by area averages: (h w, C)."""
        return F.interpolate(self.position, size=side, mode="area")[0].flatten(1).T

    def placed(self, h: Tensor, cond: Conditioned, ctx: Any) -> Tensor:
        """As VAR's, with positions of the sides that are fed, and nothing of a scale."""
        start = (cond.vector[:, None] + self.start).to(h.dtype)
        place = torch.cat([self.positions(s.shape[1:]) for s in ctx.step.steps])
        return torch.where((ctx.attr("scale") == 0)[:, None], start, h) + place.to(h.dtype)

    # ---- requests

    def request(self, sides: Any, steps: int | None, width: int | None, height: int | None) -> tuple[Pair, ...]:
        """The list of a request: its sides, or so many steps and pixels."""
        usual = self.config.sides
        if steps is None and width is None and height is None:
            return checked(usual if sides is None else sides)
        if sides is not None:
            raise NextsetError("sides were given with steps, width or height; give the one or the others")
        down = self.tokenizer.spec.downsampling
        for name, pixels in (("width", width), ("height", height)):
            if pixels is not None and (pixels < down or pixels % down or pixels > 512 * down):
                raise NextsetError(f"{name} is {pixels} pixels, but must be a multiple of {down}, at most {512 * down}")
        w = (width or height or usual[-1] * down) // down
        h = (height or width or usual[-1] * down) // down
        return for_size(usual, h, w) if steps is None else shaped(for_steps(steps, max(h, w)), h, w)

    def job(  # type: ignore[override]
        self,
        classes: Tensor,
        *,
        guidance_scale: float = 2.5,
        top_k: int = 900,
        top_p: float = 0.95,
        sides: Sequence[int | Pair] | None = None,
        steps: int | None = None,
        width: int | None = None,
        height: int | None = None,
        guidance: Literal["ramp", "constant"] = "ramp",
        greedy: bool = True,
        largest: int = 16,
        without: Sequence[int] = (),
    ) -> Job:
        """Images of the given classes (N,) int64; `config.classes` means no class.

        sides: list of numbers or (h, w) in cells; or steps, width, height (pixels): how many steps, to which size.
        guidance: "ramp", a weight *added* that grows with the scale to guidance_scale (0 = none) and is whole at sides
        above `largest`; "constant", the weight of the class at all scales (1 = none). greedy: take the likeliest token at
        sides that are above `largest` or not among those the authors draw at. without: ids that are never drawn.
        A side that is no square counts by its longer edge.
        """
        check_range("guidance_scale", guidance_scale, 0, 1000, remedy="2.5 is usual")
        if guidance not in ("ramp", "constant"):
            raise NextsetError(f"guidance is {guidance!r}, but must be 'ramp' or 'constant'")
        pairs = self.request(sides, steps, width, height)
        edges = [max(pair) for pair in pairs]
        if max(edges) > self.config.places:
            warnings.warn(
                f"side {max(edges)} is above the {self.config.places} cells of the map of positions; neighbours will share theirs",
                NextsetWarning,
                stacklevel=2,
            )
        guided = guidance_scale != (0 if guidance == "ramp" else 1)
        job = Var.job(self.at(pairs), classes, guidance_scale=1.0 if guided else 0.0)
        barred = [bar(without, self.config.vocabulary)] if without else []
        filters = filters_by_side(edges, largest, top_k, top_p, greedy, barred)
        weights = ramp_by_side(guidance_scale, edges, largest) if guidance == "ramp" else constant(guidance_scale)
        return dataclasses.replace(job, weights=weights if guided else alone, filters=lambda step: filters[step.index])

    def refine(self, classes: Tensor, images: Tensor, *, given: int | None = None, **settings: Any) -> Job:
        """Draw the finer scales of images (N, 3, H, W), or of one for all classes, whose `given` first scales are kept.

        Images may be smaller than what is asked for (`settings` are those of `job`): super-resolution. By default as many
        scales are given as their feature maps hold.
        """
        job = self.job(classes, **settings)
        pairs, down = job.canvas.sides, self.tokenizer.spec.downsampling  # type: ignore[attr-defined]
        held = next(
            (k for k, (h, w) in enumerate(pairs) if h * down > images.shape[-2] or w * down > images.shape[-1]),
            len(pairs),
        )
        given = min(held, len(pairs) - 1) if given is None else given
        check_range("given", given, 0, held, remedy="a larger image has more scales")
        keep = torch.arange(job.plan.positions) < sum(h * w for h, w in pairs[:given])
        return self._given(job, images, keep)

    def repaint(self, classes: Tensor, images: Tensor, keep: Tensor, **settings: Any) -> Job:
        """Draw images (N, 3, H, W), or one for all classes, again where `keep` (H, W) is 0; they may have any size that the
        encoder takes. A cell is kept where more than half of it is, at every scale."""
        if keep.shape != images.shape[-2:]:
            raise NextsetError(
                f"the mask is {tuple(keep.shape)}, but the images are {tuple(images.shape[-2:])}; resize it"
            )
        if settings.get("sides") is None:
            settings = {"height": images.shape[-2], "width": images.shape[-1], **settings}
        job = self.job(classes, **settings)
        small = F.interpolate(keep[None, None].float(), size=job.canvas.sides[-1], mode="area")[0, 0]  # type: ignore[attr-defined]
        return self._given(job, images, job.network.keep_mask(small))  # type: ignore[attr-defined]

    def expand(
        self,
        classes: Tensor,
        images: Tensor,
        *,
        top: int = 0,
        bottom: int = 0,
        left: int = 0,
        right: int = 0,
        **settings: Any,
    ) -> Job:
        """Draw so many pixels around images (N, 3, H, W), or around one for all classes.

        What the encoder sees there are the images' edges, continued: a flat colour would be taken for a part of them.
        """
        margins = {"left": left, "right": right, "top": top, "bottom": bottom}
        for name, pixels in margins.items():
            check_range(name, pixels, 0, 8192, remedy="it is a margin in pixels")
        keep = F.pad(torch.ones(images.shape[-2:]), tuple(margins.values()))
        return self.repaint(classes, F.pad(images, tuple(margins.values()), mode="replicate"), keep, **settings)

    def _given(self, job: Job, images: Tensor, keep: Tensor) -> Job:
        """The job with the images' codes where keep (L,) is True."""
        if len(images) not in (1, job.entries):
            raise NextsetError(
                f"there are {len(images)} images for {job.entries} classes; give one, or one for each class"
            )
        weight = self.tokenizer.quant_conv.weight
        codes = self.tokenizer.encode(images.to(weight.device, weight.dtype), job.canvas.sides)  # type: ignore[attr-defined]
        job.canvas.pin(codes.expand(job.entries, -1), keep)
        return job

    # ---- training

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """VAR's, on a list of sides that is drawn for each step; the usual list where the model is not training.

        batch["codes"]: ids (B, L) at all sides of the tokenizer that was attached, of which the list's are taken. The list
        is a function of the step and the seed: all processes have the same, so that their losses are those of one.
        """
        c = self.config
        sides = at_random(c.sides, c.draws, c.share, c.budget, noise.of("sides"), step) if self.training else c.sides
        view = self.at(sides)
        names = {f"ce_{k}": f"ce_side_{side}" for k, side in enumerate(sides)}
        for update in Var.updates(view, {**batch, "codes": self.at_sides(batch["codes"], sides)}, step, noise):
            yield dataclasses.replace(update, parts={names.get(n, n): part for n, part in update.parts.items()})

    def at_sides(self, codes: Tensor, sides: Sequence[int]) -> Tensor:
        """The ids of some sides (B, L) of codes (B, L') at all sides of the tokenizer."""
        there = self._outside["tokenizer"].config.sides
        total = sum(s * s for s in there)
        if missing := [s for s in sides if s not in there]:
            raise NextsetError(
                f"the list has side {missing[0]}, but the tokenizer's sides are {list(there)}; change draws or sides"
            )
        if codes.shape[1] != total:
            raise NextsetError(
                f"an image has {codes.shape[1]} codes, but the tokenizer's sides make {total}; encode it again"
            )
        parts = dict(zip(there, codes.split([s * s for s in there], 1), strict=True))
        return torch.cat([parts[s] for s in sides], 1)
