"""The one loop. `look` asks the network for a law, `advance` draws from it, `run` goes on until nothing is next.

It knows steps, rows, memory and controllers. It does not know what a token means, what the trunk is, or how the canvas
makes an input of what it holds. Nothing prints, nothing waits for the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.caches.policies import make_policy
from nextset.core.canvases import Drawn
from nextset.core.events import Done, Event, Preview, StepDone
from nextset.core.noise import Noise
from nextset.core.protocols import Dist, Job, NoiseSource, Policy
from nextset.core.rows import expand, map_rows, rows_of
from nextset.core.steps import Step
from nextset.engine.ahead import Ahead
from nextset.engine.context import Context
from nextset.engine.controllers import Controller
from nextset.engine.static import Backend, Static


@dataclasses.dataclass
class Run:
    """The state of one generation: a job, what it remembers, and where it is.

    images: (N,) index of each entry's image in the request: noise is addressed by it, so that a result never depends on
    what else is in the batch. attempt: (N,) candidate << 16 | attempt. skip_pinned: steps whose values are all given are
    joined with the next one instead of being predicted and thrown away.
    """

    job: Job
    noise: NoiseSource
    images: Tensor
    policy: Policy
    controllers: tuple[Controller, ...] = ()
    attempt: Tensor | int = 0
    skip_pinned: bool = True
    cursor: int = 0
    forwards: int = 0
    cond: Any = None
    states: dict[tuple[str, int], Any] = dataclasses.field(default_factory=dict)
    running: Step | None = None  # the forward that runs now, or ran last
    # what recurrent layers of the last forward would keep: a look alone must leave no trace
    pending: dict[tuple[str, int], Any] = dataclasses.field(default_factory=dict)
    _some: dict[tuple[int, ...], Any] = dataclasses.field(default_factory=dict)
    _active: dict[Step, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    _draws: Any = None  # `noise` for draws, ahead of the steps
    # a backend of torch.compile, or "none" for the body as it is: steps that share a body run by it (`engine/static.py`)
    compile: Backend | None = None
    _static: Static | None = None

    @classmethod
    def of(
        cls,
        job: Job,
        noise: NoiseSource,
        images: Tensor | None = None,
        *,
        cache: str | Policy | None = None,
        controllers: Sequence[Controller] = (),
        skip_pinned: bool = True,
        compile: Backend | bool | None = None,
    ) -> Run:
        """A run at its first step. cache: a policy or its name; by default the job's, or "full" where the plan keeps
        anything and "none" where it does not. compile: run steps of equal shape by one compiled body (True, or the name of a
        backend); refused where the request has what a body cannot do."""
        images = torch.arange(job.entries) if images is None else images
        if cache is None:
            cache = job.cache or ("full" if any(s.keeps for s in job.plan.steps) else "none")
        policy = make_policy(cache) if isinstance(cache, str) else cache
        run = cls(job, noise, images, policy, (*job.controllers, *controllers), skip_pinned=skip_pinned)
        run.compile = "inductor" if compile is True else compile or None
        run.cond = job.network.prepare([b.condition for b in job.branches])
        job.canvas.begin(noise, images)
        return run

    # ---- rows

    def active(self, step: Step) -> tuple[int, ...]:
        """Branches that run now: those with weight, and those that keep what a later step with weight will read."""
        if step in self._active:
            return self._active[step]
        branches = self.job.branches
        now = [b.always or any(_weighs(self.job.weights(s)[i]) for s in step.steps) for i, b in enumerate(branches)]
        remembers = step.keeps and self.policy.remembers
        for b, branch in enumerate(branches):
            if not now[b] and remembers and branch.memory is None:
                readers = [i for i, r in enumerate(branches) if r.reads == branch.name]
                later = self.job.plan.steps[step.index + 1 :]
                now[b] = any(_weighs(self.job.weights(s)[i]) for s in later for i in readers)
        self._active[step] = tuple(b for b in range(len(branches)) if now[b])
        return self._active[step]

    def draws(self) -> Any:
        """The numbers that draws are made with."""
        if self._draws is None:
            source = self.noise.of("draw")
            self._draws = Ahead(source, self.job.plan) if isinstance(source, Noise) else source
        return self._draws

    def condition(self, active: tuple[int, ...]) -> Any:
        """The prepared condition of some branches."""
        if len(active) == len(self.job.branches):
            return self.cond
        if active not in self._some:
            rows = rows_of(list(active), self.job.entries, "cpu")
            self._some[active] = map_rows(lambda t: t.index_select(0, rows.to(t.device)), self.cond)
        return self._some[active]

    def select(self, rows: Tensor) -> None:
        """Entry i continues entry rows[i]: canvas, memory, conditions and states move together."""
        branches, old = len(self.job.branches), self.job.entries
        self.job.canvas.select(rows)
        self.policy.select(rows)
        self.job.plan = self.job.plan.select(rows.cpu())
        self.job.branches = tuple(
            b if b.hidden is None else dataclasses.replace(b, hidden=b.hidden[rows.to(b.hidden.device)])
            for b in self.job.branches
        )
        every = (torch.arange(branches)[:, None] * old + rows.cpu()).reshape(-1)
        self.cond = map_rows(lambda t: t.index_select(0, every.to(t.device)), self.cond)
        self.states = map_rows(lambda t: t.index_select(0, rows.to(t.device)), self.states)
        self.pending = map_rows(lambda t: t.index_select(0, rows.to(t.device)), self.pending)
        self._some.clear()
        self._active.clear()
        self._draws = self._static = None
        self.images = self.images[rows.cpu()]
        if isinstance(self.attempt, Tensor):
            self.attempt = self.attempt[rows.cpu()]
        self.job.entries = len(rows)

    # ---- steps

    def upcoming(self) -> Step | None:
        """The plan's next forward. Given steps cost none of their own: what they keep is joined to the first step that must
        be predicted, and those that keep nothing are left out. Steps `ahead` run with the step after them."""
        parts: list[Step] = []
        for step in self.job.plan.steps[self.cursor :]:
            silent = not step.draw.shape[-1]
            given = self.skip_pinned and not silent and self.job.canvas.pinned(step)
            if given and not step.keeps:
                continue
            parts.append(step)
            if not given and not (silent and step.ahead):
                return self.job.plan.join(parts)
        return None  # everything is given, or nothing is left to draw: the canvas needs no network

    def codes(self) -> Any:
        return self.job.canvas.codes()


def enter(run: Run, step: Step, active: tuple[int, ...]) -> tuple[Tensor, Context]:
    """What the trunk is given beside the condition: the input of the fed rows (rows, n, ...), and the forward's context."""
    job = run.job
    x = expand(job.canvas.input(step), len(active))
    hooks = tuple(
        lambda site, h, c=c: c.on_site(run, site, h)
        for c in run.controllers
        if type(c).on_site is not Controller.on_site
    )
    run.pending, run.running = {}, step
    ctx = Context(
        job.plan, step, run.policy, job.branches, active, job.entries, x.device, run.states, run.pending, hooks
    )
    run.forwards += 1
    return x, ctx


def forward(run: Run, step: Step, active: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Rows, input, trunk: hidden states (rows, n, C) of the fed rows, one tensor per tap."""
    x, ctx = enter(run, step, active)
    h = run.job.network.trunk(x, run.condition(active), ctx)
    return h if isinstance(h, tuple) else (h,)


def look(
    run: Run,
    step: Step,
    *,
    filtered: bool = True,
    branches: tuple[int, ...] | None = None,
    taps: tuple[Tensor, ...] | None = None,
) -> Dist:
    """One forward, head, guidance, filters: the law of what the step draws. Also used by training, scoring, verifying.
    taps: hidden states of a forward that was made already, which several runs may share (`engine/together.py`)."""
    job = run.job
    active = run.active(step) if branches is None else branches
    if taps is None:
        taps = forward(run, step, active)
    device = taps[0].device
    drawing = [s for s in step.steps if s.draw.shape[-1]]
    at_read = tuple(
        tap if step.reads_own_rows else tap.index_select(1, step.read[:, i].clamp_min(0).to(device))
        for i, tap in enumerate(taps)
    )
    dist = job.network.head(step, run.condition(active)).dist(at_read, step, job.canvas.now(step))
    weights = [_spread([job.weights(s)[b] for s in drawing], drawing, device) for b in active]
    dist = dist.guide(weights, len(active))
    if not filtered:
        return dist
    chains = [job.filters(s) for s in drawing]
    if len(drawing) == 1:
        return dist.filter(chains[0])
    sizes = [s.draw.shape[-1] for s in drawing]
    return dist.join([part.filter(chain) for part, chain in zip(dist.split(sizes), chains, strict=True)])


def _weighs(weight: float | Tensor) -> bool:
    return bool((weight != 0).any()) if isinstance(weight, Tensor) else weight != 0


def _spread(weights: Sequence[float | Tensor], steps: Sequence[Step], device: torch.device) -> float | Tensor:
    """One weight per step, or per position, as one factor of the joined positions."""
    if len(steps) == 1:
        return weights[0]
    parts = [
        torch.as_tensor(w, dtype=torch.float32).expand(s.draw.shape[-1]) for w, s in zip(weights, steps, strict=True)
    ]
    return torch.cat(parts).to(device)


def following(run: Run) -> Step | None:
    """The forward that runs now, after the controllers had their say; None when the run is over."""
    step = run.upcoming()
    for c in run.controllers:
        step = c.next(run, step)
    if step is None:
        run.cursor = max(run.cursor, len(run.job.plan))
    return step


def advance(run: Run, step: Step, taps: tuple[Tensor, ...] | None = None) -> Drawn | None:
    """Look, draw, write, remember, move the cursor on. A step that draws nothing only runs the trunk. taps: see `look`."""
    drawn = _by_body(run, step) if run.compile and taps is None else None
    if drawn is not None:
        pass
    elif not step.draw.shape[-1]:
        if taps is None:
            forward(run, step, run.active(step))
    else:
        dist = look(run, step, taps=taps)
        for c in run.controllers:
            dist = c.on_dist(run, step, dist)
        drawn = dist.draw(run.draws(), run.images, step.draw, run.attempt)
        for c in run.controllers:
            drawn = c.on_draw(run, step, drawn)
        run.job.canvas.write(step, drawn)
    run.policy.end(step)
    run.states |= run.pending
    run.cursor = step.index + 1
    for c in run.controllers:
        c.after(run, step, drawn)
    return drawn


def _by_body(run: Run, step: Step) -> Drawn | None:
    """The whole step by the body that it shares with others; None where it has none."""
    if run._static is None:
        run._static = Static(run, run.compile or "none")
    drawn = run._static.draw(run, step)
    if drawn is not None:
        run.forwards += 1
        run.pending, run.running = {}, step
    return drawn


def proceed(run: Run, *, previews: bool = False, stop: int | None = None) -> Iterator[Event]:
    """The loop, as events: `StepDone` after each forward, `Preview` when asked for, `Done` at the end.

    stop: leave off before the plan's step of that index (the run can be continued by another call).
    """
    while (step := following(run)) is not None:
        if stop is not None and step.index >= stop:
            return
        drawn = advance(run, step)
        yield StepDone(step.index, len(run.job.plan), drawn)
        if previews:
            yield Preview(step.index, run.job.finish(run.job.canvas))
    yield Done(run.codes())


@torch.no_grad()
def finish(run: Run) -> Tensor:
    """Run to the end and return the images (N, 3, H, W) in [-1, 1]."""
    for _ in proceed(run):
        pass
    return run.job.finish(run.job.canvas)
