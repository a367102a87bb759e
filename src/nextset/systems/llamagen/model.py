"""LlamaGen: images token by token in raster order, by a plain decoder of a language model (Sun et al. 2024, arXiv 2406.06525).

What is LlamaGen's own: the ids of one map behind a prefix that is made of a class or of a text; rotary positions in two
dimensions, in which condition slots are multiplied by zero; guidance that may end before the image does. The loop, memory,
masks and draws are the engine's.

Shapes: rows R, fed slots n, width C; ids (N, L) in raster order, L = side^2; condition slots T.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.canvases import Ids
from nextset.core.errors import NextsetError, check_range
from nextset.core.masks import pyramid_mask
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.protocols import Job
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.filters import chain
from nextset.engine.guidance import Weights, alone, each_step
from nextset.engine.run import Run, look
from nextset.heads.categorical import Softmax
from nextset.nn.llama import LlamaBlock, RMSNorm
from nextset.nn.rope import Turns
from nextset.systems.llamagen.config import LlamaGenConfig
from nextset.systems.llamagen.grid import Grid
from nextset.systems.llamagen.prefix import Asked, ClassPrefix, TextPrefix
from nextset.text.condition import Text
from nextset.text.words import WordEncoder
from nextset.tokenizers.attached import Tokenized
from nextset.tokenizers.vq import VQTokenizer


class Conditioned(NamedTuple):
    """What the trunk needs of a request: vectors of the condition slots (R, T, C), and the turns of all slots, if any."""

    prefix: Tensor
    turns: Turns | None


class LlamaGen(Tokenized):
    """The transformer, and the tokenizer whose ids it predicts (frozen, and not part of `state_dict`)."""

    slug = "llamagen"
    config_type = LlamaGenConfig
    asked_with = "class"  # unless the config of an instance says "text"
    agrees_on = ("vocabulary",)
    scales: ClassVar[Mapping[str, float]] = {"class": 4.0, "text": 7.5}  # guidance of the authors' demos
    ranks: ClassVar[Mapping[str, int]] = {"class": 2000, "text": 1000}  # and their top-k

    def __init__(self, config: LlamaGenConfig, tokenizer: VQTokenizer | None = None) -> None:
        super().__init__()
        self.config = c = config
        self.asked_with = c.asked_with
        self.prefix: ClassPrefix | TextPrefix = (
            TextPrefix(c.text_channels, c.text_length, c.width)
            if c.asked_with == "text"
            else ClassPrefix(c.classes, c.width)
        )
        self.words = None if c.words is None else WordEncoder(c.words)
        self.grid = self.make_grid()
        self.token = nn.Embedding(c.vocabulary, c.width)
        self.token_dropout = nn.Dropout(c.token_dropout)
        slots = self.grid.conditions + self.grid.positions
        self.place = nn.Parameter(torch.zeros(slots, c.width)) if c.positions == "learned" else None
        rates = [c.drop_path * i / max(c.blocks - 1, 1) for i in range(c.blocks)]
        self.blocks = nn.ModuleList(self.make_block(rate) for rate in rates)
        self.sites = tuple(f"blocks.{i}" for i in range(c.blocks))
        self.norm = RMSNorm(c.width, c.eps)
        self.classifier = Softmax(c.width, c.vocabulary, bias=False)
        self.extend()
        self.initialise()
        if tokenizer is not None:
            self.attach(tokenizer)

    # ---- parts

    def extend(self) -> None:
        """What a system that stands on this one adds, before weights are drawn."""

    def make_grid(self) -> Grid:
        """Where its slots lie."""
        return Grid(self.prefix.length, self.config.sides[0])

    def make_block(self, drop_path: float) -> nn.Module:
        """One block of the trunk."""
        c = self.config
        dropout = 0.0 if c.drop_path else c.dropout
        return LlamaBlock(
            c.width, c.heads, c.feed_forward, keys=c.keys or None, eps=c.eps, dropout=dropout, drop_path=drop_path
        )

    def attach(self, tokenizer: VQTokenizer) -> None:
        """Use this tokenizer, at the size of this model."""
        if not isinstance(tokenizer, VQTokenizer):
            raise NextsetError(
                f"the tokenizer is {type(tokenizer).__name__}, but ids of one map need a VQTokenizer; train one with model.type=vq"
            )
        super().attach(tokenizer.at(self.config.sides[0]))

    @property
    def plan(self) -> Plan:
        """One step a token."""
        return self.grid.plan

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights as the released trainer draws them (sheet, Init), from torch's current generator."""
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding, Softmax)) and not name.startswith("words."):
                nn.init.normal_(module.weight, std=0.02)
        if self.place is not None:
            nn.init.normal_(self.place, std=0.02)
        for head in self.silent():
            nn.init.zeros_(head.weight)

    def silent(self) -> Sequence[Softmax]:
        """The heads that begin at zero."""
        return (self.classifier,)

    # ---- what the engine calls

    def prepare(self, conditions: Sequence[Tensor]) -> Conditioned:
        """Conditions of each branch (class ids, or features as `TextPrefix.ask` lays them out) -> the condition slots."""
        c = self.config
        device = self.token.weight.device
        prefix = self.prefix(torch.cat([condition.to(device) for condition in conditions]))
        return Conditioned(prefix, self.grid.turns(c.head_width, c.rope_base, c.positions, device))

    def trunk(self, x: Tensor, cond: Conditioned, ctx: Any) -> Tensor:
        """Ids (R, n) of the fed slots -> hidden states (R, n, C). Condition slots are made of the condition instead."""
        return self.norm(self.through(self.enter(x, cond, ctx), cond, ctx, 0, len(self.blocks)))

    def enter(self, x: Tensor, cond: Conditioned, ctx: Any) -> Tensor:
        """Ids (R, n) -> what the first block is given (R, n, C)."""
        h, t = self.token(x), cond.prefix.shape[1]
        if ctx.has("segment", 0):
            index, condition = ctx.attr("index").clamp_max(t - 1), ctx.attr("segment") == 0
            h = torch.where(condition[:, None], cond.prefix.index_select(1, index).to(h.dtype), h)
        h = self.token_dropout(h)
        return h if self.place is None else h + self.place[ctx.attr("index") + t * ctx.attr("segment")]

    def through(self, h: Tensor, cond: Conditioned, ctx: Any, first: int, end: int) -> Tensor:
        """Hidden states (R, n, C) through the blocks first <= i < end."""
        turn = None if cond.turns is None else cond.turns.at(ctx.attr("slot"))
        for i in range(first, end):
            h = ctx.hook(self.sites[i], self.blocks[i](h, ctx, self.sites[i], turn))
        return h

    def head(self, step: Step, cond: Conditioned) -> Any:
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

    def ratios(self) -> tuple[float, ...]:
        """Values of height / width that it knows."""
        return (1.0,)

    def grids(self, ratio: float = 1.0, pixels: str | None = None) -> Grid:
        """The one grid that it knows."""
        if ratio != 1 or pixels is not None:
            raise NextsetError(
                f"this model makes squares of {self.config.sides[0]}x{self.config.sides[0]} tokens alone; leave out size and shape"
            )
        return self.grid

    def job(
        self,
        classes: Tensor | Text,
        *,
        negative: Text | None = None,
        guidance_scale: float | None = None,
        guidance_tokens: int = 0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        ratio: float = 1.0,
    ) -> Job:
        """Images of classes (N,) int64, of which `config.classes` means none, or of texts (features of N entries).

        negative: texts that guidance leads away from, one or N; by default the null text.
        guidance_scale: weight of the condition, at most 1 = none; by default that of `scales`, as top_k is that of `ranks`
        (0 = all). guidance_tokens: guide a step if fewer tokens than that were drawn before it, 0 = all steps;
        behind them the second branch does not run. ratio: height / width, of which only 1 is known.
        """
        c, plan = self.config, self.grids(ratio).plan
        asked = self.prefix.ask(classes)
        n = len(asked.condition)
        scale = self.scales[c.asked_with] if guidance_scale is None else guidance_scale
        ranks = self.ranks[c.asked_with] if top_k is None else top_k
        check_range("guidance_scale", scale, 0, 1000, remedy="1 switches guidance off")
        check_range("guidance_tokens", guidance_tokens, 0, remedy="0 guides every token")
        filters = chain(ranks, top_p, temperature)
        branches = [self.branch("condition", asked)]
        weights: Weights = alone
        if scale > 1:
            other = self.prefix.without(asked) if negative is None else self.against(negative, n)
            branches.append(self.branch("without", other))
            guided = guidance_tokens or plan.positions
            before = itertools.accumulate((step.draw.shape[-1] for step in plan.steps[:-1]), initial=0)
            weights = each_step([scale if drawn < guided else 1.0 for drawn in before])
        return Job(
            network=self,
            plan=plan,
            canvas=self.canvas(n),
            branches=tuple(branches),
            weights=weights,
            filters=lambda step: filters,
            finish=self.finish,
            entries=n,
        )

    def against(self, negative: Text, entries: int) -> Asked:
        """What guidance leads away from: one text for all entries, or one for each."""
        asked = self.prefix.ask(negative)
        if len(negative) not in (1, entries):
            raise NextsetError(
                f"there are {len(negative)} negative texts for {entries} texts; give one, or one for each"
            )
        rows = torch.arange(entries) % len(negative)
        return Asked(asked.condition[rows], None if asked.hidden is None else asked.hidden[rows])

    def branch(self, name: str, asked: Asked) -> Branch:
        """A branch whose padded condition slots no other slot sees."""
        hidden = asked.hidden
        if hidden is not None:
            hidden = F.pad(hidden, (0, self.grid.plan.size - hidden.shape[1]))
        return Branch(name, asked.condition, hidden=hidden)

    def canvas(self, entries: int) -> Ids:
        """An empty canvas for that many images."""
        grid, device = self.grid, self.token.weight.device
        return Ids(entries, grid.positions, conditions=grid.conditions, order=grid.order, device=device)

    def finish(self, canvas: Any) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of what the canvas holds so far."""
        return self.tokenizer.decode(canvas.codes())

    def keep_mask(self, mask: Tensor) -> Tensor:
        """Which ids of an image stay: mask (h, w), 1 = keep -> (L,) bool."""
        return pyramid_mask(mask, self.grid.sides)

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Teacher forcing: cross-entropy of every token in one forward.

        batch: {"codes": ids (B, L), "labels": (B,), or "captions": B texts or "text": features of them, "index": (B,) global
        sample indices, "valid": (B,) which samples count, by default all}. A sample without its condition keeps the padding
        of its text.
        """
        codes, index = batch["codes"], batch["index"]
        asked = self.prefix.lay(self.condition_of(batch))
        if self.training and self.config.condition_drop:
            u = noise.of("condition-drop").uniform(index, torch.zeros(1, dtype=torch.int64))[:, 0]
            asked = self.dropped(asked, u.to(codes.device) < self.config.condition_drop)
        logits = self.teacher_forced(codes, asked)
        loss, each = self.loss(logits, codes, batch.get("valid"))
        hit = (logits.detach().argmax(-1) == codes).float()
        yield Update("generator", loss, {"ce": each.detach().mean(), "accuracy": hit.mean()})

    def condition_of(self, batch: dict[str, Any]) -> Any:
        """What the samples of a batch are asked with."""
        if self.config.asked_with == "class":
            return batch["labels"]
        return batch["text"] if "text" in batch else self.encode_prompts(batch["captions"])

    def dropped(self, asked: Asked, mask: Tensor) -> Asked:
        """The conditions without those of the entries where mask (N,) is True."""
        without = self.prefix.without(asked).condition
        mask = mask.view(-1, *[1] * (without.dim() - 1)).to(without.device)
        return Asked(torch.where(mask, without, asked.condition.to(without.device)), asked.hidden)

    def teacher_forced(self, codes: Tensor, asked: Asked) -> Tensor:
        """Logits (B, L, V) of ids (B, L), both in raster order, each predicted from what is drawn before it, in one forward."""
        n = len(codes)
        canvas = self.canvas(n)
        canvas.pin(codes, torch.ones(self.plan.positions, dtype=torch.bool))
        branches = (self.branch("condition", asked),)
        job = Job(self, self.plan, canvas, branches, alone, lambda step: [], lambda canvas: canvas.codes(), n)
        law = look(Run.of(job, Noise(0), cache="none"), self.plan.all(), filtered=False)
        logits: Tensor = law.logits  # type: ignore[attr-defined]
        order = self.grid.order
        return logits if order is None else logits[:, order.argsort().to(logits.device)]

    def loss(self, logits: Tensor, codes: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(mean cross-entropy of the samples that count, cross-entropy of each token (B, L)) of logits (B, L, V)."""
        each = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view(codes.shape)
        if valid is None:
            return each.mean(), each
        counts = valid.to(each)[:, None]
        return (each * counts).sum() / (counts.sum() * codes.shape[1]).clamp_min(1), each
