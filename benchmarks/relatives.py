"""Speed and memory of VAR's relatives (HMAR, MVAR, M-VAR) against our VAR and against a plain VAR with a dense mask.

    nextset bench relatives
    nextset bench relatives -- --depth 16 --width 1024 --sizes 680 --only mvar
    nextset bench relatives -- --device cuda --dtype bfloat16 --depth 16 --width 1024 --batch 4

The arms are in `relatives_arms.py`; 680 tokens are an image of 256 pixels, 2240 one of 512. Each round runs every arm once.
Ratios are another arm's cost over the relative's: above 1, the relative is cheaper. Peak memory is measured in a process for
each arm, as what the work adds to the model that is already there. The decoder is the same for all and left out.

Published ratios of HMAR and MVAR against VAR are kept beside ours (`PUBLISHED`); they were measured by their authors on GPUs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.ab import check_device, file_result, machine, seconds
from benchmarks.relatives_arms import SETTINGS, Arm, Shape, build
from nextset.core.errors import NextsetError
from nextset.systems.var.convert import RELEASED_SIDES

BASES = ("var", "plain")
ARMS = {"hmar": ("hmar", "hmar refined"), "mvar": ("mvar",), "m_var": ("m_var", "m_var recomputed")}
RATIOS = ("train", "train_memory", "generate", "generate_memory")
# VAR's cost over theirs as the papers state it; of MVAR's two it is not known here whether training or generation is meant
PUBLISHED = {
    "hmar": {"train": 2.5, "generate": 1.75, "generate_memory": 3.0},
    "mvar": {"time": 1.7, "memory": 3.0},
}
WARM = (1, 1, 2, 2, 2, 3, 3, 3, 8, 8)  # as many scales as the released plans, the local ones larger than the window
STATUS = Path("/proc/self/status")


def in_turn(calls: Mapping[str, Callable[[], object]], runs: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each call, `runs` times: A B C A B C. One round before is not counted."""

    def whole(call: Callable[[], object]) -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(runs + 1):
        for name, call in calls.items():
            took = seconds(lambda call=call: whole(call))  # type: ignore[misc]
            if turn:
                found[name].append(took)
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """theirs / ours round by round: the median, with a 95% bootstrap interval over rounds."""
    pairs = [b / a for a, b in zip(ours, theirs, strict=True)]
    draws = random.Random(0)
    medians = sorted(statistics.median(draws.choices(pairs, k=len(pairs))) for _ in range(1000))
    return {"median": statistics.median(pairs), "low": medians[25], "high": medians[974], "pairs": pairs}


def peak(call: Callable[[], object], device: str) -> int:
    """Bytes that a call adds at its highest to what was there before. On a CPU the anonymous memory of this process, read
    every millisecond; it counts what the allocator holds, so that a fresh process gives the truest number."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    done = threading.Event()
    seen = [anonymous()]

    def watch() -> None:
        while not done.wait(0.001):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(*seen, anonymous()) - seen[0]


def anonymous() -> int:
    """Bytes of this process that belong to no file."""
    if not STATUS.exists():
        raise NextsetError(
            f"peak memory on a CPU is read from {STATUS}, which this system lacks; run on Linux, or --device cuda"
        )
    return next(int(line.split()[1]) << 10 for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))


def memory(name: str, shape: Shape) -> dict[str, int]:
    """Peak bytes of one arm, in this process: of the first generation and of the first training step at this size. Tiny
    ones run before, because the first call of all loads what libraries load late."""
    found: dict[str, int] = {}
    for size in (shape._replace(sides=WARM, depth=1, width=64, vocabulary=64), shape):
        arm = build([name], size)[name]
        # the generation first: it needs less, and would fit into what the step's small pieces leave behind
        calls = {"generate": arm.generate, "train": arm.train}
        found = {key: peak(call, size.device) for key, call in calls.items() if call is not None}
    return found


def memory_apart(name: str, shape: Shape) -> dict[str, int]:
    """`memory` in a process of its own, whose allocator gives back at once what is free."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    command = [sys.executable, "-m", "benchmarks.relatives", name, json.dumps(shape._asdict())]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def measure(names: Sequence[str], shape: Shape, runs: int) -> dict[str, Any]:
    """Every figure of these arms (both bases among them) at one size."""
    arms = build(names, shape)
    clock = "cpu" if shape.device == "cpu" else "wall"
    checks, kept = check(arms)
    taken = {
        "train": in_turn({n: a.train for n, a in arms.items() if a.train is not None}, runs, shape.device),
        "generate": in_turn({n: a.generate for n, a in arms.items()}, runs, shape.device),
    }
    parameters = {name: arm.parameters for name, arm in arms.items()}
    del arms
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        found = memory_apart(name, shape)
        rows[name] = {
            "parameters": parameters[name],
            **{
                key: {c: statistics.median(t[i] for t in times[name]) for i, c in enumerate(("wall", "cpu"))}
                for key, times in taken.items()
                if name in times
            },
            **{f"{key}_memory": value for key, value in found.items()},
            "kept": kept[name],
        }
    index = ("wall", "cpu").index(clock)
    for name in (n for n in names if n not in BASES):
        rows[name]["against"] = {base: {} for base in BASES}
        for base in BASES:
            against = rows[name]["against"][base]
            for key, times in taken.items():
                if name in times:
                    against[key] = ratio(*([t[index] for t in times[n]] for n in (name, base)))
                    if rows[name][f"{key}_memory"]:
                        against[f"{key}_memory"] = rows[base][f"{key}_memory"] / rows[name][f"{key}_memory"]
    return {
        "tokens": shape.tokens,
        "shape": shape._asdict(),
        "ratios_of": clock,
        "checks": checks,
        "arms": rows,
    }


def check(arms: Mapping[str, Arm]) -> tuple[dict[str, Any], dict[str, int]]:
    """That arms which should agree do: losses and ids of both VARs, ids of M-VAR with and without its state; and the bytes
    that each arm keeps."""
    found = {name: arm.generate() for name, arm in arms.items()}
    codes = {name: ids for name, (ids, _) in found.items()}
    pairs = [p for p in (BASES, ARMS["m_var"]) if set(p) <= set(arms)]
    same = {" = ".join(p): float((codes[p[0]] == codes[p[1]]).float().mean()) for p in pairs}
    losses = {name: arms[name].train() for name in BASES}  # type: ignore[misc]
    return {"ids_equal": same, "losses": losses}, {name: kept for name, (_, kept) in found.items()}


def show(result: Mapping[str, Any], console: Console) -> None:
    """One size as a table."""
    table = Table(
        f"{result['tokens']} tokens", "step, s", "memory, MB", "generation, s", "memory, MB", "kept, MB",
        "VAR / it: step", "memory", "generation", "memory", "plain / it: step", "memory", "generation", "memory",
    )  # fmt: skip

    def time_of(value: Mapping[str, float] | None) -> str:
        return "-" if value is None else f"{value[result['ratios_of']]:.3g}"

    def size_of(value: int | None) -> str:
        return "-" if value is None else f"{value / 1e6:.4g}"

    def ratio_of(value: Any) -> str:
        if isinstance(value, Mapping):
            return f"{value['median']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
        return "-" if value is None else f"{value:.2f}"

    for name, row in result["arms"].items():
        values = [time_of(row.get("train")), size_of(row.get("train_memory")), time_of(row["generate"])]
        values += [size_of(row["generate_memory"]), size_of(row["kept"])]
        against = row.get("against", {base: {} for base in BASES})
        values += [ratio_of(against[base].get(key)) for base in BASES for key in RATIOS]
        table.add_row(name, *values)
    console.print(table)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench relatives", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lengths = [n for n, sides in RELEASED_SIDES.items() if len(sides) == 10]
    parser.add_argument("--sizes", type=int, nargs="+", choices=lengths, default=lengths, help="tokens of an image")
    parser.add_argument("--only", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--depth", type=int, default=4, help="the released d16 has 16")
    parser.add_argument("--width", type=int, default=512, help="a multiple of 64; the released d16 has 1024")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=2, help="of a training step")
    parser.add_argument("--images", type=int, default=1, help="of a generation")
    parser.add_argument("--runs", type=int, default=3, help="rounds behind the first, which is not counted")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "relatives.json")
    options = parser.parse_args(arguments)
    check_device(options.device)
    console = Console()
    names = [*BASES, *(arm for name in options.only for arm in ARMS[name])]
    shared = {
        key: getattr(options, key) for key in ("depth", "width", "vocabulary", "batch", "images", "device", "dtype")
    }
    result: dict[str, Any] = {
        "machine": machine(),
        "load_before": os.getloadavg()[0],
        "settings": SETTINGS,
        "published": PUBLISHED,
        "sizes": [],
    }
    for tokens in options.sizes:
        result["sizes"].append(measure(names, Shape(RELEASED_SIDES[tokens], **shared), options.runs))
        show(result["sizes"][-1], console)
        file_result(options.out, result)
    console.print(f"filed in {options.out}; medians of {options.runs} rounds")


if __name__ == "__main__":  # one arm's memory, for `memory_apart`
    values = json.loads(sys.argv[2])
    print(json.dumps(memory(sys.argv[1], Shape(**{**values, "sides": tuple(values["sides"])}))))
