"""The authors' files, read as they are: opened safely, unwrapped, recognised by their names, renamed by the system's table.

A system that can read released files has a module `convert` beside its model with two functions: `components(state,
asked=...)`, which says what parts a file holds (asked: the person named the system, so that files which look like
another's may be its own), and `read(parts, **options)`, which builds the models.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.files import read_safetensors
from nextset.core.unpickle import flatten, read_torch
from nextset.hub.catalogue import list_systems


def read_state(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict of a `.safetensors`, `.pth`, `.pt`, `.ckpt` or `.bin` file; nested wrappers become dotted names."""
    path = Path(path)
    if not path.is_file():
        raise NextsetError(f"{path} does not exist; check the path")
    return read_safetensors(path) if path.suffix == ".safetensors" else flatten(read_torch(path))


def convert(paths: Sequence[str | Path], *, system: str | None = None, **options: Any) -> nn.Module:
    """One model (a generator with its tokenizer, or a tokenizer) from the authors' files.

    system: slug, when the files alone do not decide. options: what no tensor tells (see the system's `read`).
    """
    states = [(Path(p), read_state(p)) for p in paths]
    readers = [r for r in list_systems(state="available") if "convert" in r.capabilities]
    records = [r for r in readers if system in (None, r.slug)]
    if not records:
        known = ", ".join(r.slug for r in readers)
        raise NextsetError(f"system is {system!r}, but files are read of {known}; see `nextset systems`")
    best: tuple[int, Any, list[dict[str, dict[str, Tensor]]]] = (-1, None, [])
    for record in sorted(
        records, key=lambda r: len(r.base)
    ):  # a part that several share is read by the one they stand on
        assert record.entry is not None
        module = importlib.import_module(record.entry.partition(":")[0] + ".convert")
        found = [module.components(state, asked=system is not None) for _, state in states]
        if (recognised := sum(map(bool, found))) > best[0]:
            best = (recognised, module, found)
    _, module, found = best
    for (path, state), parts in zip(states, found, strict=True):
        if not parts:
            first, what = next(iter(state), "nothing"), system or "any system that is available"
            raise NextsetError(
                f"{path} holds no part of {what} (its first weight is {first!r}); is it another model's file?"
            )
    return module.read({name: part for parts in found for name, part in parts.items()}, **options)
