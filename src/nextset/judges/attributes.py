"""Does a picture show what was asked for? A small network, trained here on real renders, answers attribute by attribute.

It reads skin tone, gender, role, colour and shape, and says which picture of the whole set it sees. It is a measuring
instrument: it learns from real renders alone, those held out of a model's training among them, and what it gets right on
real renders stands beside every figure. Renders are moved, scaled and damaged while it learns, so that the marks of a
tokenizer do not lead it astray.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core.configs import Config
from nextset.core.errors import NextsetError
from nextset.core.keys import load_into
from nextset.core.noise import Noise
from nextset.data.emoji import EmojiSet
from nextset.data.emoji_attributes import attributes
from nextset.data.emoji_list import Glyph
from nextset.judges.fidelity import PART, Steps, quiet
from nextset.judges.sealed import read_sealed, write_sealed
from nextset.judges.wear import Wear

ATTRIBUTES = ("tone", "gender", "role", "colour", "shape")
TOGETHER, SUBGROUP = "all of them", "top-1 in the subgroup"
_WHICH = "which"
_KIND = "attributes"
_REPEAT = 3  # coloured shapes are few: each epoch has them so many times more


@dataclasses.dataclass(frozen=True)
class AttributeConfig(Config):
    """width w; peak of the one-cycle learning rate, reached after the share `rise` of all steps. shift (pixels), scale
    (fraction): see `augment`. wear: see `Wear`."""

    width: int = 32
    epochs: int = 20
    batch: int = 64
    peak: float = 4e-3
    rise: float = 0.25
    weight_decay: float = 0.02
    shift: float = 2.0
    scale: float = 0.06
    wear: float = 1.0
    seed: int = 0

    def check(self) -> None:
        for name in ("width", "epochs"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        self.require("batch", self.batch >= 2, "at least 2")  # a batch norm of one picture knows no variance
        self.require("peak", self.peak > 0, "above 0")
        self.require("rise", 0 < self.rise < 1, "between 0 and 1")
        self.require("wear", 0 <= self.wear <= 2, "in 0..2")


class AttributeNet(nn.Module):
    """Blocks of 4 x 4 pixels as channels, four 3x3 convolutions with batch norm (2w, 4w, 4w, 6w; strides 1, 2, 1, 2),
    global mean, and a linear layer for each question."""

    def __init__(self, width: int, answers: dict[str, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(4)]
        channels = (48, 2 * width, 4 * width, 4 * width, 6 * width)
        for fan_in, out, stride in zip(channels, channels[1:], (1, 2, 1, 2), strict=False):
            layers += [nn.Conv2d(fan_in, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(6 * width, count) for name, count in answers.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) in [-1, 1], sides a multiple of 4 -> logits (N, answers) for each question."""
        h = self.trunk(images * 2).mean((2, 3))
        return {name: head(h) for name, head in self.heads.items()}


class AttributeJudge:
    """The network with the set that it knows.

    glyphs: what it learned from, N of them. twins: int64 (N,), the first picture that is the same pixel by pixel (some
    flags are). size: pixels a side. truth: int64 (N,) for each attribute, an index of `values[attribute]`, -1 where the
    attribute does not apply.
    """

    def __init__(self, glyphs: Sequence[Glyph], twins: Sequence[int], size: int, config: AttributeConfig) -> None:
        self.glyphs, self.size, self.config = list(glyphs), size, config
        self.twins = np.array(twins, dtype=np.int64)
        self.values: dict[str, list[str]] = {}
        self.truth: dict[str, np.ndarray] = {}
        found = attributes(self.glyphs)
        for name in ATTRIBUTES:
            said = [getattr(a, name) for a in found]
            self.values[name] = sorted({value for value in said if value is not None})
            self.truth[name] = np.array([-1 if v is None else self.values[name].index(v) for v in said])
        answers = {name: max(1, len(values)) for name, values in self.values.items()}
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self.model = AttributeNet(config.width, {**answers, _WHICH: len(self.glyphs)})
        subgroups = np.array([g.subgroup for g in self.glyphs])
        self._together = {s: np.flatnonzero(subgroups == s) for s in np.unique(subgroups)}

    @torch.no_grad()
    def right(self, images: Tensor, asked: np.ndarray) -> dict[str, np.ndarray]:
        """Images (N, 3, size, size) in [-1, 1] against glyphs asked for, int64 (N,) -> 1, 0, or NaN where a question does not
        apply, float64 (N,): for each attribute, for all that apply (where several do), and for the picture in its subgroup.
        """
        if images.shape[1:] != (3, self.size, self.size) or len(images) != len(asked):
            raise NextsetError(
                f"pictures are {tuple(images.shape)}, but must be ({len(asked)}, 3, {self.size}, {self.size}) for this judge"
            )
        self.model.eval()
        logits: dict[str, list[Tensor]] = {}
        for part in images.float().split(PART):
            for name, values in self.model(part).items():
                logits.setdefault(name, []).append(values)
        found = {name: torch.cat(values).numpy() for name, values in logits.items()}
        out = {}
        for name in ATTRIBUTES:
            wanted = self.truth[name][asked]
            out[name] = np.where(wanted < 0, np.nan, found[name].argmax(1) == wanted)
        answers = np.stack([out[name] for name in ATTRIBUTES])
        out[TOGETHER] = np.where(
            (~np.isnan(answers)).sum(0) > 1, (np.nan_to_num(answers, nan=1.0) == 1).all(0).astype(float), np.nan
        )
        which = np.zeros(len(asked))
        for i, glyph in enumerate(asked):
            among = self._together[self.glyphs[glyph].subgroup]
            which[i] = self.twins[among[found[_WHICH][i, self.twins[among]].argmax()]] == self.twins[glyph]
        out[SUBGROUP] = which
        return out

    def chance(self, asked: np.ndarray) -> dict[str, float]:
        """What can be had without looking at the prompt: by the best constant answer, and in a subgroup by drawing lots."""
        out = {}
        columns = np.stack([self.truth[name][asked] for name in ATTRIBUTES], 1)
        several = columns[(columns >= 0).sum(1) > 1]
        for name, rows in [*((n, columns[:, [i]]) for i, n in enumerate(ATTRIBUTES)), (TOGETHER, several)]:
            rows = rows[(rows >= 0).any(1)]
            out[name] = (
                float(np.unique(rows, axis=0, return_counts=True)[1].max() / len(rows)) if len(rows) else math.nan
            )
        sizes = [len(np.unique(self.twins[self._together[self.glyphs[i].subgroup]])) for i in asked]
        out[SUBGROUP] = float(np.mean([1 / size for size in sizes]))
        return out


class Renders:
    """Renders of a set, moved, scaled and worn: calls with another `noise` give pictures that were never seen."""

    def __init__(self, emoji: EmojiSet, config: AttributeConfig, noise: Noise) -> None:
        self._emoji = dataclasses.replace(emoji, shift=config.shift, scale=config.scale, background=0.0)
        self._noise, self._wear = noise, Wear(noise.of("wear"), config.wear)

    def __call__(self, indices: Tensor, samples: Tensor) -> Tensor:
        """(B, 3, size, size) in [-1, 1] of those indices (B,), as the global sample indices (B,) say."""
        return self._wear(self._emoji.images(indices, self._noise, samples), samples)


def train_judge(emoji: EmojiSet, config: AttributeConfig | None = None, steps: Steps = quiet) -> AttributeJudge:
    """A judge of the whole set: give the one with all its pictures, held-out ones too. Some minutes on a core at 64 pixels.

    Order and augmentation are functions of the seed.
    """
    c = config or AttributeConfig()
    if emoji.size % 4 or len(emoji) < c.batch:
        raise NextsetError(
            f"the set has {len(emoji)} pictures of {emoji.size} pixels, but a judge needs at least {c.batch}, and sides "
            "that are a multiple of 4"
        )
    first: dict[bytes, int] = {}
    twins = [first.setdefault(picture.tobytes(), i) for i, picture in enumerate(emoji.rgba)]
    judge = AttributeJudge(emoji.glyphs, twins, emoji.size, c)
    model = judge.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stub lacks it
    targets = {name: torch.from_numpy(truth) for name, truth in judge.truth.items()}
    targets[_WHICH] = torch.from_numpy(judge.twins)
    shapes = torch.from_numpy(np.flatnonzero(judge.truth["shape"] >= 0))
    drawn = torch.cat([torch.arange(len(emoji)), *[shapes] * _REPEAT])
    batches = len(drawn) // c.batch  # each epoch leaves out the last few of another order
    optimizer = torch.optim.AdamW(model.parameters(), lr=c.peak, weight_decay=c.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, c.peak, total_steps=c.epochs * batches, pct_start=c.rise)
    noise = Noise(c.seed, "attributes")
    renders = Renders(emoji, c, noise)
    model.train()
    for step in range(c.epochs * batches):
        epoch, number = divmod(step, batches)
        if number == 0:
            shuffled = noise.of("order").permutation(len(drawn), epoch)
        place = shuffled[number * c.batch : (number + 1) * c.batch]
        index = drawn[place]
        x = renders(index, place + epoch * len(drawn))
        logits = model(x.contiguous(memory_format=torch.channels_last))
        # sums over a batch, for a question may apply to none of it
        losses = [
            F.cross_entropy(values, targets[name][index], ignore_index=-1, reduction="sum")
            for name, values in logits.items()
        ]
        loss = torch.stack(losses).sum() / c.batch
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        steps(step + 1, c.epochs * batches, loss.item())
    model.eval()
    return judge


def save_judge(folder: str | Path, judge: AttributeJudge) -> Path:
    """Write `attributes-<hash>.safetensors` in a folder; equal judges give equal files."""
    about = {
        "glyphs": [dataclasses.astuple(g) for g in judge.glyphs],
        "twins": judge.twins.tolist(),
        "size": judge.size,
        "config": judge.config.to_dict(),
    }
    return write_sealed(folder, _KIND, judge.model, about)


def load_judge(path: str | Path) -> AttributeJudge:
    """Read a judge from its file. A file whose content is not that of its name is refused."""
    path = Path(path)
    try:
        tensors, about, _ = read_sealed(path, _KIND)
        glyphs = [Glyph(*(str(part) for part in line)) for line in about["glyphs"]]
        config = AttributeConfig.from_dict(about["config"])
        judge = AttributeJudge(glyphs, [int(i) for i in about["twins"]], int(about["size"]), config)
    except (TypeError, KeyError, ValueError) as error:
        raise NextsetError(f"{path} is no judge of attributes ({error!r}); train one") from error
    load_into(judge.model, tensors, what=str(path))
    judge.model.eval()
    return judge
