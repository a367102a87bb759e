"""What a figure was measured on: a figure without its machine, date and command says nothing."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

_FLAGS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def machine(command: str) -> dict[str, Any]:
    """The date, this machine, and the command that a person types to measure again; JSON-able."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
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
