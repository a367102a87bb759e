"""VAR-d16 at 256 pixels, random weights, guidance on, decode included: nextset against `plain_var` and against the floor.

    nextset bench var-d16 -- --batch 1 4 --dtype float32 bfloat16 --runs 3

A is nextset, B the plain implementation; both draw with the same uniforms, and their ids are checked equal in float32.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.ab import ab, file_result, machine
from benchmarks.floors import floor, flops
from benchmarks.plain_var import PlainVar, random_state
from nextset.core.noise import Tape
from nextset.engine.run import Run, finish
from nextset.nn.autoencoder import channels_last
from nextset.nn.precision import cast
from nextset.systems.var.convert import load_generator, load_tokenizer, tokenizer_config

SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SETTINGS = {"cfg": 1.5, "top_k": 900, "top_p": 0.96}


def breakdown(system: Any, make: Any) -> dict[str, Any]:
    """Wall seconds of one run by part: trunk per scale, head and sampling, decoder."""
    trunk: list[float] = []
    plain = system.trunk

    def timed(*args: Any) -> Any:
        begun = time.perf_counter()
        out = plain(*args)
        trunk.append(time.perf_counter() - begun)
        return out

    system.trunk = timed
    job = make()
    job.network = system
    decoder = [0.0]
    end = job.finish

    def finished(canvas: Any) -> Any:
        begun = time.perf_counter()
        out = end(canvas)
        decoder[0] = time.perf_counter() - begun
        return out

    job.finish = finished
    begun = time.perf_counter()
    finish(Run.of(job, make.tape))
    total = time.perf_counter() - begun
    del system.trunk
    return {"trunk": trunk, "decoder": decoder[0], "head and sampling": total - sum(trunk) - decoder[0], "total": total}


class Maker:
    """Makes the job of one batch, with its uniforms."""

    def __init__(self, system: Any, labels: torch.Tensor, u: torch.Tensor) -> None:
        self.system, self.labels, self.tape = system, labels, Tape({"draw": u})

    def __call__(self) -> Any:
        return self.system.job(
            self.labels, guidance_scale=SETTINGS["cfg"], top_k=SETTINGS["top_k"], top_p=SETTINGS["top_p"]
        )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench var-d16", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "var-d16.json")
    options = parser.parse_args(arguments)
    console = Console()
    var, vae = random_state(options.depth)
    sizes = {
        "depth": options.depth,
        "width": 64 * options.depth,
        "heads": options.depth,
        "sides": SIDES,
        "vocabulary": 4096,
        "latent": 32,
        "channels": 160,
        "multipliers": (1, 1, 2, 2, 4),
        "blocks": 2,
    }
    counted = flops(options.depth, sizes["width"], SIDES, 4096, 2)
    console.print(
        f"VAR-d{options.depth}, 256 pixels: {', '.join(f'{n} {v / 1e9:.0f} GFLOP' for n, v in counted.items())} an image"
    )
    plain = PlainVar(var, vae, SIDES, options.depth)
    result: dict[str, Any] = {"machine": machine(), "settings": SETTINGS, "depth": options.depth, "rows": []}
    table = Table(
        "dtype", "batch", "nextset, CPU-s", "plain, CPU-s", "plain / nextset", "floor, CPU-s", "floor / nextset"
    )
    for name in options.dtype:
        dtype = getattr(torch, name)
        config = tokenizer_config(vae, SIDES)
        tokenizer = channels_last(load_tokenizer(vae, config, optional=("encoder\\..*", "quant_conv\\..*")))
        system = load_generator(var, SIDES)
        cast(tokenizer, dtype)
        cast(system, dtype)
        system.attach(tokenizer)
        for batch in options.batch:
            labels = torch.arange(batch) * 37 % 1000
            u = torch.rand(batch, 680, generator=torch.Generator().manual_seed(batch))
            make = Maker(system, labels, u)

            def ours(make: Maker = make) -> Run:
                run = Run.of(make(), make.tape)
                finish(run)
                return run

            def theirs(labels: torch.Tensor = labels, u: torch.Tensor = u, bf16: bool = name == "bfloat16") -> Any:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    return plain.generate(labels, u, SETTINGS["cfg"], SETTINGS["top_k"], SETTINGS["top_p"])

            same = None
            if name == "float32":
                same = float((ours().codes() == theirs()[0]).float().mean())
                console.print(f"float32, batch {batch}: {same:.2%} of ids equal")
            timing = ab(ours, theirs, options.runs)
            least = floor(batch, dtype, **sizes)
            parts = breakdown(system, make)
            share = least["total"] / timing["a"]["cpu"]  # type: ignore[operator]
            ratio = timing["ratio"]
            table.add_row(
                name,
                str(batch),
                f"{timing['a']['cpu']:.2f}",
                f"{timing['b']['cpu']:.2f}",
                f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]",
                f"{least['total']:.2f}",
                f"{share:.0%}",
            )
            console.print(
                f"{name}, batch {batch}: trunk {' '.join(f'{s * 1000:.0f}' for s in parts['trunk'])} ms by scale, "
                f"head and sampling {parts['head and sampling'] * 1000:.0f} ms, decoder {parts['decoder'] * 1000:.0f} ms"
            )
            result["rows"].append(
                {
                    "dtype": name,
                    "batch": batch,
                    "ids_equal": same,
                    **timing,
                    "floor": least,
                    "floor_share": share,
                    "breakdown": parts,
                }
            )
            file_result(options.out, result)
    console.print(table)
    console.print(f"filed in {options.out}; medians of {options.runs} runs in turn, CPU seconds of all threads")
