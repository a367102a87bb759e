"""Token by token: our engine against a plain eager loop with growing keys and values, LlamaGen's shapes, random weights, guided.

    nextset bench tokens
    nextset bench tokens -- --shapes cifar --batch 1 16 --compile --runs 9
    nextset bench tokens -- --shapes b l --batch 1 --tokens 576 --device cuda --compile

A is nextset, B the plain loop; both draw with the same numbers, and their ids are compared. The first tokens of an image are timed
(all of them at the size of CIFAR-10), without the decoder. The floor is what memory needs to read every weight once a token.
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
from torch import Tensor

from benchmarks.ab import ab, check_device, file_result, machine, seconds
from benchmarks.plain_llama import PlainLlama
from nextset.core.errors import check_range
from nextset.core.noise import Noise
from nextset.engine.run import Run, proceed
from nextset.systems.llamagen import LlamaGen, LlamaGenConfig

SHAPES: dict[str, dict[str, Any]] = {
    "cifar": {"classes": 10, "depth": 6, "width": 192, "heads": 3, "vocabulary": 512, "sides": (8,)},
    "b": {"depth": 12, "width": 768, "heads": 12},
    "l": {"depth": 24, "width": 1024, "heads": 16},
}
TOKENS = {"cifar": 64, "b": 16, "l": 8}
SETTINGS = {"guidance_scale": 2.0}
TOP_K = {"cifar": 0, "b": 2000, "l": 2000}


def network(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LlamaGen:
    """A shape with random weights, a classifier that is not sure among them."""
    torch.manual_seed(0)
    model = LlamaGen(LlamaGenConfig(token_dropout=0.0, dropout=0.0, **SHAPES[name])).eval()
    torch.nn.init.normal_(model.classifier.weight, std=0.02)
    return model.to(device=device, dtype=dtype)


def ours(model: LlamaGen, labels: Tensor, tokens: int, top_k: int, compile: bool = False) -> Tensor:
    """ids (N, tokens) by the engine."""
    run = Run.of(model.job(labels, top_k=top_k, **SETTINGS), Noise(0, "generate"), compile=compile)
    with torch.no_grad():
        for _ in proceed(run, stop=tokens):
            pass
    return run.codes()[:, :tokens]


def bandwidth(device: str) -> float:
    """Bytes a second that a copy moves, read and written, the best of several."""
    source = torch.zeros(1 << 26, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()

    copy()
    clock = 0 if device == "cuda" else 1
    return 2 * source.nbytes / min(seconds(copy)[clock] for _ in range(7))


def read(model: LlamaGen) -> int:
    """Bytes of weights that a token reads: all but the rows of tables."""
    tables = {id(model.token.weight), *(id(p) for p in model.prefix.parameters())}
    return sum(p.nbytes for p in model.parameters() if id(p) not in tables)


def measure(
    name: str, batch: int, tokens: int, runs: int, *, compiled: bool, device: str, copy: float
) -> dict[str, Any]:
    """One shape at one batch: medians, ratios with intervals, tokens a second, the floor's share."""
    model = network(name, device)
    tokens = min(tokens, model.plan.positions)
    plain = PlainLlama(model.state_dict(), model.config.sides[0], model.config.heads)
    labels = torch.arange(batch, device=device) % model.config.classes
    places = torch.arange(tokens)
    u = Noise(0, "generate").of("draw").uniform(torch.arange(batch), places).to(device)
    top_k = TOP_K[name]

    def waited(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            found = call()
            if device == "cuda":
                torch.cuda.synchronize()
            return found

        return run

    theirs = waited(lambda: plain.generate(labels, u, SETTINGS["guidance_scale"], top_k))
    arms = {"eager": waited(lambda: ours(model, labels, tokens, top_k))}
    if compiled:
        arms["compiled"] = waited(lambda: ours(model, labels, tokens, top_k, compile=True))
    row: dict[str, Any] = {"shape": name, "batch": batch, "tokens": tokens, "weights": read(model), "arms": {}}
    floor = row["weights"] / copy
    expected = theirs()
    clock = "wall" if device == "cuda" else "cpu"
    for arm, call in arms.items():
        same = float((call() == expected).float().mean())
        timing = ab(call, theirs, runs)
        timing["tokens_a_second"] = {who: batch * tokens / timing[who][clock] for who in "ab"}
        timing["floor_share"] = {who: floor * tokens / timing[who][clock] for who in "ab"}
        row["arms"][arm] = {"ids_equal": same, **timing}
    return row


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench tokens", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=0, help="timed tokens of an image; 0: 64, 16 and 8 by shape")
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs in turn")
    parser.add_argument("--compile", action="store_true", help="also with compile=True")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tokens.json")
    options = parser.parse_args(arguments)
    check_range("runs", options.runs, 1, 1000)
    check_range("tokens", options.tokens, 0, 256)
    for batch in options.batch:
        check_range("batch", batch, 1, 1024)
    check_device(options.device)
    console = Console()
    copy = bandwidth(options.device)
    result: dict[str, Any] = {
        "machine": machine(), "load_before": os.getloadavg()[0], "settings": {**SETTINGS, "top_k": TOP_K},
        "ratios_of": "wall" if options.device == "cuda" else "cpu", "copy_bytes_a_second": copy, "rows": [],
    }  # fmt: skip
    table = Table(
        "shape", "batch", "arm", "ids equal", "tokens/s (plain)", "plain / nextset", "floor's share (plain's)"
    )
    for name in options.shapes:
        for batch in options.batch:
            row = measure(
                name, batch, options.tokens or TOKENS[name], options.runs,
                compiled=options.compile, device=options.device, copy=copy,
            )  # fmt: skip
            result["rows"].append(row)
            file_result(options.out, result)
            for arm, found in row["arms"].items():
                ratio, rate, share = found["ratio"], found["tokens_a_second"], found["floor_share"]
                table.add_row(
                    name, str(batch), arm, f"{found['ids_equal']:.1%}", f"{rate['a']:.1f} ({rate['b']:.1f})",
                    f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]", f"{share['a']:.0%} ({share['b']:.0%})",
                )  # fmt: skip
    console.print(table)
    console.print(
        f"filed in {options.out}; medians of {options.runs} pairs in turn, a copy moves {copy / 1e9:.1f} GB/s"
    )
