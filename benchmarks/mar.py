"""MAR's sampling by part, body and head, against a plain eager loop: seconds for an image of 64 steps x 100 inner steps.

    nextset bench mar
    nextset bench mar -- --batch 1 4 --at 6 --inner 20 --runs 3
    nextset bench mar -- --device cuda --dtype bfloat16 --whole

The shape is that of MAR-B at 256 pixels with guidance and random weights; the decoder of pictures is not in it. A CPU needs
minutes for an image, so that only some steps of the real plan are timed (`--at`, spread over it), each with fewer inner
steps (`--inner`): a step's body counts as it is, its inner steps by their number. `--whole` times everything.

A is nextset: the head on packed rows of all images and both branches. B is `plain_mar.py`; both draw with the same noise,
and their tokens are checked equal in float32. Each round runs A and B in turn; ratios are B / A, round by round.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.ab import check_device, file_result, machine, seconds
from benchmarks.plain_mar import PlainMar, random_state, tables_of
from benchmarks.relatives import ratio
from nextset.core.errors import check_range
from nextset.core.masked import cosine_counts, random_orders
from nextset.core.noise import Noise
from nextset.core.steps import Step
from nextset.engine.run import Run, finish, following, look
from nextset.nn.diffusion import cosine
from nextset.systems.mar import Mar
from nextset.systems.mar.convert import load_generator

SCALE = 2.9  # of guidance, linear


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is timed. at: steps of the plan that are, spread over it; inner: inner steps of each, of `inner_steps`."""

    batch: int = 1
    steps: int = 64
    inner_steps: int = 100
    at: int = 4
    inner: int = 10
    device: str = "cpu"
    dtype: str = "float32"

    def places(self) -> list[int]:
        """Indices of the timed steps: the middles of `at` equal parts of the plan."""
        return sorted({int((k + 0.5) * self.steps / self.at) for k in range(self.at)})


class Sides:
    """A model in both implementations, and the state of a generation before each timed step."""

    def __init__(self, shape: Shape, **sizes: int) -> None:
        self.shape, device = shape, torch.device(shape.device)
        state = random_state(**sizes)
        heads = max(state["z_proj.weight"].shape[0] // 64, 1)
        self.model: Mar = load_generator({n: t.clone() for n, t in state.items()}, heads=heads).to(device)
        self.plain = PlainMar({n: t.to(device) for n, t in state.items()}, heads)
        self.labels = torch.arange(shape.batch) * 37 % self.model.config.classes
        self.images = torch.arange(shape.batch)
        tokens = self.model.config.tokens
        self.orders = random_orders(
            Noise(0).of("order"), self.images, torch.zeros(shape.batch, tokens, dtype=torch.bool)
        )
        self.left = cosine_counts(tokens, shape.steps)

    def cast(self) -> Any:
        """The precision of both: autocast over float32 weights; nextset's head stays float32."""
        dtype = self.shape.dtype
        return torch.autocast(self.shape.device, getattr(torch, dtype), enabled=dtype != "float32")

    def begun(self, inner: int) -> Run:
        job = self.model.job(self.labels, guidance_scale=SCALE, steps=self.shape.steps, inner_steps=str(inner))
        return Run.of(job, Noise(0), self.images)

    def tables(self, inner: int) -> dict[str, Tensor]:
        process = cosine(str(inner))
        return tables_of(process.betas, process.timesteps)

    def noise(self, i: int, at: tuple[Tensor, ...]) -> Tensor:
        """The noise of nextset, as the plain loop asks for it."""
        source = Noise(0).of("draw") if i < 0 else Noise(0).of("draw").of(f"step/{i}")
        every = source.normal(self.images, torch.arange(self.plain.tokens), lanes=self.plain.channels)
        return every.to(self.plain.device)[at]

    # ---- whole generations

    def ours(self) -> Tensor:
        """Tokens of all images, at all steps and inner steps of the shape."""
        run = self.begun(self.shape.inner_steps)
        run.job.finish = lambda canvas: canvas.codes()
        with self.cast():
            return finish(run)

    def theirs(self, noise: bool = False) -> Tensor:
        with self.cast():
            return self.plain.sample(
                self.labels.to(self.plain.device),
                self.orders.to(self.plain.device),
                self.left,
                SCALE,
                self.tables(self.shape.inner_steps),
                self.noise if noise else None,
            )

    # ---- one step, by part

    def parts(self, place: int) -> dict[str, Callable[[], object]]:
        """Body and head of a step of the plan in both implementations, as calls. What is known holds zeros."""
        run, inner = self.begun(self.shape.inner), self.shape.inner
        following(run)  # the drawn order takes the place of the plan
        step: Step = run.job.plan.steps[place]
        with torch.no_grad(), self.cast():
            law = look(run, step)
        plain, device = self.plain, self.plain.device
        after, halves = self.left[place], 2
        before = self.left[place - 1] if place else plain.tokens
        mask, hidden = (
            torch.zeros(len(self.images), plain.tokens, device=device).scatter(1, self.orders[:, :n].to(device), 1.0)
            for n in (before, after)
        )
        now = (mask - hidden).bool()
        classed, free = plain.state["class_emb.weight"][self.labels], plain.state["fake_latent"]
        condition = torch.cat([classed, free.expand_as(classed)])
        tokens = torch.zeros(halves * len(mask), plain.tokens, plain.channels, device=device)
        tables, rows = self.tables(inner), now.nonzero(as_tuple=True)

        purposes = [f"step/{i}" for i in range(self.shape.inner_steps)]  # of the last one nobody asks

        def randn(i: int, at: tuple[Tensor, ...]) -> Tensor:
            return torch.randn(len(at[0]), plain.channels, device=device)

        with torch.no_grad(), self.cast():
            z = plain.body(tokens, mask.repeat(halves, 1), condition).float()[now.repeat(halves, 1)]
        return {
            "ours body": lambda: look(run, step),
            "plain body": lambda: plain.body(tokens, mask.repeat(halves, 1), condition),
            "ours head": lambda: law.draw(run.noise.of("draw"), run.images, step.draw),
            "plain head": lambda: plain.draw(z, SCALE, tables, randn, rows),
            "noise": lambda: run.noise.of("draw").normals(purposes, run.images, step.draw, lanes=plain.channels),
        }


def timed(call: Callable[[], object], sides: Sides) -> float:
    """Seconds of a call: of the CPU on a CPU, which other work does not change; else of the wall, to the end of what the
    device does."""

    def whole() -> None:
        with torch.no_grad(), sides.cast():
            call()
        if sides.shape.device == "cuda":
            torch.cuda.synchronize()

    return seconds(whole)[1 if sides.shape.device == "cpu" else 0]


def measure(sides: Sides, runs: int) -> dict[str, Any]:
    """Seconds of one batch by part, as the sums of its timed steps stand for the plan; medians over rounds, and ratios."""
    shape = sides.shape
    each, share = shape.steps / len(shape.places()), shape.inner_steps / shape.inner
    names = ("ours body", "plain body", "ours head", "plain head", "noise")
    rounds: list[dict[str, float]] = [dict.fromkeys(names, 0.0) for _ in range(runs)]
    for place in shape.places():
        calls = sides.parts(place)
        for turn in range(runs + 1):  # the first is not counted
            for name, call in calls.items():
                took = timed(call, sides) * each * (share if name.endswith("head") else 1)
                if turn:
                    rounds[turn - 1][name] += took
    median = {name: statistics.median(r[name] for r in rounds) for name in names}
    total = {side: [r[f"{side} body"] + r[f"{side} head"] for r in rounds] for side in ("ours", "plain")}
    per_image = {side: statistics.median(values) / shape.batch for side, values in total.items()}
    return {
        **dataclasses.asdict(shape),
        "places": shape.places(),
        "clock": "CPU seconds of all threads" if shape.device == "cpu" else "wall",
        "scaled_by": {"body": each, "head": each * share},
        "seconds_an_image": per_image,
        "head_share": {s: median[f"{s} head"] / (median[f"{s} body"] + median[f"{s} head"]) for s in ("ours", "plain")},
        "noise_share": median["noise"] / (median["ours body"] + median["ours head"]),
        "batch_seconds": median,
        "ratio": ratio(total["ours"], total["plain"]),
        "ratio_head": ratio([r["ours head"] for r in rounds], [r["plain head"] for r in rounds]),
    }


def measure_whole(sides: Sides, runs: int) -> dict[str, Any]:
    """Seconds of whole generations in turn."""
    found: dict[str, list[float]] = {"ours": [], "plain": []}
    for turn in range(runs + 1):
        for name, call in (("ours", sides.ours), ("plain", sides.theirs)):
            took = timed(call, sides)
            if turn:
                found[name].append(took)
    per_image = {name: statistics.median(values) / sides.shape.batch for name, values in found.items()}
    return {
        **dataclasses.asdict(sides.shape),
        "seconds_an_image": per_image,
        "ratio": ratio(found["ours"], found["plain"]),
    }


def agreement(sides: Sides) -> float:
    """Largest difference of the tokens of two short generations with the same noise, in float32, over their deviation."""
    short = Sides.__new__(Sides)
    shape = dataclasses.replace(sides.shape, steps=2, inner_steps=5, dtype="float32")
    short.__dict__ = {**sides.__dict__, "shape": shape}
    short.left = cosine_counts(sides.model.config.tokens, 2)
    ours = short.ours()
    return float((ours - short.theirs(noise=True)).abs().max() / ours.std())


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench mar", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--inner-steps", type=int, default=100)
    parser.add_argument("--at", type=int, default=4, help="steps of the plan that are timed")
    parser.add_argument("--inner", type=int, default=10, help="inner steps of each")
    parser.add_argument("--whole", action="store_true", help="time whole generations instead")
    parser.add_argument("--runs", type=int, default=3, help="rounds behind the first, which is not counted")
    parser.add_argument("--depth", type=int, default=12, help="of each stack")
    parser.add_argument("--width", type=int, default=768, help="a multiple of 64")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mar.json")
    options = parser.parse_args(arguments)
    check_device(options.device)
    check_range("at", options.at, 1, options.steps, remedy="it counts steps of the plan")
    check_range("inner", options.inner, 2, options.inner_steps, remedy="it counts inner steps")
    check_range("runs", options.runs, 1, 1000)
    console = Console(highlight=False)
    result: dict[str, Any] = {"machine": machine(), "load_before": os.getloadavg()[0], "guidance": SCALE, "rows": []}
    table = Table("batch", "s an image", "plain", "plain / nextset", "head / whole", "plain", "noise / whole")
    for batch in options.batch:
        names = ("steps", "inner_steps", "at", "inner", "device", "dtype")
        shape = Shape(batch, **{name: getattr(options, name) for name in names})
        sides = Sides(shape, width=options.width, depth=options.depth)
        row = (measure_whole if options.whole else measure)(sides, options.runs)
        row["largest_difference"] = agreement(sides)
        result["rows"].append(row)
        file_result(options.out, result)
        times, against = row["seconds_an_image"], row["ratio"]
        shares = row.get("head_share", {})
        table.add_row(
            str(batch),
            f"{times['ours']:.3g}",
            f"{times['plain']:.3g}",
            f"{against['median']:.2f} [{against['low']:.2f}, {against['high']:.2f}]",
            *(f"{shares[s]:.0%}" if shares else "-" for s in ("ours", "plain")),
            f"{row['noise_share']:.1%}" if "noise_share" in row else "-",
        )
        console.print(
            f"batch {batch}: tokens of both differ by {row['largest_difference']:.1e} deviations at most, in float32"
        )
    console.print(table)
    if not options.whole:
        console.print(
            f"{len(shape.places())} of {options.steps} steps were timed with {options.inner} of {options.inner_steps} "
            "inner steps, and stand for all"
        )
    clock = "CPU seconds of all threads" if options.device == "cpu" else "seconds"
    console.print(f"filed in {options.out}; medians of {options.runs} rounds, in {clock}")
