"""The authors' files, read as they are: opened safely, unwrapped, recognised by their names, renamed by the system's table.

A system that can read released files has a module `convert` beside its model with two functions: `components(state,
asked=...)`, which says what parts a file holds by names and shapes alone (asked: the person named the system, or other
files of the same request did, so that files which look like another's may be its own), and `read(parts, **options)`,
which builds the models. Shards of one model are one state; none is open longer than it is read.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError, nearest
from nextset.core.weights import Weights, groups, join
from nextset.hub.catalogue import list_systems
from nextset.tokenizers import bridge_diffusers

Parts = dict[str, Mapping[str, Tensor]]


def convert(
    paths: Sequence[str | Path], *, system: str | None = None, dtype: torch.dtype | None = None, **options: Any
) -> nn.Module:
    """One model (a generator with its tokenizer, or a tokenizer) from the authors' files.

    paths: files, shards, indexes of shards, or folders of them (`core.weights.groups`). system: slug, when the files
    alone do not decide. dtype: to load in, for systems that cast each weight as it arrives; None = float32. options: what
    no tensor tells (see the system's `read`). A folder that diffusers wrote of a KL autoencoder is read as well
    (`tokenizers.bridge_diffusers`).
    """
    if len(paths) == 1 and bridge_diffusers.is_folder(paths[0]):
        refuse_unknown(options, bridge_diffusers.from_diffusers, ("source",))
        return bridge_diffusers.from_diffusers(paths[0], **options)
    files = groups(paths)
    states = [Weights.of(group) for group in files]
    reader, asked, known = _recognise(states, system)
    parts: Parts = {}
    for group, state in zip(files, states, strict=True):
        found = reader.components(state, asked=asked) or (reader.components(state, asked=True) if known else {})
        if not found:
            first, what = next(iter(state), "nothing"), system or "any system that is available"
            raise NextsetError(
                f"{group[0]} holds no part of {what} (its first weight is {first!r}); is it another model's file?"
            )
        for name, part in found.items():  # shards go together; a part that is there again replaces the first
            again = any(n in parts.get(name, {}) for n in part)
            parts[name] = part if again or name not in parts else join(parts[name], part)
    refuse_unknown(options, reader.read, ("parts", "dtype", "generator"))
    if dtype is not None and "dtype" in inspect.signature(reader.read).parameters:
        options["dtype"] = dtype
    return reader.read(parts, **options)


def refuse_unknown(options: Mapping[str, Any], read: Callable[..., Any], own: Sequence[str]) -> None:
    """Refuse what a reader does not ask for. own: its arguments that nobody gives; they are not suggested."""
    settings = inspect.signature(read).parameters
    if any(p.kind is p.VAR_KEYWORD for p in settings.values()):
        return
    for name in options:
        if name not in settings:
            known = [each for each in settings if each not in own]
            raise NextsetError(f"these files have no setting {name!r}: {nearest(name, known)}")


def _recognise(states: Sequence[Weights], system: str | None) -> tuple[ModuleType, bool, bool]:
    """The module that knows most of the files, whether it was named, and whether it knows any. Names and shapes decide; no
    value is read."""
    readers = [r for r in list_systems(state="available") if "convert" in r.capabilities]
    records = [r for r in readers if system in (None, r.slug)]
    if not records:
        known = ", ".join(r.slug for r in readers)
        raise NextsetError(f"system is {system!r}, but files are read of {known}; see `nextset systems`")
    best: tuple[int, ModuleType | None] = (-1, None)
    # a part that several share is read by the one they stand on
    for record in sorted(records, key=lambda r: len(r.base)):
        assert record.entry is not None
        module = importlib.import_module(record.entry.partition(":")[0] + ".convert")
        recognised = sum(bool(module.components(state.outline, asked=system is not None)) for state in states)
        if recognised > best[0]:
            best = (recognised, module)
    assert best[1] is not None
    return best[1], system is not None, best[0] > 0
