"""Plans and canvases where what is seen next depends on what was decided: observation, decision, observation, decision, ...

The plan knows only the order. The canvas holds the decisions and asks a world, which is handed in, what each leads to and
what is seen there. So nothing here knows what is decided about: a map, a game, a scene.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from nextset.core.canvases import Drawn, NoiseSource
from nextset.core.errors import NextsetError, check_range
from nextset.core.plan import Plan
from nextset.core.plans import causal
from nextset.core.rows import map_rows
from nextset.core.steps import Step
from nextset.core.views import Sees

CONDITION, OBSERVATION, DECISION = range(3)


def interleaved(conditions: int, rounds: int, *, sees: Sees | None = None) -> Plan:
    """Step t feeds decision t - 1 and observation t, draws decision t, and reads it at the observation.

    Slots: `conditions`, which the first step feeds too, then observation 0, decision 0, observation 1, ...; the last decision
    has a slot that no step feeds, because nothing follows it. Attributes: `segment` (CONDITION, OBSERVATION, DECISION),
    `index` in it. The default rule is causal.
    """
    check_range("conditions", conditions, 0)
    check_range("rounds", rounds, 1)
    pair = torch.tensor([OBSERVATION, DECISION])
    slots = {
        "segment": torch.cat([torch.full((conditions,), CONDITION), pair.repeat(rounds)]),
        "index": torch.cat([torch.arange(conditions), torch.arange(rounds).repeat_interleave(2)]),
    }
    steps, fed = [], 0
    for t in range(rounds):
        observed = conditions + 2 * t
        feed = torch.arange(fed, observed + 1)
        steps.append(Step.make(t, feed, torch.tensor([t]), torch.tensor([[len(feed) - 1]])))
        fed = observed + 1
    return Plan(slots, tuple(steps), rounds, sees or causal, name="interleaved")


class World(Protocol):
    """What an `Environment` needs of the world. A state is a tree of tensors with a leading N, a value that is never
    changed: a canvas goes back to an earlier one when a decision is taken back."""

    def start(self, entries: int) -> Any:
        """The state of that many entries before any decision."""
        ...

    def move(self, state: Any, decision: Tensor) -> Any:
        """The state behind decisions (N,)."""
        ...

    def observe(self, state: Any) -> Tensor:
        """What is seen in a state, as the vectors (N, C) that observation slots are made of."""
        ...

    def embed(self, decisions: Tensor) -> Tensor:
        """What decision slots are made of: ids (...) -> (..., C)."""
        ...


class Environment:
    """Decisions (N, S), ids, in a world; slots as `interleaved` lays them out.

    The input of a slot is a vector (N, n, C): of an observation what the world shows there, once for each state, of a
    decision what the world makes of its id; condition slots get zeros. logp (N, S): log probability of what was drawn,
    where the draw says it, else 0.
    """

    def __init__(
        self, world: World, entries: int, rounds: int, *, conditions: int = 1, device: torch.device | str = "cpu"
    ) -> None:
        self.world, self.conditions = world, conditions
        self.ids = torch.zeros(entries, rounds, dtype=torch.int64, device=device)
        self.given = torch.zeros(entries, rounds, dtype=torch.bool, device=device)
        self.logp = torch.zeros(entries, rounds, device=device)
        self._known = [False] * rounds  # drawn, or given in every entry
        self._all_given = [False] * rounds
        self._states = [world.start(entries)]  # _states[t]: before decision t
        self._seen: list[Tensor] = []  # what is seen there

    def begin(self, noise: NoiseSource, images: Tensor) -> None:
        """Nothing: the first observation is the world's."""

    @property
    def done(self) -> int:
        """Decisions that are known, counted from the first without a gap."""
        return (*self._known, False).index(False)

    def pin(self, values: Tensor, mask: Tensor) -> None:
        """Give decisions (N, S) where mask (N, S) or (S,) is True; they replace what is drawn there."""
        if values.shape != self.ids.shape:
            raise NextsetError(
                f"pinned decisions have shape {tuple(values.shape)}, but the canvas has {tuple(self.ids.shape)}; give one a step"
            )
        mask = mask.to(self.given.device).expand_as(self.given)
        self.given = self.given | mask
        self._all_given = self.given.all(0).tolist()
        for t in mask.any(0).nonzero()[:, 0].tolist():
            self._decide(t, torch.where(mask[:, t], values.to(self.ids)[:, t], self.ids[:, t]))
            self._known[t] |= self._all_given[t]

    def pinned(self, step: Step) -> bool:
        return all(self._all_given[p] for p in step.draw.tolist())

    def _decide(self, t: int, ids: Tensor) -> None:
        """Put decisions (N,) in place; if they are others than before, what they led to is forgotten."""
        if not torch.equal(ids, self.ids[:, t]):
            del self._states[t + 1 :], self._seen[t + 1 :]
            self._known[t + 1 :] = self._all_given[t + 1 :]
            self.ids = self.ids.index_copy(1, torch.tensor([t], device=ids.device), ids[:, None])

    def state(self, t: int) -> Any:
        """The world's state before decision t, which needs every decision before it."""
        while len(self._states) <= t:
            last = len(self._states) - 1
            if not self._known[last]:
                raise NextsetError(
                    f"what follows decision {last} was asked for, but it is neither drawn nor given; run the steps in order"
                )
            self._states.append(self.world.move(self._states[last], self.ids[:, last]))
        return self._states[t]

    def input(self, step: Step) -> Tensor:
        last = (int(step.feed.max()) - self.conditions) // 2
        while len(self._seen) <= last:
            self._seen.append(self.world.observe(self.state(len(self._seen))))
        seen, decided = torch.stack(self._seen[: last + 1], 1), self.world.embed(self.ids[:, : last + 1])
        pairs = torch.stack([seen, decided.to(seen.dtype)], 2).flatten(1, 2)
        slots = torch.cat([pairs.new_zeros(len(pairs), self.conditions, pairs.shape[-1]), pairs], 1)
        return slots[:, step.feed.to(slots.device)]

    def now(self, step: Step) -> tuple[Tensor, Tensor]:
        return self.ids[:, step.draw], self.given[:, step.draw]

    def write(self, step: Step, drawn: Drawn) -> None:
        """Keep what was drawn, except where decisions were given."""
        for i, t in enumerate(step.draw.tolist()):
            given = self.given[:, t]
            self._decide(t, torch.where(given, self.ids[:, t], drawn.value[:, i]))
            self._known[t] = True
            if drawn.logp is not None:
                self.logp[:, t] = torch.where(given, 0.0, drawn.logp[:, i])

    def codes(self) -> Tensor:
        """ids (N, S); those not yet drawn are 0 (or given)."""
        return self.ids

    def select(self, rows: Tensor) -> None:
        """Entry i continues entry rows[i]."""
        own, host = rows.to(self.ids.device), rows.cpu()
        self.ids, self.given, self.logp = self.ids[own], self.given[own], self.logp[own]
        self._all_given = self.given.all(0).tolist()
        self._states = map_rows(lambda t: t[host.to(t.device)], self._states)
        self._seen = [t[host.to(t.device)] for t in self._seen]
