"""Run folders as a trainer leaves them, written without training anything."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from nextset.training import metrics

Row = dict[str, Any]


def tokenizer_row(step: int) -> Row:
    """What a healthy tokenizer of two scales logs at a step."""
    fall = math.exp(-step / 500)
    return {
        "tokenizer/loss": 0.5 + fall,
        "tokenizer/psnr": 24 - 10 * fall,
        "tokenizer/revived": 2 * fall,
        "tokenizer/used_0": 0.5 + 0.5 * fall,
        "tokenizer/used_1": 1.0,
        "tokenizer/perplexity_0": 20.0,
        "tokenizer/perplexity_1": 200.0,
        "tokenizer/gradient_norm": 0.7 + fall,
        "lr": 1e-3,
        "images_per_second": 100.0 + step % 7,
        "elapsed": step / 10,
    }


def write_run(
    folder: Path, *, last: int = 2000, every: int = 50, row: Callable[[int], Row] = tokenizer_row, steps: int = 2000,
    saved: int = 0, quiet: float = 0.0, recipe: dict[str, Any] | None = None, samples: int = 0,
) -> Path:  # fmt: skip
    """A run that logged up to step `last` of `steps`, `quiet` seconds ago, with a checkpoint of step `saved`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"step": step, **row(step)} for step in range(every, last + 1, every)]
    (folder / metrics.FILE).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if saved:
        checkpoint = folder / f"step-{saved:08d}"
        checkpoint.mkdir()
        config = {"steps": steps, "batch": 8, "accumulate": 1, "warmup": 100, "clip": 1.0}
        about = recipe or {"name": "toy", "kind": "tokenizer", "system": None, "model": {"vocabulary": 512}}
        state = {"config": config, "notes": {"recipe": about}}
        (checkpoint / "state.json").write_text(json.dumps(state))
        (checkpoint / "manifest.json").write_text("{}")
    for i in range(samples):
        (folder / "samples").mkdir(exist_ok=True)
        picture = Image.effect_noise((64, 48), 90).convert("RGB")
        picture.save(folder / "samples" / f"step-{100 * (i + 1):06d}.png")
    then = (folder / metrics.FILE).stat().st_mtime - quiet
    os.utime(folder / metrics.FILE, (then, then))
    return folder
