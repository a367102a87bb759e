"""Inner steps of a head that grow fewer over a generation: what they save, and how far the pictures move.

    nextset bench head-steps
    nextset bench head-steps -- --model runs/mar-cifar10/model --curve ddim50-50 ddim50-25 ddim50-5 ddim5-50 --n 16
    nextset bench head-steps -- --model runs/mar-cifar10/model --judged 1000 --reference cifar10-jpeg/train.npz

Without `--model`, a MAR of the CIFAR-10 recipe's shape with random weights is timed, of which the pictures say nothing. Each
curve draws the same pictures from the same noise, in turn in every round. `moved` is the root mean square of what differs
from the first curve's latents, over their own. Whether that is better or worse for a trained model, `--judged` says: the
distance `rfd_z` of so many pictures of each curve, the same noise for all, to as many real ones.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.ab import file_result, machine, seconds
from nextset.core.errors import NextsetError, check_range
from nextset.core.noise import Noise
from nextset.core.protocols import Job
from nextset.engine.run import Run, proceed
from nextset.hub import pretrained
from nextset.hub.lab import pictures_of
from nextset.hub.requests import settings_known
from nextset.judges.comparison import LEAST, MOST, Options, compare
from nextset.judges.sets import ArraySet, PictureSet
from nextset.judges.sources import open_set
from nextset.systems.mar import Mar, MarConfig

CURVES = ("50-50", "50-25", "50-10", "50-5", "5-50")


def untrained() -> Mar:
    """Of the CIFAR-10 recipe's shape."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"sides": (8,), "channels": 8, "width": 192, "depth": 3, "heads": 3, "buffer": 16}
    return Mar(MarConfig(classes=10, head_depth=3, head_width=256, **sizes)).eval()


def model_of(name: str | None) -> Any:
    """A generator whose head has inner steps."""
    model = untrained() if name is None else pretrained.load(name).model
    if "head_steps" not in settings_known(model.job):
        raise NextsetError(
            f"{name or 'the model'} has no head with inner steps; give a model whose job takes head_steps"
        )
    return model


@torch.no_grad()
def drawn(job: Job) -> Tensor:
    """The codes of a generation, which nobody decodes."""
    run = Run.of(job, Noise(0))
    for _ in proceed(run):
        pass
    return run.codes()


def distance(model: Any, curve: str, n: int, real: PictureSet, **settings: Any) -> float:
    """`rfd_z` of n pictures, classes in turn, against as many real ones."""
    made, _ = pictures_of(model, torch.arange(n) % model.config.classes, head_steps=curve, **settings)
    return compare(ArraySet(made, name=curve), real, ("rfd_z",), Options(n=n), basis=real).figures[0].value


def measure(model: Any, curves: Sequence[str], n: int, runs: int, **settings: Any) -> list[dict[str, Any]]:
    """A row a curve: seconds for a picture (median of the runs), inner steps in all, and how far its latents moved."""
    labels = torch.arange(n) % model.config.classes
    jobs = {curve: lambda curve=curve: model.job(labels, head_steps=curve, **settings) for curve in curves}
    codes = {curve: drawn(make()) for curve, make in jobs.items()}
    times: dict[str, list[float]] = {curve: [] for curve in curves}
    for _ in range(runs):
        for curve, make in jobs.items():
            times[curve].append(seconds(lambda make=make: drawn(make()))[1] / n)  # type: ignore[misc]
    first, rows = codes[curves[0]], []
    for curve, make in jobs.items():
        job = make()
        annealed = job.controllers[-1]
        counts = [annealed.count(k, len(job.plan)) for k in range(len(job.plan))]
        moved = float((codes[curve] - first).square().mean().sqrt() / first.square().mean().sqrt())
        spent = statistics.median(times[curve])
        rows.append({"curve": curve, "inner_steps": sum(counts), "cpu_seconds": spent, "moved": moved})
    return rows


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="nextset bench head-steps", description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="model folder, packaged name or hub name")
    parser.add_argument(
        "--curve", nargs="+", default=list(CURVES), help="inner steps first-last; the first is the measure"
    )
    parser.add_argument("--n", type=int, default=4, help="pictures")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--guidance", type=float, help="guidance scale; the model's own by default")
    parser.add_argument("--judged", type=int, default=0, help="pictures of each curve that are judged; 0: none")
    parser.add_argument("--reference", type=Path, help="real pictures to judge by: train.npz")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/head-steps.json"))
    asked = parser.parse_args(list(arguments))
    check_range("n", asked.n, 1, 4096)
    check_range("runs", asked.runs, 1, 1000)
    if asked.judged:
        check_range("judged", asked.judged, LEAST, MOST, remedy="a distance of fewer says nothing")
        if asked.reference is None:
            raise NextsetError("--judged needs real pictures; give --reference path/to/train.npz")
    real = open_set(asked.reference) if asked.judged else None
    torch.set_num_threads(asked.threads)
    model = model_of(asked.model)
    settings = {} if asked.guidance is None else {"guidance_scale": asked.guidance}
    rows = measure(model, asked.curve, asked.n, asked.runs, **settings)
    if real is not None:
        for row in rows:
            row["rfd_z"] = distance(model, row["curve"], asked.judged, real, **settings)
    columns = ("inner steps", "in all", "CPU s a picture", "of the first", "moved", f"rfd_z of {asked.judged:,}")
    table = Table(*columns[: 6 if real else 5], box=None, pad_edge=False)
    for row in rows:
        share = row["cpu_seconds"] / rows[0]["cpu_seconds"]
        figures = (f"{row['cpu_seconds']:.3f}", f"{share:.2f}", f"{row['moved']:.3f}")
        table.add_row(row["curve"], str(row["inner_steps"]), *figures, *([f"{row['rfd_z']:.2f}"] if real else []))
    Console().print(table)
    what = "random weights" if asked.model is None else Path(asked.model).name
    about = {"model": what, "pictures": asked.n, "runs": asked.runs, "judged": asked.judged, **settings}
    file_result(asked.out, {**about, "rows": rows, "machine": machine()})
