"""Parity cases: found by themselves, read, and compared output by output.

A case is a folder `<slug>/<case>` with `config.json` and `data.safetensors`. Handlers are chosen by slug and kind; no
code here or in a handler may look at a case's name.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(os.environ.get("NEXTSET_PARITY", Path(__file__).resolve().parents[2].parent / "shared" / "parity"))


@dataclasses.dataclass(frozen=True)
class Case:
    """One case; weights are float32 under the authors' names (without the prefix `weights.`)."""

    folder: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @property
    def args(self) -> dict[str, Any]:
        return self.config["args"]

    @property
    def call(self) -> dict[str, Any]:
        return self.config["call"]

    def component(self, name: str) -> dict[str, Tensor]:
        """Weights of one component of a case that has several, or all of them."""
        prefix = f"{name}."
        return {k[len(prefix) :]: v for k, v in self.weights.items() if k.startswith(prefix)} or self.weights


def folders() -> list[Path]:
    """Every case folder under the root, in order."""
    return sorted(p.parent for p in ROOT.glob("*/*/config.json")) if ROOT.is_dir() else []


def read(folder: Path) -> Case:
    """A case in memory."""
    tensors = load_file(folder / "data.safetensors")

    def part(name: str) -> dict[str, Tensor]:
        return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}

    weights = {k: v.float() if v.is_floating_point() else v for k, v in part("weights").items()}
    return Case(folder, json.loads((folder / "config.json").read_text()), weights, part("inputs"), part("outputs"))


def compare(case: Case, found: dict[str, Tensor]) -> None:
    """Hold every output of the case against what was found, with the case's tolerance."""
    tolerance = case.config["tolerance"]
    for name, expected in case.outputs.items():
        assert name in found, f"{name} was not computed"
        actual = found[name].detach()
        assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
        limit = tolerance[name] if isinstance(tolerance, dict) and name in tolerance else tolerance
        if limit == "exact":
            assert torch.equal(actual.to(expected.dtype), expected), (
                f"{name}: {int((actual != expected).sum())} of {expected.numel()} differ"
            )
        else:
            torch.testing.assert_close(
                actual.to(expected.dtype),
                expected,
                atol=limit["atol"],
                rtol=limit["rtol"],
                msg=lambda m, n=name: f"{n}: {m}",
            )
