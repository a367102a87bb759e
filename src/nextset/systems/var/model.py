"""VAR: next-scale prediction (Tian et al. 2024, arXiv 2404.02905).

What is VAR's own: a plan of scales, an input that is the shrunken sum of the scales so far, a transformer whose norms
are modulated by the class, and guidance that grows with the scale. The loop, memory, masks and draws are the engine's.

Shapes: rows R, fed slots n, width C, code channels D; class ids (N,) int64 in [0, classes], `classes` = no class.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.canvases import Canvas
from nextset.core.configs import Config
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.protocols import Job
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.filters import chain, smooth
from nextset.engine.guidance import alone
from nextset.engine.run import Run, look
from nextset.heads.categorical import Softmax
from nextset.nn.transformer import AdaptiveBlock, Modulation, modulated_norm
from nextset.systems.var.orders import Raster, Scales
from nextset.systems.var.progressive import newest_weight, progressive_stage
from nextset.tokenizers.attached import Tokenized
from nextset.tokenizers.multiscale import MultiScaleVQ
from nextset.training.label_drop import drop_labels


@dataclasses.dataclass(frozen=True)
class VarConfig(Config):
    """Sizes of the transformer and what it is trained with.

    classes: without the extra row for "no class". channels: of the codes. sides: of the scales, coarse to fine.
    shared_adaln: one projection of the condition for all blocks. l2_norm: cosine attention (all released models).
    raster: predict the tokens of a single map one after another, as the baseline of the paper does.
    corruption: see `corrupted` (0 = off, as in the paper). label_drop: probability of training without the class.
    label_smoothing, progressive: of the loss (see `updates`).
    """

    classes: int = 1000
    depth: int = 16
    width: int = 1024
    heads: int = 16
    channels: int = 32
    vocabulary: int = 4096
    sides: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    mlp_ratio: float = 4.0
    shared_adaln: bool = False
    l2_norm: bool = True
    raster: bool = False
    drop_path: float | None = None
    label_drop: float = 0.1
    label_smoothing: float = 0.0
    eps: float = 1e-6
    gamma_init: float = 1e-3
    corruption: float = 0.0
    progressive: float = 0.0
    progressive_start: int = 4
    progressive_warmup: float = 0.02
    progressive_ramp: float = 1.0 / 300

    def check(self) -> None:
        self.require("classes", 1 <= self.classes <= 10**6, "between 1 and 1000000")
        self.require("depth", 1 <= self.depth <= 128, "between 1 and 128")
        self.require("width", 8 <= self.width <= 16384, "between 8 and 16384")
        self.require("heads", self.heads >= 1 and self.width % self.heads == 0, f"a divisor of the width {self.width}")
        self.require("vocabulary", 2 <= self.vocabulary <= 2**20, "between 2 and 1048576")
        ok = (
            1 <= len(self.sides) <= 64
            and all(1 <= s <= 512 for s in self.sides)
            and list(self.sides) == sorted(self.sides)
        )
        self.require("sides", ok, "1 to 64 growing sides between 1 and 512")
        alone = len(self.sides) == 1 and not self.corruption and not self.progressive
        self.require(
            "raster", alone or not self.raster, "false, or used with one side and without corruption and progressive"
        )
        for name in ("label_drop", "label_smoothing", "corruption", "progressive"):
            self.require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")

    @property
    def drop_path_rate(self) -> float:
        """Rate at the last block: 0.1 depth / 24 unless given (sheet, Model)."""
        return 0.1 * self.depth / 24 if self.drop_path is None else self.drop_path


class Conditioned(NamedTuple):
    """What the trunk needs of a class, computed once a request; every tensor has a leading rows axis."""

    vector: Tensor
    blocks: tuple[Modulation, ...]
    final: tuple[Tensor, Tensor]


class Var(Tokenized):
    """The transformer, and the tokenizer whose codes it predicts (frozen, and not part of `state_dict`)."""

    slug = "var"
    config_type = VarConfig
    memory: ClassVar[str | None] = None  # policy that its layers need; None: whatever the caller likes
    # tensors that are never decayed (names of ours for those of the released trainer; sheet, Training)
    no_decay = ("start", "position", "level", "offset", "attn.scale")

    def __init__(self, config: VarConfig, tokenizer: MultiScaleVQ | None = None) -> None:
        super().__init__()
        self.config = config
        c = config
        self.order = self.make_order()
        self.first = self.order.first
        length = sum(s * s for s in c.sides)
        self.class_embedding = nn.Embedding(c.classes + 1, c.width)
        self.start = nn.Parameter(torch.empty(1, self.first, c.width))
        self.position = nn.Parameter(torch.empty(1, length, c.width))
        self.level = nn.Embedding(self.order.levels, c.width)
        self.word = nn.Linear(c.channels, c.width)
        self.shared_modulation = nn.Linear(c.width, 6 * c.width) if c.shared_adaln else None
        rates = [c.drop_path_rate * i / max(c.depth - 1, 1) for i in range(c.depth)]
        self.blocks = nn.ModuleList(self.make_block(rate) for rate in rates)
        self.norm_modulation = nn.Linear(c.width, 2 * c.width)
        self.classifier = Softmax(c.width, c.vocabulary)
        if tokenizer is not None:
            self.attach(tokenizer)
        self.initialise()

    # ---- parts

    def make_block(self, drop_path: float) -> nn.Module:
        """One block of the trunk."""
        c = self.config
        return AdaptiveBlock(
            c.width, c.heads, c.mlp_ratio, shared=c.shared_adaln, l2_norm=c.l2_norm, drop_path=drop_path, eps=c.eps
        )

    def make_order(self) -> Scales | Raster:
        """In which order it predicts."""
        return (Raster if self.config.raster else Scales)(self.config.sides)

    @property
    def layers(self) -> list[AdaptiveBlock]:
        """The blocks, with their type."""
        return list(self.blocks)  # type: ignore[arg-type]

    @property
    def plan(self) -> Plan:
        """The plan of the configured sides."""
        return self.order.plan

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights as the released trainer draws them (sheet, Init), from torch's current generator."""
        std = math.sqrt(1 / (3 * self.config.width))
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.trunc_normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for tensor in (self.start, self.position, self.classifier.weight):
            nn.init.trunc_normal_(tensor, std=std)
        self.classifier.weight.mul_(0.02)
        self.norm_modulation.weight.mul_(0.5)
        gates = 2 * self.config.width
        for block in self.layers:
            block.attn.proj.weight.div_(math.sqrt(2 * self.config.depth))
            block.ffn.down.weight.div_(math.sqrt(2 * self.config.depth))
            if block.modulation is not None:
                block.modulation.weight[:gates].mul_(self.config.gamma_init)
                block.modulation.weight[gates:].mul_(0.5)
            else:
                assert block.offset is not None
                block.offset[:, :2].mul_(self.config.gamma_init)
                block.offset[:, 2:].mul_(0.5)

    # ---- what the engine calls

    def prepare(self, conditions: Sequence[Tensor]) -> Conditioned:
        """Class ids (N,) of each branch -> everything that depends on the class alone."""
        vector = self.class_embedding(torch.cat(list(conditions)).to(self.class_embedding.weight.device))
        hidden = F.silu(vector)
        shared = None if self.shared_modulation is None else self.shared_modulation(hidden).unflatten(-1, (6, -1))
        scale, shift = self.norm_modulation(hidden).unsqueeze(1).chunk(2, dim=-1)
        return Conditioned(vector, tuple(b.modulate(hidden, shared) for b in self.layers), (scale + 1, shift))

    def trunk(self, x: Tensor, cond: Conditioned, ctx: Any) -> Tensor:
        """Shrunken feature maps (R, n, D) -> hidden states (R, n, C). Scale 0 is made of the class instead."""
        return self.through(self.blocks, self.word(x.to(self.word.weight.dtype)), cond, ctx)

    def placed(self, h: Tensor, cond: Conditioned, ctx: Any) -> Tensor:
        """Embedded rows (R, n, C) with the class in scale 0, and with position and scale added."""
        slot, scale = ctx.attr("slot"), ctx.attr("scale")
        start = cond.vector[:, None] + F.embedding(slot.clamp_max(self.first - 1), self.start[0])
        place = F.embedding(slot, self.position[0]) + self.level(scale)
        # in h's dtype: under autocast the residual stream is bfloat16, which halves the traffic of a CPU step
        return torch.where((scale == 0)[..., None], start.to(h.dtype), h) + place.to(h.dtype)

    def through(self, blocks: Iterable[nn.Module], h: Tensor, cond: Conditioned, ctx: Any) -> Tensor:
        """Embedded rows (R, n, C), set in their places and led through these blocks -> hidden states (R, n, C)."""
        h = self.placed(h, cond, ctx)
        for i, block in enumerate(blocks):
            h = ctx.hook(f"blocks.{i}", block(h, cond.blocks[i], ctx, f"blocks.{i}"))
        return modulated_norm(h, *cond.final, self.config.eps)

    def head(self, step: Step, cond: Conditioned) -> Softmax:
        return self.classifier

    # ---- requests

    def job(
        self,
        classes: Tensor,
        *,
        guidance_scale: float = 1.5,
        top_k: int = 900,
        top_p: float = 0.96,
        more_smooth: bool = False,
    ) -> Job:
        """Images of the given classes (N,) int64; `config.classes` means no class.

        guidance_scale is the weight *added* at the last scale (0 = none); it grows linearly from 0 at the first.
        """
        classes = classes.reshape(-1)
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) <= self.config.classes:
            wrong = next(int(c) for c in classes if not 0 <= c <= self.config.classes)
            raise NextsetError(
                f"class id is {wrong}, but must be between 0 and {self.config.classes - 1} ({self.config.classes} = no class)"
            )
        steps = len(self.plan)
        filters = chain(top_k, top_p)
        branches = [Branch("class", classes)]
        if guidance_scale != 0:
            branches.append(Branch("none", torch.full_like(classes, self.config.classes)))
        soft = [smooth(k / max(steps - 1, 1)) for k in range(steps)] if more_smooth else None
        return Job(
            network=self,
            plan=self.plan,
            canvas=self.canvas(classes.shape[0]),
            branches=tuple(branches),
            weights=self.order.weights(guidance_scale) if guidance_scale != 0 else alone,
            filters=(lambda step: [*filters, soft[step.index]]) if soft else (lambda step: filters),
            finish=self.finish,
            entries=classes.shape[0],
            cache=self.memory,
        )

    def canvas(self, entries: int) -> Canvas:
        """An empty canvas for that many images."""
        return self.order.canvas(self.tokenizer, entries)

    def finish(self, canvas: Any) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of what the canvas holds so far."""
        return self.tokenizer.decode_features(self.order.features(self.tokenizer, canvas)).float().clamp(-1, 1)

    def keep_mask(self, mask: Tensor) -> Tensor:
        """Which ids of an image stay: mask (p, p) of the last scale, 1 = keep -> (L,) bool."""
        return self.order.keep_mask(mask)

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Teacher forcing: cross-entropy of all scales in one forward.

        batch: {"codes": ids (B, L), "labels": (B,), "index": (B,) global sample indices, "peers": codes (B, L) of another
        picture of the class, when codes are corrupted}. The loss is the mean over the
        batch of sum_l w_l CE_l, w_l = 1/L of the full length, also while progressive training leaves scales out.
        """
        labels, codes = batch["labels"], batch["codes"]
        if self.training:
            c = self.config
            labels = drop_labels(labels, batch["index"], noise.of("label-drop"), c.label_drop, c.classes)
        first, last, newest = self.part(step, batch.get("total_steps", 0))
        seen = codes
        if self.training and self.config.corruption:
            codes, seen = self.corrupted(codes, batch["peers"], batch["index"], noise.of("corruption"))
        canvas = self.canvas(codes.shape[0])
        canvas.pin(seen, torch.ones(codes.shape[1], dtype=torch.bool))
        logits = self.teacher_forced(canvas, labels, first, last)
        loss, each = self.loss(logits, codes, first, last, newest)
        sizes = self.sizes[first : last + 1]
        parts = {f"ce_{k}": part.mean() for k, part in enumerate(each.detach().mean(0).split(sizes), start=first)}
        parts["ce"] = each.detach().mean()
        hit = (logits.detach().argmax(-1) == self.cut(codes, first, last)).float()
        parts["accuracy"] = hit.mean()
        parts["accuracy_last"] = hit[:, -sizes[-1] :].mean()
        yield Update("generator", loss, parts)

    @torch.no_grad()
    def corrupted(self, codes: Tensor, peers: Tensor, index: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """(targets, what is seen) with some seen codes replaced by those of another picture of the class.

        Codes of a scale are drawn independently of each other, so that a sampled scale mixes pictures, which teacher
        forcing never shows. Here up to `corruption` of the codes (a share of its own for each sample) come from `peers`
        (B, L), and each later scale's targets are what then is left to explain. Our option, after the bitwise
        self-correction of Infinity (arXiv 2412.04431); index (B,) addresses the noise.
        """
        quantiser, sides = self.tokenizer.quantiser, self.tokenizer.sides
        positions = torch.arange(codes.shape[1])
        share = noise.of("share").uniform(index, positions[:1]).to(codes.device) * self.config.corruption
        swap = noise.uniform(index, positions).to(codes.device) < share
        rest = self.tokenizer.f_hat(codes)
        targets, seen = [], []
        for k, ((h, w), flip, other) in enumerate(
            zip(sides, swap.split([h * w for h, w in sides], 1), peers.split([h * w for h, w in sides], 1), strict=True)
        ):
            z = rest if k == len(sides) - 1 else quantiser.shrink(rest, (h, w))
            ids = quantiser.codebook.nearest(z.flatten(2).transpose(1, 2))
            targets.append(ids)
            seen.append(torch.where(flip, other, ids))
            rest = rest - quantiser.contribution(quantiser.embed(seen[-1]), k, sides)
        return torch.cat(targets, 1), torch.cat(seen, 1)

    def part(self, step: int, total: int) -> tuple[int, int, float]:
        """(first, last) scale that a training step sees, and the weight of the last one's positions: all of them, with
        weight 1, but in progressive training."""
        c, whole = self.config, len(self.sizes) - 1
        if not c.progressive or not total:
            return 0, whole, 1.0
        stage, within = progressive_stage(
            step, total, c.progressive_warmup * total, c.progressive, c.progressive_start, len(c.sides)
        )
        if stage < 0:
            return 0, whole, 1.0
        return 0, stage, newest_weight(within, c.progressive_ramp * total)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each scale."""
        return [s * s for s in self.config.sides]

    def cut(self, codes: Tensor, first: int, last: int) -> Tensor:
        """Codes (B, L) of scales first..last."""
        return codes[:, sum(self.sizes[:first]) : sum(self.sizes[: last + 1])]

    def teacher_forced(self, canvas: Canvas, labels: Tensor, first: int = 0, last: int = -1) -> Tensor:
        """Logits (B, n, V) of scales first..last (-1: the last of all) in one forward; the canvas gives their inputs."""
        steps = self.plan.steps if self.config.raster else self.plan.steps[first : last + 1 or None]
        return self.packed(self.plan, steps, canvas, labels)

    def packed(self, plan: Plan, steps: Sequence[Step], canvas: Canvas, labels: Tensor) -> Tensor:
        """Logits (B, n, V) of some steps of a plan in one forward; the canvas gives their inputs."""
        branches = (Branch("class", labels),)
        job = Job(self, plan, canvas, branches, alone, lambda step: [], lambda canvas: canvas.codes(), labels.shape[0])
        return look(Run.of(job, Noise(0), cache="none"), plan.join(steps), filtered=False).logits  # type: ignore[attr-defined]

    def loss(
        self, logits: Tensor, codes: Tensor, first: int = 0, last: int = -1, newest: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """(loss, per-position cross-entropy (B, n)) of scales first..last. Each position weighs 1 / L of the full length,
        those of the last scale `newest` times that; codes (B, L)."""
        last = last % len(self.sizes)
        targets = self.cut(codes, first, last)
        each = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), label_smoothing=self.config.label_smoothing, reduction="none"
        )
        each = each.view(targets.shape)
        weight = torch.full((targets.shape[1],), 1 / self.plan.positions, device=each.device)
        weight[-self.sizes[last] :] *= newest
        return (each * weight).sum(1).mean(), each
