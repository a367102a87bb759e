"""The released files of M-VAR (`d12.pth` ... `d32.pth`): VAR's names, and those of the Mamba in each block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.systems.m_var.model import MambaVar
from nextset.systems.var import convert as base
from nextset.tokenizers.multiscale import MultiScaleVQ

TABLE = dataclasses.replace(base.GENERATOR, drop=(*base.GENERATOR.drop, r"blocks\.\d+\.attn\.patch_nums"))
OWN = (("mvar_wo_ddp.", "generator"), ("trainer.mvar_wo_ddp.", "generator"), *base.WRAPPERS)


def components(state: Mapping[str, Tensor], *, asked: bool = False) -> dict[str, dict[str, Tensor]]:
    """Which parts a file holds; a generator has a Mamba in its blocks."""
    found = base.components(state, wrappers=OWN)
    if "blocks.0.mamba.in_proj.weight" not in found.get("generator", {}):
        found.pop("generator", None)
    return found


def sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes of the Mamba (authors' names)."""
    try:
        inner = state["blocks.0.mamba.norm.weight"].numel()
        heads = state["blocks.0.mamba.A_log"].numel()
        rows = state["blocks.0.mamba.in_proj.weight"].shape[0]
    except KeyError as error:
        raise NextsetError(f"the generator's file lacks {error}; is it cut short?") from error
    return {"state": (rows - 2 * inner - heads) // 2, "head_width": inner // max(heads, 1)}


def load_generator(
    state: Mapping[str, Tensor], sides: Sequence[int] | None = None, tokenizer: MultiScaleVQ | None = None
) -> MambaVar:
    """A generator of its file."""
    return base.load_generator(state, sides, tokenizer, MambaVar, TABLE, **sizes(state))  # type: ignore[return-value]


def read(
    parts: Mapping[str, Mapping[str, Tensor]], *, sides: Sequence[int] | None = None, groups: int = 32
) -> MambaVar | MultiScaleVQ:
    """A generator (with its tokenizer, when both parts are given), or the tokenizer alone."""
    return base.read(parts, sides=sides, groups=groups, generator=load_generator)  # type: ignore[return-value]
