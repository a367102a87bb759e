"""xAR: the next X, a cell or another entity of the latent grid, by flow (Ren et al. 2025, arXiv 2502.20388).

What is xAR's own: a trunk that is its own velocity network, with a time for each entity, and training on a context that
is as noisy as what is predicted. Entities, their plan, the canvas, solvers and the loop are the rooms'.

Shapes: rows R, fed slots n (entity after entity), width D, tokens (N, P, C) at all positions of the entities, of which
the last L are the image; class ids (N,) int64 in [0, classes], `classes` = no class. Times: 0 is data, 1 is noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.entities import chain, entities
from nextset.core.errors import NextsetError, NextsetWarning, check_range, nearest
from nextset.core.latent_pyramid import pyramid
from nextset.core.latents import Flowing
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.protocols import Filter, Job
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.guidance import alone
from nextset.engine.run import Run, look
from nextset.heads.velocity import VelocityHead, crossing
from nextset.nn.flow import Solver, TimeEmbedding, solver, velocity
from nextset.nn.gated import Stacks, xavier
from nextset.systems.xar.config import XarConfig
from nextset.tokenizers.attached import OnLatents
from nextset.training.label_drop import drop_labels

SAMPLERS = ("sde", "euler")


@lru_cache(maxsize=8)
def sampling_plan(entity: str, side: int, steps: Solver) -> Plan:
    """Every entity through all times of a solver but the last, which its clean step feeds. Plans have no state, so
    requests share them, and what was asked of their views."""
    of = entities(entity, side)
    return chain(of, [steps.times[:-1]] * len(of), whole=False)


class Xar(OnLatents):
    """The two stacks and the velocity, and the tokenizer whose latents they predict (frozen, and not part of
    `state_dict`)."""

    slug = "xar"
    config_type = XarConfig
    watched = ("mse",)

    def __init__(self, config: XarConfig, tokenizer: Any = None) -> None:
        super().__init__()
        self.config = c = config
        self.class_embedding = nn.Embedding(c.classes + 1, c.width)
        self.time = TimeEmbedding(c.width)
        self.token_in = nn.Linear(c.token_channels, c.width)
        self.stacks = Stacks(c.entities.positions, c.width, c.depths, c.head_counts, c.mlp_ratio, c.dropout)
        self.velocity = VelocityHead(c.width, c.token_channels)
        if tokenizer is not None:
            self.attach(tokenizer)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights as the released trainer draws them, from torch's current generator; nothing begins at zero but
        biases."""
        nn.init.normal_(self.class_embedding.weight, std=0.02)
        for part in (self.time, self.token_in, self.velocity):
            part.apply(xavier)

    # ---- what the engine calls

    def prepare(self, conditions: Sequence[Tensor]) -> Tensor:
        """Class ids (N,) of each branch -> their vectors (R, D)."""
        return self.class_embedding(torch.cat(list(conditions)).to(self.class_embedding.weight.device))

    def trunk(self, x: Tensor, cond: Tensor, ctx: Any) -> Tensor:
        """Tokens (R, n, C) of the fed slots -> hidden states (R, n, D).

        A step feeds one entity at one time, so class and time make one condition a step: a join has several.
        """
        sizes = torch.tensor([step.rows for step in ctx.step.steps])
        level = ctx.attr("level")[..., (sizes.cumsum(0) - sizes).to(cond.device)]
        time = self.time(level)
        c = F.silu(cond[:, None] + (time if time.dim() == 3 else time[None]))
        spread = torch.arange(len(sizes)).repeat_interleave(sizes).to(cond.device) if len(sizes) > 1 else None
        where = torch.stack([ctx.attr("y"), ctx.attr("x")], -1)
        return self.stacks(self.token_in(x.to(self.token_in.weight.dtype)), c, where, ctx, spread=spread)

    def head(self, step: Step, cond: Any) -> VelocityHead:
        return self.velocity

    # ---- requests

    @property
    def plan(self) -> Plan:
        """The plan of a request that asks for nothing else."""
        return sampling_plan(self.config.entity, self.config.sides[0], solver("sde", 40))

    def job(
        self,
        classes: Tensor,
        *,
        guidance_scale: float = 2.7,
        num_steps: int = 40,
        sampler: Literal["sde", "euler"] | str = "sde",
    ) -> Job:
        """Images of the given classes (N,) int64; `config.classes` means no class.

        guidance_scale: of the last entity, approached from 1 at the first; 1 = none, and less counts as 1 with a
        warning. num_steps: forwards of the network for each entity. sampler: "sde" adds noise on the way and needs 3
        steps at least, "euler" is deterministic.
        """
        classes = self.class_ids(classes)
        if sampler not in SAMPLERS:
            raise NextsetError(
                f"sampler is {sampler!r}, but must be {' or '.join(map(repr, SAMPLERS))}: {nearest(sampler, SAMPLERS)}"
            )
        check_range("guidance_scale", guidance_scale, 0, 1000, remedy="1 switches guidance off")
        if guidance_scale < 1:
            warnings.warn(
                f"guidance_scale is {guidance_scale}; below 1 it counts as 1, which is none",
                NextsetWarning,
                stacklevel=2,
            )
        guidance_scale, steps, of = max(guidance_scale, 1.0), solver(sampler, num_steps), self.config.entities
        branches = [Branch("class", classes)]
        if guidance_scale != 1:
            branches.append(Branch("none", torch.full_like(classes, self.config.classes)))
        each = len(steps) + 1  # steps of the plan for an entity, the clean one included

        def weights(step: Step) -> tuple[float, ...]:
            share = step.index // each / (len(of) - 1) if len(of) > 1 else 1.0
            scale = 1 + (guidance_scale - 1) * share
            return (scale, 1 - scale)[: len(branches)]

        crossings: list[list[Filter]] = [[crossing(steps, i)] for i in range(len(steps))]
        return Job(
            network=self,
            plan=sampling_plan(self.config.entity, self.config.sides[0], steps),
            canvas=self.canvas(len(classes)),
            branches=tuple(branches),
            weights=weights,
            filters=lambda step: crossings[step.index % each],
            finish=self.finish,
            entries=len(classes),
        )

    def resume(self, classes: Tensor, images: Tensor, first: int, **settings: Any) -> Job:
        """Draw the entities behind the first ones of images (N, 3, H, W) in [-1, 1], which are given: out-painting of
        cells, details for scales. settings: of `job`."""
        of = self.config.entities
        check_range("first", first, 1, len(of) - 1, remedy="there must be an entity to keep, and one to draw")
        job, codes = self.job(classes, **settings), self.encode(images)
        given = torch.zeros(of.positions, dtype=torch.bool)
        given[torch.cat(of.sets[:first])] = True
        job.canvas.pin(codes.expand(len(classes), *codes.shape[1:]), given)
        return job

    def encode(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] -> tokens (N, P, C) at all positions."""
        weight = self.tokenizer.quant_conv.weight
        return self.at_positions(self.tokenizer.encode(images.to(weight.device, weight.dtype)))

    def at_positions(self, tokens: Tensor) -> Tensor:
        """Tokens of the grid in raster order (N, L, C) -> those at all positions (N, P, C); scales are its means."""
        c = self.config
        if c.entities.positions == c.tokens:
            return tokens
        maps = tokens.transpose(1, 2).unflatten(-1, (c.sides[0],) * 2)
        return pyramid(maps, [shape[1:] for shape in c.entities.shapes])

    def keep_mask(self, mask: Tensor) -> Tensor:
        """Which positions of an image stay, see `OnLatents`: entities that are given in part are steered by what is
        given of them, and of scales a coarse token stays where all cells under it do."""
        kept, c = super().keep_mask(mask), self.config
        if c.entities.positions == c.tokens:
            return kept
        maps = kept.float().view(1, 1, c.sides[0], -1)
        return pyramid(maps, [shape[1:] for shape in c.entities.shapes])[0, :, 0] >= 1 - 1e-4

    def canvas(self, entries: int) -> Flowing:
        """An empty canvas for that many images."""
        c = self.config
        return Flowing(entries, c.entities.places, c.token_channels, device=self.token_in.weight.device)

    def finish(self, canvas: Any) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of what the canvas holds: where tokens are under way, of where they lead."""
        return self.paint(canvas.outlook[:, -self.config.tokens :])

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Each entity of an image is noised at a time of its own, and all velocities are predicted in one forward.

        batch: {"features": moments (B, 2 c, h, w), "labels": (B,), "index": (B,) global sample indices}.
        """
        index, labels, c = batch["index"], batch["labels"], self.config
        tokens = self.at_positions(self.latent_tokens(batch["features"], index, noise))
        if self.training:
            labels = drop_labels(labels, index, noise.of("label-drop"), c.label_drop, c.classes)
        times = noise.of("time").normal(index.cpu(), torch.arange(len(c.entities))).sigmoid()
        mse = self.loss(tokens, labels, times, noise, index)
        yield Update("generator", mse, {"mse": mse.detach()})

    def loss(self, tokens: Tensor, labels: Tensor, times: Tensor, noise: Any, index: Tensor) -> Tensor:
        """Mean squared error of the velocity, over all entities. tokens (B, P, C), times (B, entities) in (0, 1)."""
        job = self.teacher_forced(tokens, labels, times)
        run, every = Run.of(job, noise, index.cpu(), cache="none"), job.plan.all()
        law: Any = look(run, every, filtered=False)
        at, canvas = every.draw.to(tokens.device), job.canvas
        assert isinstance(canvas, Flowing)
        return (law.velocity - velocity(tokens[:, at], canvas.noise[:, at])).square().mean()

    def teacher_forced(self, tokens: Tensor, labels: Tensor, times: Tensor) -> Job:
        """A request on which everything is given, whose entities are fed at times (B, entities), in the context that
        the config says."""
        c, noisy = self.config, self.config.context == "noisy"
        plan = chain(c.entities, [[t] for t in times.cpu().unbind(1)], noisy_context=noisy, whole=False)
        canvas = self.canvas(len(tokens))
        canvas.pin(tokens, torch.ones(c.entities.positions, dtype=torch.bool))
        return Job(self, plan, canvas, (Branch("class", labels),), alone, lambda step: [], self.finish, len(tokens))
