"""FlowAR: scale-wise autoregression with flow matching (Ren et al. 2024, arXiv 2412.15205).

What is FlowAR's own: scales that are the shrunken latents themselves, a trunk that is fed the scale before, grown, and
guidance that grows with the scale. Trunk layers, the flow head, plan, canvas, noise and the loop are the rooms'.

Shapes: rows R, fed slots n (one a position), width D, tokens (N, L, C) of all scales with C = channels x patch^2; class ids
(N,) int64 in [0, classes], `classes` = no class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.errors import check_range
from nextset.core.latent_pyramid import LatentPyramid, pyramid
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.core.protocols import Job, NoiseSource
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.annealing import AnnealedHead, HeadSteps
from nextset.engine.guidance import alone, ramp
from nextset.engine.run import Run, look
from nextset.heads.flow import Flow, Flowed, followed_with
from nextset.heads.flow_net import FlowNet, stretched
from nextset.heads.implicit import HEAD_BATCH
from nextset.nn.gated import Stacks, xavier
from nextset.systems.flowar.config import FlowArConfig
from nextset.systems.flowar.times import LEAST, MOST, times
from nextset.tokenizers.attached import OnLatents
from nextset.training.label_drop import drop_labels


class FlowAr(OnLatents):
    """The two stacks and the flow head, and the tokenizer whose latents they predict (frozen, and not part of
    `state_dict`)."""

    slug = "flowar"
    config_type = FlowArConfig
    watched = ("loss_0", "loss_last")

    def __init__(self, config: FlowArConfig, tokenizer: Any = None) -> None:
        super().__init__()
        self.config = c = config
        places, full = sum(s * s for s in c.scales), (c.sides[0],) * 2
        self.class_embedding = nn.Embedding(c.classes + 1, c.width)
        self.token_in = nn.Linear(c.token_channels, c.width)
        self.stacks = Stacks(places, c.width, c.depths, c.head_counts, c.mlp_ratio, c.dropout)
        self.head_position = nn.Parameter(torch.empty(places, c.width))
        net = FlowNet(
            c.width, c.token_channels, c.head_depth, c.head_width, c.flow_heads, full, mix=c.mix, pooled=c.pooled
        )
        self.flow = Flow(net, times)
        if tokenizer is not None:
            self.attach(tokenizer)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights as the authors draw them (sheet, Model), from torch's current generator; nothing begins at zero."""
        for tensor in (self.class_embedding.weight, self.head_position):
            nn.init.normal_(tensor, std=0.02)
        xavier(self.token_in)

    # ---- what the engine calls

    def prepare(self, conditions: Sequence[Tensor]) -> Tensor:
        """Class ids (N,) of each branch -> their vectors (R, D)."""
        return self.class_embedding(torch.cat(list(conditions)).to(self.class_embedding.weight.device))

    def trunk(self, x: Tensor, cond: Tensor, ctx: Any) -> Tensor:
        """Scales before, grown (R, n, C), -> hidden states (R, n, D). Rows of the first scale are made of the class."""
        tokens = self.token_in(x.to(self.token_in.weight.dtype))
        h = torch.where((ctx.attr("scale") == 0)[..., None], cond[:, None].to(tokens.dtype), tokens)
        cells, sides = (torch.stack([ctx.attr(name) for name in names], -1) for names in (("y", "x"), ("h", "w")))
        coordinates = stretched(cells, sides, (self.config.sides[0],) * 2)
        h = self.stacks(h, F.silu(cond)[:, None].to(h.dtype), coordinates, ctx)
        return ctx.hook("trunk", h + self.head_position[ctx.attr("slot")].to(h.dtype))

    def head(self, step: Step, cond: Any) -> Flow:
        return self.flow

    # ---- requests

    @cached_property
    def plan(self) -> Plan:
        """One step a scale."""
        return scale_pyramid(self.config.scales)

    def job(
        self,
        classes: Tensor,
        *,
        guidance_scale: float = 2.4,
        guidance_interval: float = 0.9,
        inner_steps: int = 25,
        head_steps: HeadSteps | None = None,
        head_batch: int = HEAD_BATCH,
    ) -> Job:
        """Images of the given classes (N,) int64; `config.classes` means no class.

        guidance_scale: at the last scale, 1 = none; it grows linearly from 1 at the first. guidance_interval: it acts where
        the flow's time is at most this (1 = noise, 0 = data). inner_steps: of the flow, a scale (see `times`). head_steps:
        "50-5" or (50, 5), inner steps at the first and at the last scale, in place of inner_steps. head_batch: rows of the
        head at a time, whole scales of an image at least; changes no picture.
        """
        classes = self.class_ids(classes)
        check_range("guidance_scale", guidance_scale, 1, 1000, remedy="1 switches guidance off")
        branches = [Branch("class", classes)]
        if guidance_scale != 1:
            branches.append(Branch("none", torch.full_like(classes, self.config.classes)))
        filters = [followed_with(times(inner_steps), guidance_interval, head_batch)]
        # with one scale there is no first one that would go unguided
        steps = len(self.plan)
        grown = ramp(guidance_scale - 1, steps) if steps > 1 else (lambda step: (guidance_scale, 1 - guidance_scale))
        return Job(
            network=self,
            plan=self.plan,
            canvas=self.canvas(len(classes)),
            branches=tuple(branches),
            weights=grown if len(branches) > 1 else alone,
            filters=lambda step: filters,
            finish=self.finish,
            entries=len(classes),
            controllers=() if head_steps is None else (AnnealedHead.of(head_steps, LEAST, MOST),),
        )

    def resume(self, classes: Tensor, images: Tensor, scales: int, **settings: Any) -> Job:
        """Draw the scales behind the first `scales` of images (N, 3, H, W) in [-1, 1], which are given: variations of a
        picture, or details for a small one (grown to the model's size). settings: of `job`."""
        check_range("scales", scales, 1, len(self.plan) - 1, remedy="there must be a scale to keep, and one to draw")
        job = self.job(classes, **settings)
        codes = self.encode(images)
        ends = self.plan.slots["scale"] < scales
        job.canvas.pin(codes.expand(len(classes), *codes.shape[1:]), ends)
        return job

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] -> tokens (N, L, C) of all scales."""
        weight = self.tokenizer.quant_conv.weight
        return self.scales_of(self.tokenizer.encode(images.to(weight.device, weight.dtype)))

    def scales_of(self, tokens: Tensor) -> Tensor:
        """Tokens of the grid in raster order (N, h w, C) -> those of all scales (N, L, C), of which they are the last."""
        side = (self.config.sides[0],) * 2
        return pyramid(tokens.transpose(1, 2).unflatten(-1, side), [(s, s) for s in self.config.scales])

    def keep_mask(self, mask: Tensor) -> Tensor:
        """Which tokens of an image stay, see `OnLatents`: (L,) bool. A token of a coarse scale stays where all cells under
        it do."""
        kept = super().keep_mask(mask).view(1, 1, *mask.shape)
        return pyramid(kept.float(), [(s, s) for s in self.config.scales])[0, :, 0] >= 1 - 1e-4

    def canvas(self, entries: int) -> LatentPyramid:
        """An empty canvas for that many images."""
        c = self.config
        return LatentPyramid([(s, s) for s in c.scales], entries, c.token_channels, device=self.head_position.device)

    def finish(self, canvas: Any) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of what the canvas holds so far: its last scale, grown."""
        return self.paint(canvas.picture().flatten(2).transpose(1, 2))

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Teacher forcing: the flow's loss of all scales behind one forward.

        batch: {"features": moments (B, 2 c, h, w), "labels": (B,), "index": (B,) global sample indices}. A scale weighs as
        many times as its tokens are of those of the last.
        """
        index, labels, c = batch["index"], batch["labels"], self.config
        tokens = self.scales_of(self.latent_tokens(batch["features"], index, noise))
        if self.training:
            labels = drop_labels(labels, index, noise.of("label-drop"), c.label_drop, c.classes)
        each = self.loss(tokens, labels, noise, index)
        parts = {f"loss_{k}": part.detach() for k, part in enumerate(each)}
        yield Update("generator", self.weighed(each), {**parts, "loss_last": each[-1].detach()})

    def weighed(self, each: Tensor) -> Tensor:
        """The loss of those of the scales (K,)."""
        sizes = torch.tensor(self.config.scales, device=each.device) ** 2
        return (each * sizes / sizes[-1]).sum()

    def loss(self, tokens: Tensor, labels: Tensor, noise: NoiseSource, index: Tensor) -> Tensor:
        """Mean squared error of the velocity of each scale: (K,), of tokens (B, L, C) of all scales."""
        step, hidden = self.plan.all(), self.teacher_forced(tokens, labels).hidden
        return self.flow.loss(hidden[0], tokens, step, noise, index)

    def teacher_forced(self, tokens: Tensor, labels: Tensor) -> Flowed:
        """The law of all scales in one forward, when each is given to those behind it."""
        canvas = self.canvas(len(tokens))
        canvas.pin(tokens, torch.ones(self.plan.positions, dtype=torch.bool))
        branches = (Branch("class", labels),)
        job = Job(self, self.plan, canvas, branches, alone, lambda step: [], lambda canvas: canvas.codes(), len(tokens))
        law = look(Run.of(job, Noise(0), cache="none"), self.plan.all(), filtered=False)
        assert isinstance(law, Flowed)
        return law
