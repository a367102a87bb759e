"""The machine that a figure was measured on, without which it says nothing, and what is known of its processor."""

from __future__ import annotations

import functools
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


@functools.cache
def cpuinfo() -> str:
    """What Linux says of the processor: its maker, its name, its flags; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def machine(command: str) -> dict[str, Any]:
    """The date, this machine, and the command that a person types to measure again; JSON-able."""
    info = cpuinfo()
    names = (line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name"))
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "date": date.today().isoformat(),
        "cpu": next(names, platform.processor()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in _FLAGS if flag in info],
        **gpu,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "command": command,
    }
