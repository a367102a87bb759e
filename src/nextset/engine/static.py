"""One body for many steps: what a step computes, as a function of its number, so that it is compiled once and not at every
position, and recorded once as a CUDA graph.

The step's number is a tensor that indexes tables of the plan: which slots are fed, which positions are drawn, their
attributes, who sees whom. Attention reads the whole storage under a mask, so that no shape grows. Steps of equal signature
(shapes, phase, running branches, filters) share a body; a raster plan has one or two, a plan of diagonals one for each
length. The loop stays the one of `engine/run.py`: where a step has a body, `advance` calls it, and everything else runs as ever.
"""

from __future__ import annotations

import dataclasses
import types
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nextset.caches.policies import Full
from nextset.core.canvases import Drawn
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.protocols import Extra
from nextset.core.rows import expand
from nextset.core.steps import Step
from nextset.nn.attention import attention

if TYPE_CHECKING:
    from nextset.engine.run import Run

Backend = str | Callable[..., Any]  # of `torch.compile`; "none" runs the same body as it is
LEAST = 2  # steps that must share a body before one is made


@dataclasses.dataclass
class At:
    """A step as the body sees it: the fields of `core.steps.Step` that are tensors, read from tables."""

    feed: Tensor
    draw: Tensor
    read: Tensor | None
    phase: str
    rows: int
    fed: None = None
    drawn: None = None

    @property
    def steps(self) -> tuple[At, ...]:
        return (self,)


class Numbers:
    """The uniform numbers of one step, behind the interface of a source of noise."""

    def __init__(self, u: Tensor) -> None:
        self.u = u

    def uniform(self, images: Any, positions: Any, *, attempt: Any = 0, lanes: int | None = None) -> Tensor:
        return self.u

    def of(self, purpose: str) -> Numbers:
        raise NextsetError(f"a compiled step has no numbers for {purpose!r}; leave out compile")


class Sight:
    """Implements `nextset.core.protocols.Context` for the body of a group of steps at one of them."""

    hooks = ()

    def __init__(self, body: Body, step: At, values: dict[str, Tensor], mask: Tensor) -> None:
        self.body, self.step, self.active, self._values, self._mask = body, step, body.active, values, mask

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
        if extra is not None:
            raise NextsetError(f"{site} attends to keys of its own, which a compiled step cannot; leave out compile")
        keys, values = self.body.stores[site]
        keys.index_copy_(2, self.step.feed, k.to(keys.dtype))
        values.index_copy_(2, self.step.feed, v.to(values.dtype))
        return attention(q, keys, values, self._mask, scale)

    def attr(self, name: str) -> Tensor:
        return self._values[name]

    def has(self, name: str, value: int) -> bool:
        return self.body.has.get((name, value), True)

    def hook(self, site: str, h: Tensor) -> Tensor:
        return h

    def state(self, site: str) -> Any:
        raise NextsetError(f"{site} keeps a state, which a compiled step cannot; leave out compile")

    keep = kept = state


@dataclasses.dataclass
class Body:
    """What the steps of a group share, all of it tensors and constants, for one run.

    feed (G, n), draw (G, m), read (G, m) or None, attributes {name: (G, n)}, mask (G, n, S), weights (G, branches) or None,
    u (G, N, m): one line a step. hidden (rows, S) or None: padding. stores: {site: keys and values (rows, H, S, d)}.
    """

    network: Any
    canvas: Any
    cond: Any
    active: tuple[int, ...]
    phase: str
    filters: Sequence[Any]
    feed: Tensor
    draw: Tensor
    read: Tensor | None
    attributes: dict[str, Tensor]
    mask: Tensor
    weights: Tensor | None
    u: Tensor
    hidden: Tensor | None
    stores: dict[str, tuple[Tensor, Tensor]]
    has: dict[tuple[str, int], bool]


def step_of(body: Body, i: Tensor) -> Tensor:
    """Everything that a step does, from the canvas to the canvas: line i (1,) of the tables -> what was drawn (N, m)."""
    step = At(
        body.feed.index_select(0, i)[0],
        body.draw.index_select(0, i)[0],
        None if body.read is None else body.read.index_select(0, i)[0],
        body.phase,
        body.feed.shape[1],
    )
    mask = body.mask.index_select(0, i)
    if body.hidden is not None:
        own = step.feed[:, None] == torch.arange(mask.shape[-1], device=mask.device)
        mask = mask[None] & (~body.hidden[:, None, None] | own)
    values = {name: table.index_select(0, i)[0] for name, table in body.attributes.items()}
    ctx = Sight(body, step, values, mask)
    h = body.network.trunk(expand(body.canvas.input(step), len(body.active)), body.cond, ctx)
    taps = h if isinstance(h, tuple) else (h,)
    if step.read is not None:
        taps = tuple(tap.index_select(1, step.read[:, t].clamp_min(0)) for t, tap in enumerate(taps))
    law = body.network.head(step, body.cond).dist(taps, step, body.canvas.now(step))
    weights: list[Any] = [1.0]
    if body.weights is not None:
        line = body.weights.index_select(0, i)[0]
        weights = [line[b : b + 1] for b in range(len(body.active))]
    law = law.guide(weights, len(body.active)).filter(body.filters)
    drawn = law.draw(Numbers(body.u.index_select(0, i)[0]), None, step.draw)
    body.canvas.write(step, drawn)
    return drawn.value


class Static:
    """The bodies of a run."""

    def __init__(self, run: Run, backend: Backend) -> None:
        check(run)
        self.backend = backend
        self.groups: dict[Any, list[Step]] = {}
        self.place: dict[Step, tuple[Any, int]] = {}
        for step in run.job.plan.steps:
            key = _signature(run, step)
            if key is not None:
                group = self.groups.setdefault(key, [])
                self.place[step] = key, len(group)
                group.append(step)
        self._calls: dict[Any, Callable[[int], Tensor]] = {}

    def draw(self, run: Run, step: Step) -> Drawn | None:
        """Do the whole step; None where it has no body."""
        policy: Any = run.policy
        key, i = self.place.get(step, (None, 0))
        if key is None or len(self.groups[key]) < LEAST or not (policy.sites() and policy.whole):
            return None
        with torch.no_grad():
            if key not in self._calls:
                self._calls[key] = self._call(run, _body(run, self.groups[key]))
            return Drawn(self._calls[key](i))

    def _call(self, run: Run, body: Body) -> Callable[[int], Tensor]:
        device = body.u.device
        numbers = torch.arange(len(body.feed), device=device)[:, None]
        step = step_of if self.backend == "none" else _compiled(run.job.network, self.backend)
        if device.type == "cuda":
            return recorded(step, body, numbers)
        if self.backend == "none":
            return lambda i: step(body, numbers[i])
        return trusted(step, body, numbers)


def trusted(step: Callable[[Body, Tensor], Tensor], body: Body, numbers: Tensor) -> Callable[[int], Tensor]:
    """The compiled body, whose assumptions about network and tables are checked at its first call alone: a run changes
    neither. Checking every weight anew costs a fifth of a small model's step."""
    checked = False

    def call(i: int) -> Tensor:
        nonlocal checked
        if not checked:
            first = step(body, numbers[i])
            checked = True
            return first
        with torch.compiler.set_stance(skip_guard_eval_unsafe=True):
            return step(body, numbers[i])

    return call


def recorded(step: Callable[[Body, Tensor], Tensor], body: Body, numbers: Tensor) -> Callable[[int], Tensor]:
    """The body as a CUDA graph: recorded at the first call, replayed at the others. A step done twice at one number is the
    same as done once, so that the calls before the recording leave no trace."""
    place = numbers[0].clone()
    graph: list[torch.cuda.CUDAGraph] = []
    found: list[Tensor] = []
    ids: list[Tensor] = []

    def call(i: int) -> Tensor:
        place.copy_(numbers[i])
        if not graph or ids[0] is not body.canvas.codes():  # values were given meanwhile, and lie elsewhere
            graph.clear()
            found.clear()
            ids[:] = [body.canvas.codes()]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    step(body, place)
            torch.cuda.current_stream().wait_stream(side)
            graph.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graph[0]):
                found.append(step(body, place))
        graph[0].replay()
        return found[0].clone()

    return call


_BODIES: weakref.WeakKeyDictionary[Any, dict[Backend, Callable[..., Tensor]]] = weakref.WeakKeyDictionary()


def _compiled(network: Any, backend: Backend) -> Callable[[Body, Tensor], Tensor]:
    """The compiled body of a network: shared by its runs, and by no other network's, so that none crowds out another."""
    bodies = _BODIES.setdefault(network, {})
    if backend not in bodies:
        own = types.FunctionType(step_of.__code__.replace(), step_of.__globals__, "step_of")
        bodies[backend] = torch.compile(own, backend=backend, dynamic=False, fullgraph=True)
    return bodies[backend]


def check(run: Run) -> None:
    """Refuse what a body cannot do, in one line."""
    job = run.job
    why = None
    if run.controllers:
        why = f"the run has a controller ({type(run.controllers[0]).__name__})"
    elif type(run.policy) is not Full:
        why = f"memory is kept by the policy {type(run.policy).__name__}, not by 'full'"
    elif not isinstance(run.noise, Noise):
        why = "numbers come from a tape"
    elif not getattr(job.canvas, "by_table", False):
        why = f"the canvas {type(job.canvas).__name__} does not take steps from tables"
    elif any(b.memory is not None or b.sees is not None for b in job.branches):
        why = "a branch has a memory or a rule of another one"
    if why is not None:
        raise NextsetError(f"compile cannot serve this request, because {why}; leave out compile")


def _signature(run: Run, step: Step) -> Any:
    """What steps must share to have one body; None for a step that has none."""
    if step.feed.dim() > 1 or step.level is not None or not step.draw.shape[-1] or not bool(step.keep.all()):
        return None
    if run.job.plan.view(step).appended or any(isinstance(w, Tensor) for w in run.job.weights(step)):
        return None
    read = None if step.reads_own_rows else step.read.shape
    filters = tuple(id(f) for f in run.job.filters(step))
    return step.rows, step.draw.shape[-1], read, step.phase, run.active(step), filters


def _body(run: Run, steps: Sequence[Step]) -> Body:
    job, plan, active = run.job, run.job.plan, run.active(steps[0])
    policy: Any = run.policy
    stores = policy.sites()
    device = next(iter(stores.values()))[0].device
    n, (first, count) = job.entries, (active[0] * job.entries, len(active) * job.entries)
    if active != tuple(range(active[0], active[0] + len(active))):
        raise NextsetError("compile cannot serve branches that do not lie side by side; leave out compile")
    masks = torch.zeros(len(steps), steps[0].rows, plan.size, dtype=torch.bool)
    for i, step in enumerate(steps):
        view = plan.view(step)
        masks[i, :, : view.end] = True if view.mask is None else view.mask
    draws = torch.stack([s.draw for s in steps])
    u = run.noise.of("draw").uniform(run.images, draws.flatten(), attempt=run.attempt)
    weights = torch.tensor([[float(job.weights(s)[b]) for b in active] for s in steps])
    plain = len(active) == 1 and bool((weights == 1).all())
    padded = [job.branches[b].hidden for b in active]
    none = torch.zeros(n, plan.size, dtype=torch.bool)
    hidden = None if all(h is None for h in padded) else torch.cat([none if h is None else h.cpu() for h in padded])
    names = [*plan.slots, "slot"]
    facts = {
        (name, int(value)): any(plan.has(s, name, int(value)) for s in steps)
        for name, table in plan.slots.items()
        for value in table.unique()[:64].tolist()
    }
    return Body(
        network=job.network, canvas=job.canvas, cond=run.condition(active), active=active, phase=steps[0].phase,
        filters=list(job.filters(steps[0])),
        feed=torch.stack([s.feed for s in steps]).to(device), draw=draws.to(device),
        read=None if steps[0].reads_own_rows else torch.stack([s.read for s in steps]).to(device),
        attributes={name: torch.stack([plan.attribute(s, name) for s in steps]).to(device) for name in names},
        mask=masks.to(device), weights=None if plain else weights.to(device),
        u=u.unflatten(1, draws.shape).transpose(0, 1).contiguous().to(device),
        hidden=None if hidden is None else hidden.to(device),
        stores={site: tuple(t.narrow(0, first, count) for t in kv) for site, kv in stores.items()}, has=facts,
    )  # fmt: skip
