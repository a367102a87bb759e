"""MAR: masked autoregression without vector quantisation (Li et al. 2024, arXiv 2406.11838).

What is MAR's own: an encoder of what is known, a decoder that also has what is hidden, and a small diffusion head that
draws each token from its hidden state. Plan, canvas, guidance, noise and the loop are the rooms'.

Shapes: rows R, fed slots n (buffer, drawn now, hidden, known), encoder width D, decoder width E, tokens (N, L, C) with C
= channels x patch^2; class ids (N,) int64 in [0, classes], `classes` = no class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError, check_range, nearest
from nextset.core.latents import Latents
from nextset.core.masked import cosine_counts, hidden, masked_random, random_orders
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.protocols import Dist, Job, NoiseSource
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.annealing import AnnealedHead, HeadSteps
from nextset.engine.guidance import alone
from nextset.engine.run import Run, look
from nextset.heads.diffusion import Diffusion, drawn_with
from nextset.heads.implicit import HEAD_BATCH
from nextset.heads.regression import Regression
from nextset.nn.diffusion import STEPS
from nextset.systems.mar.blocks import EPS, Block
from nextset.systems.mar.config import MarConfig
from nextset.systems.mar.orders import DrawnOrder
from nextset.tokenizers.attached import OnLatents
from nextset.training.label_drop import drop_labels

SCHEDULES = ("linear", "constant")
HEADS: dict[str, type[Diffusion] | type[Regression]] = {"diffusion": Diffusion, "regression": Regression}


class Mar(OnLatents):
    """The two stacks and the head, and the tokenizer whose latents they predict (frozen, and not part of `state_dict`)."""

    slug = "mar"
    config_type = MarConfig
    watched = ("mse", "bound")
    no_decay = ("diffusion.",)

    def __init__(self, config: MarConfig, tokenizer: Any = None) -> None:
        super().__init__()
        self.config = c = config
        (d, depth, heads), (e, decoder_depth, decoder_heads) = c.stack(""), c.stack("decoder_")
        rows = c.buffer + c.tokens
        self.class_embedding = nn.Embedding(c.classes, d)
        self.no_class = nn.Parameter(torch.empty(1, d))
        self.token_in = nn.Linear(c.token_channels, d)
        self.encoder_position = nn.Parameter(torch.empty(rows, d))
        self.input_norm, self.encoder_norm = nn.LayerNorm(d, eps=EPS), nn.LayerNorm(d, eps=EPS)
        self.encoder = nn.ModuleList(Block(d, heads, c.mlp_ratio, c.dropout) for _ in range(depth))
        self.decoder_in = nn.Linear(d, e)
        self.mask_token = nn.Parameter(torch.empty(1, 1, e))
        self.decoder_position = nn.Parameter(torch.empty(rows, e))
        self.decoder = nn.ModuleList(Block(e, decoder_heads, c.mlp_ratio, c.dropout) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(e, eps=EPS)
        self.head_position = nn.Parameter(torch.empty(c.tokens, e))
        self.diffusion = HEADS[c.head](e, c.token_channels, c.head_depth, c.head_width)
        if tokenizer is not None:
            self.attach(tokenizer)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights as the released trainer draws them (sheet, Init), from torch's current generator."""
        tables = (self.encoder_position, self.decoder_position, self.head_position)
        for tensor in (self.class_embedding.weight, self.no_class, self.mask_token, *tables):
            nn.init.normal_(tensor, std=0.02)
        for part in (self.token_in, self.decoder_in, *self.encoder.modules(), *self.decoder.modules()):
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                nn.init.zeros_(part.bias)

    # ---- what the engine calls

    def prepare(self, conditions: Sequence[Tensor]) -> Tensor:
        """Class ids (N,) of each branch -> their vectors (R, D)."""
        table = torch.cat([self.class_embedding.weight, self.no_class])
        return table[torch.cat(list(conditions)).to(table.device)]

    def trunk(self, x: Tensor, cond: Tensor, ctx: Any) -> Tensor:
        """Tokens (R, n, C) of the fed slots, of which the hidden ones are not read -> hidden states (R, n, E).

        The encoder has the buffer and what is known, the decoder all rows; nobody is masked. So its rows may lie in the
        order in which the plan feeds them, and nothing is gathered or scattered.
        """
        b, slot = self.config.buffer, ctx.attr("slot")
        known = b + hidden(ctx.step)
        tokens = self.token_in(x[:, known:].to(self.token_in.weight.dtype))
        h = torch.cat([cond[:, None].expand(-1, b, -1).to(tokens.dtype), tokens], 1)
        place = self.encoder_position[torch.cat([slot[..., :b], slot[..., known:]], -1)]
        h = self.input_norm(h + place.to(h.dtype))
        for i, block in enumerate(self.encoder):
            h = ctx.hook(f"encoder.{i}", block(h, ctx, f"encoder.{i}"))
        h = self.decoder_in(ctx.hook("encoder", self.encoder_norm(h)))
        masks = self.mask_token.to(h.dtype).expand(len(h), known - b, -1)
        h = torch.cat([h[:, :b], masks, h[:, b:]], 1) + self.decoder_position[slot].to(h.dtype)
        for i, block in enumerate(self.decoder):
            h = ctx.hook(f"decoder.{i}", block(h, ctx, f"decoder.{i}"))
        h = self.decoder_norm(h)
        h = torch.cat([h[:, :b], h[:, b:] + self.head_position[slot[..., b:] - b].to(h.dtype)], 1)
        return ctx.hook("decoder", h)

    def head(self, step: Step, cond: Any) -> Diffusion | Regression:
        return self.diffusion

    # ---- requests

    @property
    def plan(self) -> Plan:
        """The plan of a request that asks for nothing else, in raster order."""
        return self.raster_plan(None)

    def raster_plan(self, steps: int | None) -> Plan:
        """Cosine counts over all positions in raster order; 64 steps, or one a position where there are fewer."""
        n = self.config.tokens
        left = cosine_counts(n, min(64, n) if steps is None else steps)
        return masked_random(torch.arange(n).flip(0), left, n, conditions=self.config.buffer)

    def job(
        self,
        classes: Tensor,
        *,
        guidance_scale: float = 2.9,
        guidance: Literal["linear", "constant"] | str = "linear",
        steps: int | None = None,
        inner_steps: str = "100",
        head_steps: HeadSteps | None = None,
        temperature: float = 1.0,
        head_batch: int = HEAD_BATCH,
    ) -> Job:
        """Images of the given classes (N,) int64; `config.classes` means no class.

        guidance_scale: 1 = none; it is approached as positions become known ("linear"), or there from the start
        ("constant"). steps: forwards of the network (None = 64, or as many as positions). inner_steps: of the head, see
        `nn.diffusion.respacing`. head_steps: "50-5" or (50, 5), inner steps at the first and at the last forward, in place
        of inner_steps; "ddim50-5": at a fixed stride. temperature: of the noise inside the head. head_batch: rows of the
        head at a time; changes no picture. Each image is drawn in an order of its own, a function of seed and image.
        """
        classes = self.class_ids(classes)
        if guidance not in SCHEDULES:
            raise NextsetError(
                f"guidance is {guidance!r}, but must be {' or '.join(map(repr, SCHEDULES))}: {nearest(guidance, SCHEDULES)}"
            )
        check_range("guidance_scale", guidance_scale, 0, 1000, remedy="1 switches guidance off")
        # the variance is read from the first branch, so it runs though its weight may be 0
        branches = [Branch("class", classes, always=True)]
        if guidance_scale != 1:
            branches.append(Branch("none", torch.full_like(classes, self.config.classes)))

        def weights(step: Step) -> tuple[float, ...]:
            left = max(hidden(step) - step.draw.shape[-1], 1)  # the last step counts as the one before it
            share = 1 - left / self.config.tokens if guidance == "linear" else 1.0
            scale = 1 + (guidance_scale - 1) * share
            return (scale, 1 - scale)[: len(branches)]

        annealed = [] if head_steps is None else [AnnealedHead.of(head_steps, 2, STEPS)]
        plan, drawing = self.raster_plan(steps), drawn_with(inner_steps, temperature, head_batch)
        filters = [drawing] if self.config.head == "diffusion" else []  # a guess has nothing to be set
        return Job(
            network=self,
            plan=plan,
            canvas=self.canvas(len(classes)),
            branches=tuple(branches),
            weights=weights,
            filters=lambda step: filters,
            finish=self.finish,
            entries=len(classes),
            controllers=(DrawnOrder(plan, self.config.buffer), *annealed),
        )

    def repaint(self, classes: Tensor, images: Tensor, keep: Tensor, **settings: Any) -> Job:
        """Draw what is hidden of images (N, 3, H, W) in [-1, 1]: keep (H, W), 1 = given. In-painting, out-painting, or any
        other mask. A token is kept where all its pixels are. settings: of `job`."""
        side = self.config.sides[0]
        cells = nn.functional.adaptive_avg_pool2d(keep[None, None].float(), side)[0, 0]
        job = self.job(classes, **settings)
        weight = self.tokenizer.quant_conv.weight
        job.canvas.pin(self.tokenizer.encode(images.to(weight.device, weight.dtype)), self.keep_mask(cells))
        return job

    def canvas(self, entries: int) -> Latents:
        """An empty canvas for that many images."""
        c = self.config
        return Latents(entries, c.tokens, c.token_channels, conditions=c.buffer, device=self.mask_token.device)

    def finish(self, canvas: Any) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of what the canvas holds so far."""
        return self.paint(canvas.codes())

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """A random part of each image is hidden, one share for all, and the head's loss is taken on it.

        batch: {"features": moments (B, 2 c, h, w), "labels": (B,), "index": (B,) global sample indices}.
        """
        index, labels, c = batch["index"], batch["labels"], self.config
        tokens = self.latent_tokens(batch["features"], index, noise)
        if self.training:
            labels = drop_labels(labels, index, noise.of("label-drop"), c.label_drop, c.classes)
        count = math.ceil(c.tokens * self.hidden_share(step, noise))
        orders = random_orders(noise.of("order"), index, torch.zeros(len(index), c.tokens, dtype=torch.bool))
        mse, bound = self.loss(tokens, labels, orders[:, :count], noise, index)
        parts = {"mse": mse.detach(), "bound": bound.detach(), "hidden": torch.tensor(count / c.tokens)}
        yield Update("generator", mse + bound, parts)

    def hidden_share(self, step: int, noise: NoiseSource) -> float:
        """The share of an image that a training step hides: a normal law cut to [least, 1], by its inverse."""
        low, mean, spread = self.config.mask
        law = torch.distributions.Normal(mean, spread)
        ends = law.cdf(torch.tensor([low, 1.0], dtype=torch.float64))
        u = noise.of("share").uniform(torch.tensor([step]), torch.zeros(1, dtype=torch.int64))[0, 0].double()
        return float(law.icdf(ends[0] + u * (ends[1] - ends[0])).clamp(low, 1))

    def loss(
        self, tokens: Tensor, labels: Tensor, orders: Tensor, noise: NoiseSource, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(squared error, variational bound in bits), means over the hidden positions `orders` (B, U) of tokens (B, L, C).

        Rows of visible tokens never reach the head: their weight would be 0.
        """
        job = self.teacher_forced(tokens, labels, orders)
        step = job.plan.all()
        law: Dist = look(Run.of(job, noise, index.cpu(), cache="none"), step, filtered=False)
        h, (target, _), repeats = law.hidden[0], job.canvas.now(step), self.config.repeats  # type: ignore[attr-defined,misc]
        mse, bound = self.diffusion.loss(h, target, noise, index, step.draw, repeats)
        return mse.mean(), bound.mean()

    def teacher_forced(self, tokens: Tensor, labels: Tensor, orders: Tensor) -> Job:
        """A request of one step, which draws the positions `orders` (B, U) from all others of tokens (B, L, C)."""
        plan = masked_random(orders.cpu(), [0], self.config.tokens, conditions=self.config.buffer)
        canvas = self.canvas(len(tokens))
        canvas.pin(tokens, torch.ones(self.config.tokens, dtype=torch.bool))
        branches = (Branch("class", labels),)
        return Job(self, plan, canvas, branches, alone, lambda step: [], lambda canvas: canvas.codes(), len(tokens))
