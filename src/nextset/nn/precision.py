"""In which dtype a module computes: float32 everywhere, or bfloat16 weights with the few parts that must stay exact."""

from __future__ import annotations

import platform

import torch
from torch import nn

from nextset.core.errors import NextsetError, nearest
from nextset.core.machine import cpuinfo

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware: a GPU that says so, or a CPU with AMX or AVX512-BF16.

    Without it bfloat16 is slower than float32, so that "auto" must know.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    if platform.machine() in ("arm64", "aarch64"):
        return False
    return "amx_bf16" in cpuinfo() or "avx512_bf16" in cpuinfo()


def resolve_dtype(name: str) -> torch.dtype:
    """ "float32", "bfloat16", or "auto": bfloat16 where the machine is fast at it."""
    if name == "auto":
        return torch.bfloat16 if fast_bfloat16() else torch.float32
    if name not in DTYPES:
        raise NextsetError(f"dtype is {name!r}, but must be one of auto, {', '.join(DTYPES)}; {nearest(name, DTYPES)}")
    return DTYPES[name]


def cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast weights once. Modules with `keeps_float32 = True` (classifiers, quantisers) and all below them stay float32."""
    for child in module.children():
        if getattr(child, "keeps_float32", False):
            child.float()
        else:
            cast(child, dtype)
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))
    return module
