"""The seams of the spine as types: what a system, a head's law and a memory policy promise to the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from nextset.core.canvases import Canvas, Drawn, NoiseSource
from nextset.core.plan import Plan
from nextset.core.rows import Branch
from nextset.core.steps import Step


@dataclasses.dataclass(frozen=True)
class Extra:
    """Keys and values that a layer adds to what it attends to: (rows, H, e, d) each, mask (n, e) or None = all visible.

    instead_of: (attribute, value): stored and fed rows with that value of an attribute are hidden from rows without it,
    because the extra keys stand for them (a pooled prefix).
    """

    k: Tensor
    v: Tensor
    mask: Tensor | None = None
    instead_of: tuple[str, int] | None = None


class Context(Protocol):
    """What a trunk may ask during a forward. A layer never sees a cache and never builds a mask."""

    step: Step

    def attend(
        self,
        site: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        scale: float | None = None,
        raw: tuple[Tensor, Tensor] | None = None,
        extra: Extra | None = None,
    ) -> Tensor:
        """Attention of the fed rows: q, k, v (rows, H, n, d) -> (rows, H, n, d). Stores, reads and masks as the run's
        policy and plan say. raw: unrotated (q, k) for policies that ask for them."""
        ...

    def attr(self, name: str) -> Tensor:
        """A slot attribute of the fed rows: (n,), or (rows, n) where orders differ by image."""
        ...

    def has(self, name: str, value: int) -> bool:
        """Whether any fed slot has that value of an attribute. A fact of the plan: asking waits for nothing."""
        ...

    def hook(self, site: str, h: Tensor) -> Tensor:
        """Let controllers read or change h; returns it as it goes on."""
        ...

    def state(self, site: str) -> Any:
        """What `keep` stored at this site in an earlier forward, or None (recurrent layers)."""
        ...

    def keep(self, site: str, state: Any) -> None: ...

    def kept(self, site: str, attribute: str, value: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the slots with that attribute value, (rows, H, s, d) each: rows of k and v where this forward
        feeds them, else what was stored."""
        ...


class Policy(Protocol):
    """What is kept of the past at each site, and how it is attended to. State belongs to one run.

    remembers: whether a later forward can read what this one stores.
    """

    remembers: bool

    def attend(
        self,
        site: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ctx: Any,
        *,
        scale: float | None,
        raw: tuple[Tensor, Tensor] | None,
        extra: Extra | None,
    ) -> Tensor: ...
    def kept(self, site: str, slots: Tensor, ctx: Any) -> tuple[Tensor, Tensor]: ...
    def end(self, step: Step) -> None: ...
    def select(self, rows: Tensor) -> None: ...
    def truncate(self, lengths: Tensor) -> None: ...
    def bytes(self) -> int: ...


class Dist(Protocol):
    """A law over the values of m positions. `guide` folds branches, `filter` reshapes, `draw` decides."""

    def guide(self, weights: Sequence[float | Tensor], branches: int) -> Dist: ...
    def filter(self, chain: Sequence[Filter]) -> Dist: ...
    def split(self, sizes: Sequence[int]) -> list[Dist]: ...
    def join(self, parts: Sequence[Dist]) -> Dist: ...
    def draw(self, noise: NoiseSource, images: Tensor, positions: Tensor, attempt: int | Tensor = 0) -> Drawn: ...
    def logp(self, value: Tensor) -> Tensor: ...


Filter = Callable[[Any], Any]


class Head(Protocol):
    """Hidden states at the read rows, one tensor per tap (rows, m, C), to a law."""

    def dist(self, h: tuple[Tensor, ...], step: Step, now: Any) -> Dist: ...


class Network(Protocol):
    """The trainable part of a system."""

    def prepare(self, conditions: Sequence[Any]) -> Any:
        """Conditions of all branches, in order, to what the trunk needs of them: tensors with a leading rows axis.
        Called once a request."""
        ...

    def trunk(self, x: Tensor, cond: Any, ctx: Any) -> Tensor | tuple[Tensor, ...]:
        """Inputs of the fed rows (rows, n, ...) to hidden states (rows, n, C), one tensor per tap."""
        ...

    def head(self, step: Step, cond: Any) -> Any: ...


class Ground(Protocol):
    """A map of the ground: square pictures of any place and size, north up. Angles in degrees, lengths in metres.

    start: (lat, lon, side) of the square that is searched. native_mpp: metres per pixel of its finest pictures. A map may
    also have `covers(lat (N,), lon (N,)) -> bool (N,)`, which places it shows; without it, it shows all.
    """

    @property
    def start(self) -> tuple[float, float, float]: ...
    @property
    def native_mpp(self) -> float: ...

    def view(self, lat: Tensor, lon: Tensor, side_m: Tensor, pixels: int) -> Tensor:
        """Pictures float32 (N, 3, pixels, pixels) in [-1, 1] of the squares with these centres and sides, float64 (N,)."""
        ...


@dataclasses.dataclass
class Job:
    """One request, ready to run: a system's own choices, as values.

    weights(step) -> one weight per branch (a number, or (m,)); 0 = not needed for this step's draw.
    filters(step) -> the chain that the law goes through before the draw.
    finish(canvas) -> images (N, 3, H, W) in [-1, 1], or whatever else the system finds, of what the canvas holds so far.
    cache: name of the memory policy that it needs; None: whatever the caller likes. controllers: those that belong to it;
    the caller's come after them.
    """

    network: Network
    plan: Plan
    canvas: Canvas
    branches: tuple[Branch, ...]
    weights: Callable[[Step], Sequence[float | Tensor]]
    filters: Callable[[Step], Sequence[Filter]]
    finish: Callable[[Canvas], Any]
    entries: int
    cache: str | None = None
    controllers: tuple[Any, ...] = ()
