"""A whole system in one file: next-token prediction on a canvas of 5 x 5 cells, trained and sampled in seconds.

    python examples/tiny_system.py

The pictures are filled rectangles of one of three colours on an empty ground. The model draws their cells one after
another and, after a few hundred steps, mostly draws filled rectangles. There is no condition, no guidance and no
tokenizer: what is left is what every system has. `docs/adding-a-system.md` goes through this file.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core.canvases import Drawn, NoiseSource
from nextset.core.configs import Config
from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.plans import raster
from nextset.core.protocols import Job
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.core.update import Update
from nextset.engine.filters import chain
from nextset.engine.guidance import alone
from nextset.engine.run import Run, finish, look
from nextset.heads.categorical import Softmax
from nextset.nn.transformer import FeedForward, SelfAttention
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer

COLOURS = torch.tensor([[1.0, 1.0, 1.0], [1.0, -0.6, -0.6], [-0.6, 0.6, -0.6], [-0.6, -0.4, 1.0]])


@dataclasses.dataclass(frozen=True)
class TinyConfig(Config):
    """side: of the canvas in cells. colours: with the empty ground, which is 0. width, heads, depth: of the trunk."""

    side: int = 5
    colours: int = 4
    width: int = 48
    heads: int = 3
    depth: int = 2

    def check(self) -> None:
        self.require("side", 2 <= self.side <= 16, "between 2 and 16")
        self.require("colours", 2 <= self.colours <= len(COLOURS), f"between 2 and {len(COLOURS)}")
        self.require("heads", self.heads >= 1 and self.width % self.heads == 0, f"a divisor of the width {self.width}")


class Cells:
    """The canvas: one colour a cell. Slot 0 starts the sequence; slot k is made of the colour at position k - 1."""

    def __init__(self, entries: int, positions: int, start: int) -> None:
        self.ids = torch.zeros(entries, positions, dtype=torch.int64)
        self.given = torch.zeros(entries, positions, dtype=torch.bool)
        self.start = start

    def begin(self, noise: NoiseSource, images: Tensor) -> None:
        """Nothing is drawn before the first step."""

    def input(self, step: Step) -> Tensor:
        return torch.where(step.feed == 0, self.start, self.ids[:, step.feed - 1])

    def now(self, step: Step) -> tuple[Tensor, Tensor]:
        return self.ids[:, step.draw], self.given[:, step.draw]

    def write(self, step: Step, drawn: Drawn) -> None:
        self.ids[:, step.draw] = torch.where(self.given[:, step.draw], self.ids[:, step.draw], drawn.value)

    def pin(self, values: Tensor, mask: Tensor) -> None:
        self.given = self.given | mask
        self.ids = torch.where(mask, values, self.ids)

    def pinned(self, step: Step) -> bool:
        return bool(self.given[:, step.draw].all())

    def codes(self) -> Tensor:
        return self.ids

    def select(self, rows: Tensor) -> None:
        self.ids, self.given = self.ids[rows], self.given[rows]


class Block(nn.Module):
    """Attention and feed-forward. The layer asks the context to attend: it knows neither mask nor memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before_attn, self.before_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.ffn = SelfAttention(width, heads, l2_norm=True), FeedForward(width, 4 * width)

    def forward(self, x: Tensor, ctx: Any, site: str) -> Tensor:
        x = x + self.attn(self.before_attn(x), ctx, site)
        return x + self.ffn(self.before_ffn(x))


class Tiny(nn.Module):
    """The system: a plan, a trunk, a head, a job for a request, and updates for the trainer."""

    config_type = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = config.side**2
        self.colour = nn.Embedding(config.colours + 1, config.width)  # and one that starts the sequence
        self.place = nn.Embedding(self.positions, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.classifier = Softmax(config.width, config.colours)
        self._plan = raster(1, self.positions, width=config.side)

    # ---- what the engine calls

    def plan(self) -> Plan:
        return self._plan

    def canvas(self, entries: int) -> Cells:
        return Cells(entries, self.positions, start=self.config.colours)

    def prepare(self, conditions: Sequence[Any]) -> None:
        """There is no condition."""

    def trunk(self, x: Tensor, cond: Any, ctx: Any) -> Tensor:
        """Ids (rows, n) of the fed slots -> hidden states (rows, n, C)."""
        h = self.colour(x) + self.place(ctx.attr("slot"))
        for i, block in enumerate(self.blocks):
            h = ctx.hook(f"blocks.{i}", block(h, ctx, f"blocks.{i}"))
        return self.norm(h)

    def head(self, step: Step, cond: Any) -> Softmax:
        return self.classifier

    # ---- requests

    def job(self, entries: int, *, top_k: int = 0, top_p: float = 0.0) -> Job:
        filters = chain(top_k, top_p)
        return Job(
            network=self,
            plan=self._plan,
            canvas=self.canvas(entries),
            branches=(Branch("only", None),),
            weights=alone,
            filters=lambda step: filters,
            finish=lambda canvas: self.paint(canvas.codes()),
            entries=entries,
        )

    def paint(self, ids: Tensor) -> Tensor:
        """ids (N, L) -> images (N, 3, side, side) in [-1, 1]."""
        return COLOURS[ids].unflatten(1, (self.config.side, -1)).permute(0, 3, 1, 2)

    # ---- training

    def parameter_groups(self) -> dict[str, nn.Module]:
        return {"main": self}

    def updates(self, batch: dict[str, Any], step: int, noise: Noise) -> Iterator[Update]:
        """Teacher forcing: everything is given, all steps are joined, and one forward gives every law."""
        ids = batch["codes"]
        job = self.job(ids.shape[0])
        job.canvas.pin(ids, torch.ones_like(ids, dtype=torch.bool))
        law = look(Run.of(job, noise, cache="none"), self._plan.all())
        yield Update("generator", -law.logp(ids).mean())


def rectangles(samples: Tensor, noise: Noise, config: TinyConfig) -> Tensor:
    """ids (B, L) of filled rectangles; each is a function of its sample index (B,)."""
    u = noise.of("rectangle").uniform(samples, torch.arange(5))
    low, high = (u[:, :4] * config.side).long().unflatten(1, (2, 2)).sort(1).values.unbind(1)  # (B, 2) each: y, x
    cell = torch.arange(config.side)
    inside = (cell >= low[..., None]) & (cell <= high[..., None])  # (B, 2, side)
    colour = 1 + (u[:, 4] * (config.colours - 1)).long()
    return ((inside[:, 0, :, None] & inside[:, 1, None, :]) * colour[:, None, None]).flatten(1)


def is_rectangle(ids: Tensor, side: int) -> bool:
    """Whether the coloured cells of one picture (L,) are a filled rectangle of one colour."""
    picture = ids.view(side, side)
    rows, columns = (picture > 0).any(1), (picture > 0).any(0)
    return (
        bool(rows.any()) and picture[rows][:, columns].unique().numel() == 1 and _unbroken(rows) and _unbroken(columns)
    )


def _unbroken(used: Tensor) -> bool:
    places = used.nonzero()
    return int(places.max() - places.min()) + 1 == len(places)


def train(folder: str | Path, steps: int = 300, seed: int = 0) -> Tiny:
    """A trained model; the run's metrics and checkpoint lie in `folder`."""
    torch.manual_seed(seed)  # initial weights; everything later is drawn from counter-based noise
    model, noise = Tiny(TinyConfig()), Noise(seed, "data")
    config = TrainConfig(steps=steps, batch=64, lr=3e-3, warmup=20, seed=seed, log_every=100, sample_every=0)

    def batch(i: int) -> dict[str, Tensor]:
        return {"codes": rectangles(torch.arange(i * config.batch, (i + 1) * config.batch), noise, model.config)}

    Trainer(model, batch, config, folder, title="tiny").run()
    return model.eval()


def generate(model: Tiny, n: int, seed: int = 0) -> Tensor:
    """ids (n, L)."""
    job = model.job(n)
    finish(Run.of(job, Noise(seed, "generate")))
    return job.canvas.codes()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = train(folder)
    ids, side = generate(model, 64, seed=1), model.config.side
    for line in range(side):
        print("  ".join("".join(".#ox"[c] for c in picture.view(side, side)[line]) for picture in ids[:8]))
    print(f"{sum(is_rectangle(picture, side) for picture in ids)} of {len(ids)} pictures are filled rectangles")


if __name__ == "__main__":
    main()
