"""Rows: how images become lines of the trunk's batch.

Only the engine makes rows. A row is an entry (an image, or one candidate of it) x a branch of guidance, laid out branch
after branch: row = branch * N + entry. Systems never double a batch or cut it in two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core.views import Sees


@dataclasses.dataclass(frozen=True, eq=False)
class Branch:
    """One condition under which every image is predicted.

    condition: what `system.prepare` is given for N entries (a tensor with a leading N, or a structure of them).
    memory: name of the branch whose kept rows it reads; its own by default. A branch that reads another's writes nothing.
    sees: a rule of visibility of its own, or None for the plan's. hidden: (N, S) bool, slots that are padding in an
    entry (conditions of several lengths); no other row sees them. always: it runs also where it has no weight, because a
    controller reads its hidden states.
    """

    name: str
    condition: Any
    memory: str | None = None
    sees: Sees | None = None
    hidden: Tensor | None = None
    always: bool = False

    @property
    def reads(self) -> str:
        """Name of the branch whose memory it reads."""
        return self.memory or self.name


def map_rows(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Apply `fn` to every tensor of a nested structure of dicts, lists, tuples and dataclasses; the rest is passed on."""
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return {k: map_rows(fn, v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [map_rows(fn, v) for v in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)  # a named tuple takes its fields
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return dataclasses.replace(
            tree, **{f.name: map_rows(fn, getattr(tree, f.name)) for f in dataclasses.fields(tree)}
        )
    return tree


def cat_rows(trees: Sequence[Any]) -> Any:
    """Nested structures of equal form as one: their tensors behind each other along the rows axis."""
    first = trees[0]
    if len(trees) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat(list(trees))
    if isinstance(first, dict):
        return {k: cat_rows([t[k] for t in trees]) for k in first}
    if isinstance(first, (list, tuple)):
        items = [cat_rows(parts) for parts in zip(*trees, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [f.name for f in dataclasses.fields(first)]
        return dataclasses.replace(first, **{n: cat_rows([getattr(t, n) for t in trees]) for n in names})
    return first


def expand(x: Tensor, branches: int) -> Tensor:
    """Entries (N, ...) -> rows (branches * N, ...): every branch gets the same input."""
    if branches == 1:
        return x
    return x.unsqueeze(0).expand(branches, *x.shape).reshape(branches * x.shape[0], *x.shape[1:])


def fold(rows: Tensor, branches: int) -> Tensor:
    """Rows (branches * N, ...) -> (branches, N, ...)."""
    return rows.reshape(branches, -1, *rows.shape[1:])


def rows_of(branches: list[int], entries: int, device: torch.device | str) -> Tensor:
    """Row numbers of some branches, (len(branches) * N,)."""
    return (torch.tensor(branches)[:, None] * entries + torch.arange(entries)).reshape(-1).to(device)
