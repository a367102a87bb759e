"""The released files of MVAR (`mvar-d16.pth`, ...), whose names and shapes are VAR's: the wrapper tells them apart, or the
person who names the system (sheet `mvar`, Checkpoint layout)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from torch import Tensor

from nextset.systems.mvar.model import MVar
from nextset.systems.var import convert as base
from nextset.tokenizers.multiscale import MultiScaleVQ

OWN = (("mvar_wo_ddp.", "generator"), ("trainer.mvar_wo_ddp.", "generator"), ("trainer.vae_local.", "tokenizer"))


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> dict[str, dict[str, Tensor]]:
    """Which parts a file holds; a bare generator only when it was `asked` for."""
    wrappers = [*OWN, *(base.WRAPPERS if asked else [("", "tokenizer")])]
    if any(".mamba." in name for name in state):  # another system, whose trainer used the same wrapper
        return {}
    return base.components(state, wrappers=wrappers)


def read(
    parts: Mapping[str, Mapping[str, Tensor]], *, sides: Sequence[int] | None = None, groups: int = 32
) -> MVar | MultiScaleVQ:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone."""
    generator = functools.partial(base.load_generator, cls=MVar)
    return base.read(parts, sides=sides, groups=groups, generator=generator)  # type: ignore[return-value]
