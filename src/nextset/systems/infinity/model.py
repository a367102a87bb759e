"""Infinity: text to image by next-scale bits (Han et al. 2024, arXiv 2412.04431).

What is Infinity's own: a token is d bits, each predicted for itself; the text is read by attention in every block and,
pooled, modulates the norms; positions are rotary and mean the same place at every size; training flips bits of its own
input and learns to repair them. The loop, memory, masks and draws are the engine's.

Shapes: rows R, fed slots n, width C; channels of a cell d, bits of a token D = d patch^2; text (N, T, Ct).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.canvases import Canvas, ResidualPyramid
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.protocols import Job
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.filters import chain
from nextset.engine.guidance import GuideAt, Weights, alone, each_step
from nextset.engine.run import Run, look
from nextset.heads.categorical import Softmax
from nextset.nn.rope import Turns
from nextset.nn.transformer import modulated_norm
from nextset.systems.infinity.blocks import BlockCondition, InfinityBlock, TextPath
from nextset.systems.infinity.config import InfinityConfig
from nextset.systems.infinity.correction import corrected, strengths
from nextset.systems.infinity.schedules import PIXELS, TABLE, Grid, Grids, nearest_ratio, schedule
from nextset.text.condition import Text
from nextset.text.words import WordEncoder
from nextset.tokenizers.attached import Tokenized
from nextset.tokenizers.bitwise import BitwisePyramid


class Prompted(NamedTuple):
    """The condition of a branch: features of the texts, and the grids of the request."""

    text: Text
    grids: Grids


class Conditioned(NamedTuple):
    """What the trunk needs of the text, computed once a request; every tensor has a leading rows axis."""

    pooled: Tensor
    blocks: tuple[BlockCondition, ...]
    mask: Tensor
    final: tuple[Tensor, Tensor]
    turns: Turns


class Infinity(Tokenized):
    """The transformer, and the tokenizer whose bits it predicts (frozen, and not part of `state_dict`)."""

    slug = "infinity"
    config_type = InfinityConfig
    asked_with = "text"
    known_pixels = tuple(PIXELS)
    trained_on = "features"
    agrees_on = ("channels", "patch")
    # tensors that are never decayed (sheet, Training)
    watched = ("bit", "accuracy")
    no_decay = ("null", "start", "level", "offset", "attn.scale", "pool.query")

    def __init__(self, config: InfinityConfig, tokenizer: BitwisePyramid | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.words = None if c.words is None else WordEncoder(c.words)
        self.null = nn.Parameter(torch.empty(c.text_length, c.text_channels))
        self.text = TextPath(c.text_channels, c.width, c.pooling, c.eps)
        self.start = nn.Parameter(torch.empty(1, 1, c.width))
        self.level = nn.Embedding(c.levels, c.width)
        self.word = nn.Linear(c.bits, c.width)
        self.shared_modulation = nn.Linear(c.width, 6 * c.width)
        rates = [c.drop_path * i / max(c.depth - 1, 1) for i in range(c.depth)]
        self.blocks = nn.ModuleList(self.make_block(rate) for rate in rates)
        self.sites = tuple(f"blocks.{i}" for i in range(c.depth))
        self.norm_modulation = nn.Linear(c.width, 2 * c.width)
        self.classifier = Softmax(c.width, 2, factors=c.bits)
        if tokenizer is not None:
            self.attach(tokenizer)
        self.initialise()

    # ---- parts

    def make_block(self, drop_path: float) -> InfinityBlock:
        """One block of the trunk."""
        c = self.config
        return InfinityBlock(
            c.width, c.heads, c.mlp_ratio, shared=True, l2_norm=True, drop_path=drop_path, eps=c.eps,
            hidden=c.hidden, text=c.width, cross_scale=c.cross_scale,
        )  # fmt: skip

    @property
    def layers(self) -> list[InfinityBlock]:
        """The blocks, with their type."""
        return list(self.blocks)  # type: ignore[arg-type]

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights as the released trainer draws them (sheet, Init), from torch's current generator."""
        c = self.config
        std = math.sqrt(1 / (3 * c.width))
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)) and not name.startswith("words."):
                nn.init.trunc_normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for tensor in (self.start, self.classifier.weight, self.text.pool.query):
            nn.init.trunc_normal_(tensor, std=std)
        nn.init.trunc_normal_(self.null, std=1.2 / math.sqrt(c.text_channels))
        self.classifier.weight.mul_(0.02)
        self.norm_modulation.weight.mul_(c.head_init)
        for block in self.layers:
            for layer in (block.attn.proj, block.cross.proj, block.ffn.down):
                layer.weight.div_(math.sqrt(2 * c.depth))
            assert block.offset is not None
            block.offset[:, :2].mul_(c.gate_init)
            block.offset[:, 2:].mul_(c.head_init)

    # ---- what the engine calls

    def prepare(self, conditions: Sequence[Prompted]) -> Conditioned:
        """Texts of each branch -> everything that depends on the text alone."""
        device = self.start.device
        longest = max(c.text.values.shape[1] for c in conditions)
        texts = [c.text.to(device).pad_to(longest) for c in conditions]
        values, mask = torch.cat([t.values for t in texts]), torch.cat([t.mask for t in texts])[:, None, None]
        pooled, projected = self.text(values, mask)
        dtype = self.word.weight.dtype
        hidden = F.silu(pooled).to(dtype)
        shared = self.shared_modulation(hidden).unflatten(-1, (6, -1))
        scale, shift = self.norm_modulation(hidden).unsqueeze(1).chunk(2, dim=-1)
        blocks = tuple(b.condition(hidden, shared, projected.to(dtype)) for b in self.layers)
        turns = conditions[0].grids.turns(self.config.width // self.config.heads, device)
        return Conditioned(pooled, blocks, mask, (scale + 1, shift), turns)

    def trunk(self, x: Tensor, cond: Conditioned, ctx: Any) -> Tensor:
        """Resized sums of the scales before (R, n, D) -> hidden states (R, n, C). Scale 0 is made of the text instead."""
        scale, turn = ctx.attr("scale"), cond.turns.at(ctx.attr("slot"))
        h = self.word(x.to(self.word.weight.dtype))
        if not torch.is_autocast_enabled(h.device.type):  # there the stream is bfloat16, which halves a CPU's traffic
            h = h.float()
        start = (cond.pooled[:, None] + self.start).to(h.dtype)
        level = self.level(scale).to(h.dtype)
        h = torch.where((scale == 0)[:, None], start, h) + level
        chunk = len(self.blocks) // self.config.level_chunks
        for i, (site, block) in enumerate(zip(self.sites, self.blocks, strict=True)):
            if i and i % chunk == 0:
                h = h + level
            h = ctx.hook(site, block(h, cond.blocks[i], cond.mask, ctx, site, turn))
        return modulated_norm(h, *cond.final, self.config.eps)

    def head(self, step: Step, cond: Conditioned) -> Softmax:
        return self.classifier

    # ---- requests

    def encode_prompts(self, prompts: Sequence[str]) -> Text:
        """Features of prompts by the encoder that was trained with it."""
        if self.words is None:
            raise NextsetError(
                f"this model reads features of {self.config.text_channels} channels and has no text encoder of its own; "
                "name one: --text-encoder google/flan-t5-xl"
            )
        return self.words(self.words.read(prompts))

    def grids(self, ratio: float = 1.0, pixels: str | None = None) -> Grids:
        """The scales for height / width `ratio` (of the table) and a number of pixels."""
        c = self.config
        if c.sides:
            return Grids.of(c.sides, c.reference, c.rope)
        return Grids(schedule(ratio, pixels or c.pixels), TABLE[ratio][-1], c.rope)

    def ratios(self) -> tuple[float, ...]:
        """Values of height / width that it knows."""
        return (1.0,) if self.config.sides else tuple(TABLE)

    def job(
        self,
        text: Text,
        *,
        negative: Text | None = None,
        guidance_scale: float | Sequence[float] = 3.0,
        temperature: float | Sequence[float] = 0.5,
        top_k: int = 0,
        top_p: float = 0.97,
        guide_at: Sequence[int] = (0,),
        ratio: float = 1.0,
        pixels: str | None = None,
        grids: Grids | None = None,
    ) -> Job:
        """Images of texts (features of N entries).

        negative: texts that guidance leads away from, one or N; by default the learned null text at each text's length.
        guidance_scale: weight of the text, 1 = none; temperature: of the bits; each a number, or one a scale.
        top_k of a bit is 1 (the likelier value always) or has no effect; top_p: drops a value with probability at most 1 - top_p.
        guide_at: where guidance acts: 0 = on the logits, -i = behind block depth - i, for which both rows run to the end.
        ratio: height / width, of `ratios()`; pixels: "0.06M", "0.25M", "0.60M" or "1M"; grids: others than these give.
        """
        grids = grids or self.grids(ratio, pixels)
        steps, n = len(grids.plan), len(text)
        scales = per_scale("guidance_scale", guidance_scale, steps)
        taus = per_scale("temperature", temperature, steps)
        filters = [chain(top_k, top_p, tau) for tau in taus]
        for place in guide_at:
            if not -self.config.depth <= place <= 0:
                raise NextsetError(
                    f"guide_at has {place}, but must be between {-self.config.depth} (the first block) and 0"
                )
        inside = [self.sites[place] for place in guide_at if place < 0]
        branches = [Branch("text", Prompted(text, grids))]
        weights: Weights = alone
        if any(s != 1 for s in scales):
            other = self.without(text) if negative is None else negative
            if len(other) not in (1, n):
                raise NextsetError(f"there are {len(other)} negative texts for {n} texts; give one, or one for each")
            other = other.repeat_interleave(n // len(other))
            branches.append(Branch("negative", Prompted(other, grids), always=bool(inside)))
            weights = each_step(scales if 0 in guide_at else [1.0] * steps)
        return Job(
            network=self,
            plan=grids.plan,
            canvas=self.canvas(n, grids),
            branches=tuple(branches),
            weights=weights,
            filters=lambda step: filters[step.index],
            finish=self.finish,
            entries=n,
            controllers=(GuideAt(inside, scales),) if inside and len(branches) > 1 else (),
        )

    def without(self, text: Text) -> Text:
        """The learned null text, at the length of each text."""
        limit = min(text.values.shape[1], self.config.text_length)
        rows = self.null[:limit].expand(len(text), -1, -1)
        return Text(rows, text.lengths.clamp_max(limit))

    def canvas(self, entries: int, grids: Grids | None = None) -> ResidualPyramid:
        """An empty canvas for that many images."""
        sides = (grids or self.grids()).sides
        return ResidualPyramid(self.tokenizer.quantiser, sides, entries, device=self.start.device)

    def finish(self, canvas: Any) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of what the canvas holds so far."""
        return self.tokenizer.decode_features(canvas.total()).float().clamp(-1, 1)

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Teacher forcing with self-correction: cross-entropy of every bit of all scales in one forward.

        batch: {"features": of the tokenizer before rounding (B, d, H, W), "captions": B texts, or "text": features of
        them, "index": (B,) global sample indices}.
        """
        c, index, f = self.config, batch["index"], batch["features"].float()
        text = batch["text"] if "text" in batch else self.encode_prompts(batch["captions"])
        if self.training and c.text_drop:
            u = noise.of("text-drop").uniform(index, torch.zeros(1, dtype=torch.int64))[:, 0].to(f.device)
            text = Text(
                torch.where((u < c.text_drop)[:, None, None], self.without(text).values, text.values), text.lengths
            )
        h, w = f.shape[-2] // c.patch, f.shape[-1] // c.patch
        grids = self.grids() if c.sides else self.grids(nearest_ratio(h / w))
        grids = dataclasses.replace(grids, sides=grids.sides[: 1 + grids.sides.index((h, w))])
        chances: list[float] = []
        if self.training and c.correction:
            chances = strengths(noise, step, min(c.correction_scales, len(grids.sides)), c.correction)
        flips = noise.of("flips").uniform(index, torch.arange(grids.plan.positions), lanes=c.bits).to(f.device)
        quantiser = self.tokenizer.quantiser
        labels, fed = corrected(quantiser, f, grids.sides, chances, flips, requantise=c.requantise)
        canvas = self.canvas(len(f), grids)
        canvas.pin(fed, torch.ones(grids.plan.positions, dtype=torch.bool))
        logits = self.teacher_forced(canvas, text, grids)
        loss, each = self.loss(logits, labels, grids.sides)
        sizes = [a * b for a, b in grids.sides]
        parts = {f"bit_{k}": part.mean() for k, part in enumerate(each.detach().split(sizes, 1))}
        parts["bit"] = each.detach().mean()
        right = (logits.detach().argmax(-1) == labels).float()
        parts |= {"accuracy": right.mean(), "accuracy_last": right[:, -sizes[-1] :].mean()}
        yield Update("generator", loss, parts)

    def teacher_forced(self, canvas: Canvas, text: Text, grids: Grids) -> Tensor:
        """Logits (B, L, D, 2) of all scales in one forward; the canvas gives their inputs."""
        branch = Branch("text", Prompted(text, grids))
        job = Job(self, grids.plan, canvas, (branch,), alone, lambda step: [], lambda canvas: canvas.codes(), len(text))
        return look(Run.of(job, Noise(0), cache="none"), grids.plan.all(), filtered=False).logits  # type: ignore[attr-defined]

    def loss(
        self, logits: Tensor, labels: Tensor, sides: Sequence[Grid], *, summed: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(loss, cross-entropy of each token (B, L)) of bits (B, L, D): the mean over a token's bits, or their sum; tokens
        weigh sqrt(h_K w_K / (h_k w_k)) over their sum where `config.reweight`, else alike."""
        each = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view(labels.shape)
        token = each.sum(-1) if summed else each.mean(-1)
        cells = torch.tensor([h * w for h, w in sides], device=token.device)
        weight = torch.sqrt(cells[-1] / cells) if self.config.reweight else torch.ones(len(sides), device=token.device)
        weight = weight.repeat_interleave(cells)
        return (token * (weight / weight.sum())).sum(1).mean(), token


def per_scale(name: str, value: float | Sequence[float], steps: int) -> list[float]:
    """A number for every scale."""
    values = [float(value)] * steps if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) < steps:
        raise NextsetError(
            f"{name} has {len(values)} numbers, but there are {steps} scales; give one for each, or one number"
        )
    return values[:steps]
