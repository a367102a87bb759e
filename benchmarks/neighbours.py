"""Whole diagonals against one token after the other: NAR and LlamaGen on our engine, random weights, guided, without a decoder.

    nextset bench neighbours
    nextset bench neighbours -- --shapes b --batch 1 4 --runs 3
    nextset bench neighbours -- --device cuda --batch 1 16 64

Of images LlamaGen has as many blocks as NAR with that of its second head; of clips it goes token by token through the same
ids, with learned positions and as many blocks. A is NAR, B LlamaGen, in turn; every picture is made to its last token.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.ab import ab, check_device, file_result, machine
from nextset.core.errors import check_range
from nextset.core.noise import Noise
from nextset.engine.run import Run, proceed
from nextset.systems.llamagen import LlamaGen, LlamaGenConfig
from nextset.systems.nar import Nar, NarConfig

CLIP: dict[str, Any] = {"positions": "learned", "classes": 101, "vocabulary": 8192, "width": 384, "heads": 6}
IMAGE: dict[str, Any] = {"width": 768, "heads": 12, "sides": (16,)}
SMALL: dict[str, Any] = {"classes": 10, "width": 192, "heads": 3, "vocabulary": 512, "sides": (8,)}
# (NAR's sizes, LlamaGen's of as many blocks)
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cifar": ({**SMALL, "depth": 5}, {**SMALL, "depth": 6}),
    "b": ({**IMAGE, "depth": 12}, {**IMAGE, "depth": 13}),
    "clip-s": ({**CLIP, "depth": 12, "grid": (4, 16, 16)}, {**CLIP, "depth": 14, "sides": (32,)}),
}
SETTINGS = {"guidance_scale": 2.0, "top_k": 0}


def networks(name: str, device: str) -> tuple[LlamaGen, LlamaGen]:
    """(NAR, LlamaGen) of a shape with random weights."""
    ours, raster = SHAPES[name]
    torch.manual_seed(0)
    pair = Nar(NarConfig(**ours)), LlamaGen(LlamaGenConfig(**raster))
    return tuple(model.eval().to(device) for model in pair)  # type: ignore[return-value]


def made(model: LlamaGen, batch: int, device: str) -> Callable[[], int]:
    """A generation of all ids; it gives the number of forwards."""
    labels = torch.arange(batch, device=device) % model.config.classes

    @torch.no_grad()
    def call() -> int:
        run = Run.of(model.job(labels, **SETTINGS), Noise(0, "generate"))
        for _ in proceed(run):
            pass
        if device == "cuda":
            torch.cuda.synchronize()
        return run.forwards

    return call


def measure(name: str, batch: int, runs: int, device: str) -> dict[str, Any]:
    """One shape at one batch: forwards, medians of seconds, and how many times more pictures a second NAR makes."""
    pair = networks(name, device)
    calls = [made(model, batch, device) for model in pair]
    forwards = [call() for call in calls]  # the pair that is not counted: what is made once in a process
    timing = ab(*calls, runs, warmup=0)
    sizes = [sum(p.numel() for p in model.parameters()) for model in pair]
    clock = "wall" if device == "cuda" else "cpu"
    each = {who: timing[who][clock] / batch for who in "ab"}
    return {"shape": name, "batch": batch, "forwards": forwards, "parameters": sizes,
            "seconds_a_sample": each, "ids": pair[0].plan.positions, **timing}  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench neighbours", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--runs", type=int, default=3, help="pairs of runs in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "neighbours.json")
    asked = parser.parse_args(arguments)
    check_range("runs", asked.runs, 1, 1000)
    for batch in asked.batch:
        check_range("batch", batch, 1, 1024)
    check_device(asked.device)
    torch.set_num_threads(asked.threads)
    result: dict[str, Any] = {"machine": machine(), "load_before": os.getloadavg()[0], "settings": SETTINGS, "rows": []}
    table = Table("shape", "batch", "forwards", "s a sample", "LlamaGen's", "times as many", "95 %")
    for name in asked.shapes:
        for batch in asked.batch:
            row = measure(name, batch, asked.runs, asked.device)
            result["rows"].append(row)
            file_result(asked.out, result)
            a, b, times = *row["seconds_a_sample"].values(), row["ratio"]
            told = f"{row['forwards'][0]} : {row['forwards'][1]}"
            inside = f"{times['low']:.2f} to {times['high']:.2f}"
            table.add_row(name, str(batch), told, f"{a:.3f}", f"{b:.3f}", f"{times['median']:.2f}", inside)
    Console().print(table)
