"""Training that is killed again and again against training that nobody disturbed: the same weights, bit by bit?

    nextset bench crash-test -- --kills 20
    nextset bench crash-test -- --kills 6 --steps 60 --processes 2 3 --parallel fsdp --checkpoint sharded

Trains a tiny tokenizer, and a tiny generator on its codes, with `nextset train` and the recipes for one's own folder.
Each run is killed with SIGKILL at random moments of its training (of several processes, a random one is) and resumed,
with the next of the given numbers of processes. After each kill the newest checkpoint must be whole. With one number of
processes it must be equal to that of the undisturbed run at its step, and in the end so must all weights, optimiser
states and logged numbers; with several numbers losses are compared. A log of indices shows in both cases that every
sample was seen once in every epoch, by steps that count.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.ab import file_result, machine
from nextset.training import checkpoints, metrics
from nextset.training.batches import Batches

SAMPLES, BATCH = 60, 12
LOG = "CRASH_TEST_LOG"
NEXTSET = [sys.executable, "-c", "from benchmarks.crash_test import logged; logged()"]
TINY = [
    "data.size=32", f"batch={BATCH}", "warmup=10", "log_every=4", "sample_every=25", "save_every=5", "dtype=float32"
]  # fmt: skip
STAGES = {
    "tokenizer": [
        "var-folder-tokenizer", "model.vocabulary=64", "model.sides=[1,2,4]", "model.autoencoder.channels=16",
        "model.autoencoder.groups=4", "model.autoencoder.latent=8", "model.objective.revive_every=20",
    ],
    "generator": ["var-folder", "model.depth=2", "model.width=32", "model.heads=2", "model.corruption=0.2"],
}  # fmt: skip
TIMES = ("elapsed", "images_per_second")


def logged() -> None:
    """The command `nextset`, as it is, in a process that writes down the samples that it takes for each step."""
    from nextset.cli import main as nextset

    path, indices = Path(f"{os.environ[LOG]}-{os.environ.get('RANK', 0)}"), Batches.indices

    def told(self: Batches, step: int) -> torch.Tensor:
        rows = indices(self, step)
        with path.open("a") as handle:
            handle.write(f"{step} {' '.join(map(str, rows.tolist()))}\n")
        return rows

    Batches.indices = told  # type: ignore[method-assign]
    nextset()


class Stage:
    """One recipe and the folders of its two runs."""

    def __init__(self, name: str, work: Path, options: argparse.Namespace) -> None:
        self.name, self.work, self.options = name, work, options
        self.changes = [*STAGES[name], *TINY, f"data.source={work / 'pictures.npz'}", f"steps={options.steps}"]
        self.changes += [f"parallel={options.parallel}", f"checkpoint={options.checkpoint}"]
        if name == "generator":
            self.changes.append(f"data.tokenizer={work / 'tokenizer' / 'whole' / 'model'}")
        self.whole, self.run = work / name / "whole", work / name / "run"
        self.exact = len(set(options.processes)) == 1
        self.starts: list[int] = []  # the step at which each process of the disturbed run began

    def start(self, folder: Path, keep: int, n: int, log: Path) -> tuple[subprocess.Popen[bytes], Path]:
        """Begin or go on with n processes; returns the process and the file that it speaks into."""
        resume = ["--resume"] if checkpoints.latest(folder) else []
        command = [*NEXTSET, "train", *self.changes, f"keep={keep}", "-o", str(folder), *resume]
        if n > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), "--no-python"]
            command = [sys.executable, *launcher, *command]
        said, root = self.work / "said.txt", Path(__file__).parents[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", LOG: str(log), "PYTHONPATH": str(root)}
        with said.open("wb") as output:
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment), said

    def undisturbed(self) -> float:
        """Train to the end in one go; returns the seconds of training."""
        process, said = self.start(self.whole, 0, self.options.processes[0], self.work / f"{self.name}-whole")
        if process.wait():
            raise SystemExit(said.read_text())
        return float(metrics.read(self.whole)[-1]["elapsed"])

    def disturbed(self, seconds: float, draws: random.Random) -> list[dict[str, Any]]:
        """Train to the end with kills in between; returns what each kill left."""
        kills: list[dict[str, Any]] = []
        while True:
            n = self.options.processes[len(self.starts) % len(self.options.processes)]
            log = self.work / f"{self.name}-{len(self.starts)}"
            self.starts.append(self.newest())
            process, said = self.start(self.run, 2, n, log)
            moment = draws.uniform(0, 1.5 * self.options.steps / max(self.options.kills, 1))
            kill = len(kills) < self.options.kills
            if kill:
                while (b"data: " not in said.read_bytes() or len(taken(log)) < moment - 1) and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(2 * (moment % 1) * seconds / self.options.steps)
                with contextlib.suppress(ProcessLookupError, IndexError):  # it is at its end already
                    os.kill(draws.choice(workers(process.pid, n)), signal.SIGKILL)
            code = process.wait()
            if code == 0:
                return kills
            if not kill:
                raise SystemExit(said.read_text())
            half = [path.name for path in self.run.glob(".*.part")] if self.run.exists() else []
            left = {"after_steps": round(moment, 2), "processes": n, "step": self.newest(), "half_written": half}
            kills.append(left)

    def newest(self) -> int:
        """The step of the newest checkpoint, which must be that of the undisturbed run; 0 if there is none yet."""
        if not checkpoints.latest(self.run):
            return 0
        found = checkpoints.load(self.run)
        if self.exact:
            same(found, checkpoints.load(self.whole / found.path.name))
        return found.step

    def compare(self) -> dict[str, Any]:
        """Both ends: how many tensors were equal; or, with other numbers of processes, how far losses were apart."""
        a, b = (
            [{k: v for k, v in r.items() if k not in TIMES} for r in metrics.read(f)] for f in (self.run, self.whole)
        )
        if not self.exact:
            name = f"{self.name}/loss"
            return {"losses_apart": max(abs(x[name] / y[name] - 1) for x, y in zip(a, b, strict=True))}
        if a != b:
            raise SystemExit("the logged numbers differ")
        weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (self.run, self.whole)]
        if weights[0] != weights[1]:
            raise SystemExit("the published weights differ")
        return {"tensors_equal": same(checkpoints.load(self.run), checkpoints.load(self.whole))}

    def epochs(self) -> int:
        """The epochs in which the steps that count saw each sample once, which are all; other steps were seen by a
        process whose work was lost, and were done again."""
        plan, seen = Batches(SAMPLES, BATCH, 0, share=(0, 1)), []
        for step in range(self.options.steps):
            start = max(i for i, first in enumerate(self.starts) if first <= step)
            rows = self.rows(start, step)
            if rows != plan.indices(step).tolist():
                raise SystemExit(f"step {step} was to see {plan.indices(step).tolist()}, but saw {rows}")
            seen += rows
        epochs = [seen[i : i + SAMPLES] for i in range(0, len(seen) - SAMPLES + 1, SAMPLES)]
        if any(Counter(epoch) != Counter(range(SAMPLES)) for epoch in epochs):
            raise SystemExit("a sample was lost or seen twice")
        return len(epochs)

    def rows(self, start: int, step: int) -> list[int]:
        """What all processes of a start took for a step, in their order."""
        logs = [taken(self.work / f"{self.name}-{start}", rank) for rank in range(max(self.options.processes))]
        return [sample for log in logs for i, *samples in log if i == step for sample in samples]


def taken(log: Path, rank: int = 0) -> list[list[int]]:
    """What a process has taken so far: step, sample, sample, ... of each batch."""
    path = Path(f"{log}-{rank}")
    return [[int(word) for word in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


def workers(process: int, n: int) -> list[int]:
    """The ids of the training processes: of one alone its own, else the launcher's children."""
    if n == 1:
        return [process]
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def same(found: checkpoints.Checkpoint, expected: checkpoints.Checkpoint) -> int:
    """How many tensors two checkpoints share; ends the test where one differs."""
    a, b = ({(p, n): t for p, g in c.tensors.items() for n, t in g.items()} for c in (found, expected))
    wrong = [
        name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])
    ]
    if wrong:
        raise SystemExit(f"{found.path} differs from the undisturbed run in {wrong[:5]}")
    return len(a)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser("nextset bench crash-test")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="of the first start, the second, ...")
    parser.add_argument("--parallel", choices=("auto", "ddp", "fsdp"), default="auto")
    parser.add_argument("--checkpoint", choices=("whole", "sharded"), default="whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: crash-test.json, or crash-test-several.json")
    options = parser.parse_args(arguments)
    console, draws = Console(), random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="crash-test-"))
    pictures = np.random.default_rng(0).integers(0, 256, (SAMPLES, 32, 32, 3), dtype=np.uint8)
    labels, classes = np.arange(SAMPLES) % 4, np.array(list("abcd"))
    np.savez(work / "pictures.npz", images=pictures, labels=labels, classes=classes)
    chosen = {name: getattr(options, name) for name in ("processes", "parallel", "checkpoint", "steps")}
    result: dict[str, Any] = {"machine": machine(), **chosen}
    try:
        for name in STAGES:
            stage, begun = Stage(name, work, options), time.monotonic()
            seconds = stage.undisturbed()
            kills = stage.disturbed(seconds, draws)
            found = {"training_seconds": seconds, **stage.compare(), "epochs_seen_once": stage.epochs(), "kills": kills}
            half = sum(bool(kill["half_written"]) for kill in kills)
            apart = found.get("losses_apart")
            end = (
                f"losses at most {apart:.1e} apart" if apart is not None else f"{found['tensors_equal']} tensors equal"
            )
            console.print(
                f"{name}: {len(kills)} kills in {options.steps} steps, {half} in the middle of writing; {end}; each sample "
                f"once in each of {found['epochs_seen_once']} epochs ({time.monotonic() - begun:.0f} s)"
            )
            result[name] = found
    finally:
        shutil.rmtree(work, ignore_errors=True)
    name = "crash-test" if options.processes == [1] else "crash-test-several"
    out = options.out or Path(__file__).parent / "results" / f"{name}.json"
    file_result(out, result)
    console.print(f"filed in {out}")
