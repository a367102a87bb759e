"""Canvases of continuous tokens, and how a map becomes tokens and back.

It knows no tokenizer and no head: a token is C numbers at a position, given, drawn, or not there yet.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from nextset.core.canvases import Drawn, NoiseSource
from nextset.core.configs import Config
from nextset.core.errors import NextsetError
from nextset.core.steps import Step


@dataclasses.dataclass(frozen=True)
class LatentsConfig(Config):
    """What every generator of classes over a square map of latents is told.

    sides: one, of the grid of tokens. channels, patch: of the latents, and cells of a token, a side. label_drop:
    probability of training without the class; dropout: of the network's layers.
    """

    classes: int = 1000
    sides: tuple[int, ...] = (16,)
    channels: int = 16
    patch: int = 1
    dropout: float = 0.1
    label_drop: float = 0.1

    def check(self) -> None:
        self.require("classes", 1 <= self.classes <= 10**6, "between 1 and 1000000")
        self.require("sides", len(self.sides) == 1 and 1 <= self.sides[0] <= 512, "one side between 1 and 512")
        self.require("channels", 1 <= self.channels <= 4096, "between 1 and 4096")
        self.require("patch", 1 <= self.patch <= 16, "between 1 and 16")
        for name in ("dropout", "label_drop"):
            self.require(name, 0 <= getattr(self, name) < 1, "in [0, 1)")

    @property
    def tokens(self) -> int:
        """Positions of an image."""
        return self.sides[0] ** 2

    @property
    def token_channels(self) -> int:
        """Numbers of a token."""
        return self.channels * self.patch**2


def patchify(maps: Tensor, patch: int) -> Tensor:
    """Maps (N, c, H, W) -> tokens (N, H W / p^2, c p p) in raster order; inside a token channel, then row, then
    column."""
    n, c, h, w = maps.shape
    if h % patch or w % patch:
        raise NextsetError(f"the map has {h}x{w} cells, but both sides must be multiples of the patch of {patch}")
    x = maps.reshape(n, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(tokens: Tensor, patch: int, side: tuple[int, int]) -> Tensor:
    """Tokens (N, h w, c p p) -> maps (N, c, h p, w p); side: (h, w) in tokens."""
    (h, w), n = side, tokens.shape[0]
    x = tokens.reshape(n, h, w, -1, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(n, -1, h * patch, w * patch)


class Latents:
    """Tokens (N, L, C), float32, behind `conditions` slots: slot T + k holds position k, or places[k].

    The input of a slot is the token that it holds, (N, n, C); condition slots and positions that are not known yet get
    zeros. Which slots are known is the plan's to say: here a zero is a zero.
    """

    def __init__(
        self,
        entries: int,
        length: int,
        channels: int,
        *,
        conditions: int = 0,
        places: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.conditions, self.places = conditions, places
        self.values = torch.zeros(entries, length, channels, device=device)
        self.given = torch.zeros(entries, length, dtype=torch.bool)  # on the host, where plans are

    def begin(self, noise: NoiseSource, images: Tensor) -> None:
        """Nothing: what noise a draw begins with is the head's."""

    def pin(self, values: Tensor, mask: Tensor) -> None:
        """Give tokens (N, L, C) where mask (N, L) or (L,) is True; they replace what is drawn there."""
        if values.shape != self.values.shape:
            raise NextsetError(
                f"pinned latents have shape {tuple(values.shape)}, but the canvas has {tuple(self.values.shape)}; encode at the size of the model"
            )
        mask = mask.cpu().expand_as(self.given)
        self.given = self.given | mask
        self.values = torch.where(mask.to(self.values.device)[..., None], values.to(self.values), self.values)

    def pinned(self, step: Step) -> bool:
        return bool(_take(self.given, step.draw).all())

    def held(self, step: Step) -> Tensor:
        """The position that each fed slot holds, below 0 for conditions; on the host."""
        held = step.feed - self.conditions
        return held if self.places is None else torch.where(held < 0, held, self.places[held.clamp_min(0)])

    def input(self, step: Step) -> Tensor:
        held = self.held(step).to(self.values.device)
        tokens = _take(self.values, held.clamp_min(0))
        return torch.where((held >= 0)[..., None], tokens, 0.0)

    def now(self, step: Step) -> tuple[Tensor, Tensor]:
        return _take(self.values, step.draw.to(self.values.device)), _take(self.given, step.draw)

    def write(self, step: Step, drawn: Drawn) -> None:
        """Keep what was drawn, except where values were given."""
        before, given = _take(self.values, step.draw.to(self.values.device)), _take(self.given, step.draw)
        value = torch.where(given.to(before.device)[..., None], before, drawn.value.to(before))
        at = step.draw.to(before.device).expand(value.shape[:2])[..., None].expand_as(value)
        self.values = self.values.scatter(1, at, value)

    def codes(self) -> Tensor:
        """Tokens (N, L, C); those not yet drawn are 0 (or given)."""
        return self.values

    def select(self, rows: Tensor) -> None:
        """Entry i continues entry rows[i]."""
        self.values, self.given = self.values[rows], self.given[rows.cpu()]


def _take(t: Tensor, at: Tensor) -> Tensor:
    """t (N, L) or (N, L, C) at positions (m,) or (N, m)."""
    if at.dim() == 1:
        return t.index_select(1, at)
    return t.gather(1, at if t.dim() == 2 else at[..., None].expand(-1, -1, t.shape[-1]))


class Flowing(Latents):
    """Tokens on their way from noise to data: each begins as noise of its own position, and is written at every level.

    A given token is fed as its noised version at the level of the step, x_t = (1 - t) x + t noise, and at level 0 as it
    is; so given tokens steer those that are drawn beside them, and teacher forcing is a canvas on which all are given.
    noise: (N, L, C) since `begin`, of the purpose `begin`, addressed by image and position. outlook: (N, L, C), where
    each token would end if its velocity stayed; 0 where nothing was drawn yet. It is what a preview shows.
    """

    def __init__(self, entries: int, places: Tensor, channels: int, *, device: torch.device | str = "cpu") -> None:
        super().__init__(entries, len(places), channels, places=places, device=device)
        self.noise, self.outlook = torch.zeros_like(self.values), torch.zeros_like(self.values)

    def begin(self, noise: NoiseSource, images: Tensor) -> None:
        length, channels = self.values.shape[1:]
        drawn = noise.of("begin").normal(images, torch.arange(length), lanes=channels)
        self.noise = drawn.to(self.values)
        self.values = torch.where(self.given.to(self.values.device)[..., None], self.values, self.noise)

    def pin(self, values: Tensor, mask: Tensor) -> None:
        super().pin(values, mask)
        self.outlook = torch.where(self.given.to(self.values.device)[..., None], self.values, self.outlook)

    def input(self, step: Step) -> Tensor:
        held = self.held(step)
        at, given = held.to(self.values.device), _take(self.given, held)
        tokens = _take(self.values, at)
        if step.level is None or not bool(given.any()):
            return tokens
        level = step.level.to(tokens)[..., None]
        noised = (1 - level) * tokens + level * _take(self.noise, at)
        return torch.where(given.to(tokens.device)[..., None], noised, tokens)

    def now(self, step: Step) -> tuple[Tensor, Tensor]:
        """The drawn positions as this step feeds them, and which are given."""
        fed = self.input(step)
        return fed[:, step.read[:, 0].to(fed.device)], _take(self.given, step.draw)

    def write(self, step: Step, drawn: Drawn) -> None:
        """Keep what was drawn, except where values were given; `drawn.trace` is the outlook."""
        super().write(step, drawn)
        at = step.draw.to(self.values.device).expand(drawn.value.shape[:2])[..., None].expand_as(drawn.value)
        ends = drawn.trace if isinstance(drawn.trace, Tensor) else drawn.value
        shown = self.outlook.scatter(1, at, ends.to(self.outlook))
        self.outlook = torch.where(self.given.to(shown.device)[..., None], self.values, shown)

    def select(self, rows: Tensor) -> None:
        super().select(rows)
        self.noise, self.outlook = self.noise[rows], self.outlook[rows]
