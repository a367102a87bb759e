"""HMAR: hierarchical masked generation (arXiv 2506.04421).

A scale sees its own positions alone; the past enters through its input, the sum of the scales so far, so nothing is
kept. What was drawn at once is then refined: a second copy of the last blocks, with a head of its own, predicts the
least certain tokens again, in as many steps as the request says.

Two stages of training. Without the copy (`mask_blocks` 0) this is VAR under another plan, with the loss weighted by
scale. With it, all but the copy is frozen, and the copy learns to fill in tokens that a mask hides.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.canvases import Canvas
from nextset.core.errors import NextsetError, check_range
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.core.protocols import Filter, Job
from nextset.core.refinement import REFINE, RefinedPyramid, refined_pyramid
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.guidance import alone
from nextset.heads.categorical import Softmax
from nextset.heads.scored import scored
from nextset.nn.transformer import AdaptiveBlock
from nextset.systems.hmar.schedule import Settled, make_schedule
from nextset.systems.hmar.weights import token_weights
from nextset.systems.var import Var, VarConfig
from nextset.systems.var.model import Conditioned
from nextset.systems.var.orders import Scales
from nextset.training.label_drop import drop_labels


@dataclasses.dataclass(frozen=True)
class HmarConfig(VarConfig):
    """mask_blocks: last blocks that exist a second time for refinement (0 = no refinement; 8 in the released models).
    scale_weights: of the first stage's loss, see `weights.token_weights`."""

    mask_blocks: int = 0
    scale_weights: Literal["lognorm", "equal", "token"] = "lognorm"

    def check(self) -> None:
        super().check()
        plain = not (self.raster or self.progressive or self.corruption)
        self.require("raster", plain, "false, with progressive and corruption 0: a scale is predicted from one sum")
        self.require("mask_blocks", 0 <= self.mask_blocks <= self.depth, f"between 0 and the depth {self.depth}")
        several = len(set(self.sides)) > 1 or self.scale_weights != "lognorm"
        self.require("scale_weights", several, "'equal' or 'token' where all sides are the same")


class OwnScale(Scales):
    """VAR's order, of which nothing stays."""

    def __init__(self, sides: Sequence[int]) -> None:
        super().__init__(sides)
        self._refined: dict[Settled, Plan] = {}

    def refined(self, settled: Settled) -> Plan:
        """The plan of a schedule; equal ones share it, and with it the views of its steps."""
        if settled not in self._refined:
            self._refined[settled] = refined_pyramid(self.sides, settled, keep=False)
        return self._refined[settled]

    @cached_property
    def plan(self) -> Plan:
        return scale_pyramid(self.sides, keep=False)

    @cached_property
    def masked(self) -> Plan:
        """What the second stage trains on: one step of refinement a scale."""
        steps = tuple(dataclasses.replace(step, phase=REFINE) for step in self.plan.steps)
        return dataclasses.replace(self.plan, steps=steps, name="masked_pyramid")


class MaskTail(nn.Module):
    """The second copy of the last blocks, norm and head, and what a hidden token is replaced by: embedding (1, C)."""

    def __init__(self, model: Var, blocks: int) -> None:
        super().__init__()
        self.blocks = copy.deepcopy(model.blocks[len(model.blocks) - blocks :])
        self.norm_modulation = copy.deepcopy(model.norm_modulation)
        self.classifier = copy.deepcopy(model.classifier)
        self.embedding = nn.Parameter(torch.empty(1, model.config.width))
        nn.init.trunc_normal_(self.embedding, std=math.sqrt(1 / (3 * model.config.width)))


class Both(NamedTuple):
    """What the trunk needs of a class, for each phase."""

    main: Conditioned
    refine: Conditioned | None


class Hmar(Var):
    """VAR's network, and a second end of it."""

    slug = "hmar"
    config_type = HmarConfig
    config: HmarConfig
    order: OwnScale

    def __init__(self, config: HmarConfig, tokenizer: Any = None) -> None:
        super().__init__(config, tokenizer)
        self.masked = MaskTail(self, config.mask_blocks) if config.mask_blocks else None
        if self.masked is not None:
            self.requires_grad_(False)
            self.masked.requires_grad_(True)
        self.register_load_state_dict_pre_hook(_begin_as_the_first)

    def make_order(self) -> OwnScale:
        return OwnScale(self.config.sides)

    # ---- what the engine calls

    def prepare(self, conditions: Sequence[Tensor]) -> Both:  # type: ignore[override]
        main = super().prepare(conditions)
        if self.masked is None:
            return Both(main, None)
        hidden = F.silu(main.vector)
        shared = None if self.shared_modulation is None else self.shared_modulation(hidden).unflatten(-1, (6, -1))
        tail: list[AdaptiveBlock] = list(self.masked.blocks)  # type: ignore[arg-type]
        scale, shift = self.masked.norm_modulation(hidden).unsqueeze(1).chunk(2, dim=-1)
        blocks = (*main.blocks[: -len(tail)], *(b.modulate(hidden, shared) for b in tail))
        return Both(main, Conditioned(main.vector, blocks, (scale + 1, shift)))

    def trunk(self, x: Tensor, cond: Both, ctx: Any) -> Tensor:  # type: ignore[override]
        """In phase "main" as VAR's. In phase `REFINE` x is (R, n, 2 D + 1), as `RefinedPyramid` gives it: a token is made
        of the sum before its scale, and of its own code or, where that is hidden, of the mask embedding."""
        if ctx.step.phase != REFINE:
            return super().trunk(x, cond.main, ctx)
        assert self.masked is not None and cond.refine is not None
        channels = self.config.channels
        context, own, hidden = x.to(self.word.weight.dtype).split([channels, channels, 1], -1)
        h = self.word(context + own * (1 - hidden)) + hidden * self.masked.embedding
        blocks = [*self.blocks[: -len(self.masked.blocks)], *self.masked.blocks]
        return self.through(blocks, h, cond.refine, ctx)

    def head(self, step: Step, cond: Both) -> Softmax:  # type: ignore[override]
        if step.phase != REFINE:
            return self.classifier
        assert self.masked is not None
        return self.masked.classifier

    # ---- requests

    def job(
        self,
        classes: Tensor,
        *,
        guidance_scale: float = 1.7,
        top_k: int = 1000,
        top_p: float = 0.99,
        more_smooth: bool = False,
        mask: bool | None = None,
        schedule: Sequence[Sequence[int]] | None = None,
        steps: Mapping[int | str, int] | None = None,
        refine_guidance: float = 0.0,
    ) -> Job:
        """As VAR's, with refinement. mask: whether there is any (by default: where the model can). schedule: for each
        scale, how many tokens each of its forwards settles, such as [[1], [1, 3], [9]]; or steps: {scale: forwards}.
        refine_guidance: share of `guidance_scale` in refinement, where the authors have 1e-6; at 0 one branch runs.
        """
        job = super().job(classes, guidance_scale=guidance_scale, top_k=top_k, top_p=top_p, more_smooth=more_smooth)
        asked = schedule is not None or steps is not None
        if not (self.masked is not None or asked if mask is None else mask):
            return dataclasses.replace(job, canvas=super().canvas(job.entries))
        if self.masked is None:
            raise NextsetError(
                "this model has no blocks for refinement (mask_blocks is 0); use mask=False and no schedule, or train them"
            )
        if more_smooth:
            raise NextsetError("more_smooth mixes codes, but refinement ranks single ones; use mask=False with it")
        check_range("refine_guidance", refine_guidance, 0, 1)
        settled = make_schedule(self.config.sides, schedule, steps)
        plan = self.order.refined(settled)
        scales = [k for k, forwards in enumerate(settled) for _ in forwards]
        passes = [j for forwards in settled for j in range(len(forwards))]
        extra = [guidance_scale * k / max(len(settled) - 1, 1) for k in scales]
        extra = [guidance_scale * refine_guidance if j else t for t, j in zip(extra, passes, strict=True)]
        chains: list[Sequence[Filter]] = [
            [*job.filters(step), scored(j)] for step, j in zip(plan.steps, passes, strict=True)
        ]
        return dataclasses.replace(
            job,
            plan=plan,
            canvas=self.refined(settled, job.entries),
            weights=(lambda step: (1 + extra[step.index], -extra[step.index])) if guidance_scale != 0 else alone,
            filters=lambda step: chains[step.index],
        )

    def refined(self, settled: Settled, entries: int) -> RefinedPyramid:
        """An empty canvas for requests with that schedule."""
        quantiser = self.tokenizer.quantiser
        return RefinedPyramid(quantiser, self.order.sides, entries, settled, device=quantiser.codebook.weight.device)

    def canvas(self, entries: int) -> Canvas:
        """As VAR's; where the model refines, for the released schedule."""
        return (
            super().canvas(entries) if self.masked is None else self.refined(make_schedule(self.config.sides), entries)
        )

    # ---- training

    def loss(
        self, logits: Tensor, codes: Tensor, first: int = 0, last: int = -1, newest: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """As VAR's, each scale with its weight (`HmarConfig.scale_weights`)."""
        _, each = super().loss(logits, codes, first, last)
        weight = token_weights(self.config.scale_weights, self.config.sides)
        return (each * self.cut(weight[None].to(each), first, last % len(self.sizes))).sum(1).mean(), each

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Without a copy of the last blocks as VAR's. With one, masked prediction: one share of hidden tokens, uniform in
        (0, 1], and one choice of them for the whole batch; the loss is the mean cross-entropy of the hidden tokens."""
        if self.masked is None:
            yield from super().updates(batch, step, noise)
            return
        labels, codes = batch["labels"], batch["codes"]
        if self.training:
            drop, none = self.config.label_drop, self.config.classes
            labels = drop_labels(labels, batch["index"], noise.of("label-drop"), drop, none)
        hidden = self.hidden(step, noise)
        where = hidden.nonzero()[:, 0].to(codes.device)
        targets = codes[:, where]
        logits = self.masked_logits(codes, labels, hidden.to(codes.device))[:, where - self.first]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        accuracy = (logits.detach().argmax(-1) == targets).float().mean()
        yield Update("generator", loss, {"ce": loss.detach(), "accuracy": accuracy, "hidden": hidden.float().mean()})

    def hidden(self, step: int, noise: Noise) -> Tensor:
        """(L,) bool: the tokens that a training step hides, ceil(share x tokens) of every scale but the first."""
        at = torch.tensor([step])
        share = 1 - float(noise.of("share").uniform(at, torch.zeros(1, dtype=torch.int64)))
        parts = [torch.zeros(self.first, dtype=torch.bool)]
        for k, size in enumerate(self.sizes[1:], start=1):
            order = noise.of(f"hidden-{k}").permutation(size, step)
            parts.append(order < math.ceil(size * share))
        return torch.cat(parts)

    def masked_logits(self, codes: Tensor, labels: Tensor, hidden: Tensor) -> Tensor:
        """Logits (B, L - first, V) of the scales behind the first, all in one forward; codes (B, L), hidden (L,) bool."""
        canvas = self.refined(make_schedule(self.config.sides), codes.shape[0])
        canvas.pin(codes, torch.ones_like(hidden))
        canvas.open = hidden.expand_as(canvas.open)
        return self.packed(self.order.masked, self.order.masked.steps[1:], canvas, labels)


def _begin_as_the_first(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A state of the first stage is enough to begin the second: the copy starts as what it is a copy of."""
    assert isinstance(model, Hmar)
    tail = model.masked
    if tail is None or any(name.startswith(f"{prefix}masked.") for name in state):
        return
    skipped = len(model.blocks) - len(tail.blocks)
    for name, value in tail.state_dict().items():
        original = re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) + skipped}", name)
        # the mask embedding is a copy of nothing, and stays as it is
        state[f"{prefix}masked.{name}"] = state.get(prefix + original, value)
