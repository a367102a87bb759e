"""Trained judges on disk: one file each, named by the hash of its content, with what the judge is written inside."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write, read_safetensors


def write_sealed(folder: str | Path, kind: str, model: nn.Module, about: dict[str, Any]) -> Path:
    """Write `<kind>-<hash>.safetensors` in a folder; equal judges give equal files."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    data = safetensors.torch.save(tensors, {kind: json.dumps(about)})
    path = Path(folder) / f"{kind}-{_hash(data)}.safetensors"
    with atomic_write(path) as handle:
        handle.write(data)
    return path


def read_sealed(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """(weights, what is written inside, hash of the content). A file whose content is not that of its name is refused.

    Raises ValueError, TypeError or KeyError where nothing of that kind is written inside.
    """
    tensors = read_safetensors(path)
    content = _hash(path.read_bytes())
    if path.name.startswith(f"{kind}-") and path.stem != f"{kind}-{content}":
        raise NextsetError(f"{path} was changed: its content has the hash {content}; copy or train it again")
    with safetensors.safe_open(path, "pt") as handle:
        return tensors, json.loads(handle.metadata()[kind]), content


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
