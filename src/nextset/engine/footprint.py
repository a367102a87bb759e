"""How many bytes a generation keeps between its steps, and how many it holds at most: counted, not sampled.

The peak counts the tensors that the run makes and that are alive at once, whatever device they are on; weights, and what
a kernel allocates and frees within itself, are not in it. It knows no system.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nextset.core.protocols import Job, NoiseSource
from nextset.engine.run import Run, finish


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes of all entries of a job. kept: keys, values and states when the last step is done. peak: see the module."""

    kept: int
    peak: int


@torch.no_grad()
def footprint(make: Callable[[], Job], noise: NoiseSource) -> Footprint:
    """Runs two equal jobs to their end and counts the second: masks that a plan remembers are made by the first."""
    finish(Run.of(make(), noise))
    with Alive() as alive:
        run = Run.of(make(), noise)
        finish(run)
    states = sum(t.numel() * t.element_size() for t in tree_leaves(run.states) if isinstance(t, Tensor))
    return Footprint(run.policy.bytes() + states, alive.peak)


class Alive(TorchDispatchMode):
    """Bytes of the storages that operations made inside the context, now and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in given and id(storage) not in self._known:
                    self._count(storage)
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()

        def freed(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)
