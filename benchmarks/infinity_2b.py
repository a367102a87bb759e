"""Infinity-2B, random weights, one guided image of a prompt of 20 tokens: seconds and FLOP by scale, and the floor.

    nextset bench infinity-2b -- --pixels 0.06M               # a CPU
    nextset bench infinity-2b -- --pixels 1M --device cuda

Seconds that count are CPU-seconds of all threads on a CPU and wall time on a GPU. The floor is every matrix product,
attention and convolution timed alone at its shape in the same run; a share is the floor over what was needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.ab import check_device, file_result, machine
from benchmarks.infinity_floor import (
    Cost,
    Work,
    decoder_floor,
    decoder_layers,
    prepare_work,
    scale_floor,
    scale_work,
    timed,
)
from benchmarks.infinity_memory import GB, config, tokenizer
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.protocols import Job
from nextset.engine.run import Run, finish, proceed
from nextset.hub.catalogue import get_record
from nextset.hub.memory import cache_bytes, needs, on_meta
from nextset.nn.autoencoder import channels_last
from nextset.nn.precision import DTYPES
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.infinity.schedules import PIXELS, schedule
from nextset.text.condition import Text

TEXT, BRANCHES = 20, 2


def released(depth: int) -> InfinityConfig:
    """The config of the released 2B, with so many blocks."""
    size = next(s for s in get_record("infinity").sizes if s.name == "2B")
    return dataclasses.replace(config(size), depth=depth)


def free_memory(device: torch.device) -> int | None:
    """Bytes that may still be allocated; None where the machine does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def build(c: InfinityConfig, pixels: str, device: torch.device, dtype: torch.dtype) -> Infinity:
    """The generator with its tokenizer, in the target dtype at once, weights normal with deviation 0.02; refused where it
    does not fit."""
    model, vae = (on_meta(make, dtype) for make in (lambda: Infinity(c), lambda: tokenizer(c)))
    grids = schedule(1.0, pixels)
    cells, side = [h * w for h, w in grids], 16 * grids[-1][0]
    needed = needs(
        model, vae, depth=c.depth, width=c.width, positions=sum(cells), largest_step=cells[-1], size=(side, side),
        dtype=dtype, text_tokens=TEXT, branches=BRANCHES,
    ).on_device()  # fmt: skip
    free = free_memory(device)
    if free is not None and free < needed:
        raise NextsetError(
            f"this needs {needed / GB:.1f} GB of {device.type} memory, but {free / GB:.1f} GB are free; give fewer --pixels or a "
            f"--depth below {c.depth}"
        )
    generator = filled(model, device)
    generator.attach(channels_last(filled(vae, device)))  # type: ignore[arg-type]
    return generator.eval()  # type: ignore[return-value]


@torch.no_grad()
def filled(module: nn.Module, device: torch.device) -> Any:
    """A module of the meta device with memory and random weights, none of which was ever in another dtype."""
    module.to_empty(device=device)
    for parameter in module.parameters():
        parameter.normal_(std=0.02)
    for buffer in module.buffers():
        buffer.zero_()
    return module.requires_grad_(False)


def measured(make: Callable[[], Job], device: torch.device) -> dict[str, Any]:
    """Cost of one image by part: {"prepare": ..., "scales": [(whole, trunk alone), ...], "decode": ..., "bytes": of the
    cache}. The rest of a scale is the canvas, the head, guidance, filters and draws."""
    job, trunks = make(), []
    network: Any = job.network
    plain = network.trunk

    def trunk(*args: Any) -> Any:
        out = []
        trunks.append(timed(lambda: out.append(plain(*args)), device))
        return out[0]

    runs: list[Run] = []
    prepare = timed(lambda: runs.append(Run.of(job, Noise(0))), device)
    events = proceed(runs[0])
    network.trunk = trunk
    try:
        scales = [timed(lambda: next(events), device) for _ in job.plan.steps]
    finally:
        del network.trunk
    decode = timed(lambda: job.finish(job.canvas), device)
    return {
        "prepare": prepare,
        "scales": list(zip(scales, trunks, strict=True)),
        "decode": decode,
        "bytes": runs[0].policy.bytes(),
    }


def median(costs: list[Cost]) -> Cost:
    """Of each kind of seconds."""
    return Cost(*(statistics.median(kind) for kind in zip(*costs, strict=True)))


@torch.no_grad()
def bench(model: Infinity, pixels: str, runs: int) -> dict[str, Any]:
    """Everything that is filed: counted FLOP, seconds and floor, by scale and in all."""
    c, device, dtype = model.config, model.start.device, model.word.weight.dtype
    sides = schedule(1.0, pixels)
    text = Text.of([torch.randn(TEXT, c.text_channels, device=device)])

    def make() -> Job:
        return model.job(text, guidance_scale=3.0, pixels=pixels)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    wholes, parts = [], []
    for _ in range(runs + 1):  # the first warms up
        wholes.append(timed(lambda: finish(Run.of(make(), Noise(0))), device))
    for _ in range(runs):
        parts.append(measured(make, device))
    cuda = device.type == "cuda"
    peak = (
        torch.cuda.max_memory_allocated(device) if cuda else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    counted = cache_bytes(c.depth, sum(h * w for h, w in sides), c.width, dtype, BRANCHES)
    if parts[0]["bytes"] != counted:
        raise AssertionError(f"the cache has {parts[0]['bytes']} bytes and not the {counted} of {dtype}")
    floors, work = list(scale_floor(model, sides, TEXT, BRANCHES)), scale_work(c, sides, TEXT, BRANCHES)
    layers = decoder_layers(on_meta(lambda: tokenizer(c), dtype), sides[-1])  # type: ignore[arg-type]
    decoder = {
        "flop": sum(layer.flops * count for layer, count in layers.items()),
        "floor": decoder_floor(layers, device, dtype),
        **median([part["decode"] for part in parts])._asdict(),
    }
    prepare = {
        "flop": prepare_work(c, TEXT, BRANCHES),
        **median([part["prepare"] for part in parts])._asdict(),
    }
    scales = []
    for k, (side, flop, floor) in enumerate(zip(sides, work, floors, strict=True)):
        whole, trunk = (median([part["scales"][k][i] for part in parts]) for i in (0, 1))
        scales.append(
            {
                "side": side,
                "tokens": side[0] * side[1],
                "flop": flop._asdict(),
                **whole._asdict(),
                "trunk": trunk.counted,
                "rate": sum(flop) / whole.counted,
                "rate_alone": flop.blocks / floor["blocks"],
                "floor": floor,
                "share": sum(floor.values()) / whole.counted,
            }
        )
    image = median(wholes[1:])
    least = sum(sum(floor.values()) for floor in floors) + decoder["floor"]
    total = sum(sum(flop) for flop in work) + sum(prepare["flop"].values()) + decoder["flop"]
    return {
        "pixels": pixels,
        "depth": c.depth,
        "width": c.width,
        "dtype": str(dtype).removeprefix("torch."),
        "text_tokens": TEXT,
        "rows": BRANCHES,
        "image": {**image._asdict(), "flop": total, "floor": least, "share": least / image.counted},
        "first": wholes[0]._asdict(),
        "at_best_rate": total / max(scale["rate_alone"] for scale in scales),
        "prepare": prepare,
        "decode": decoder,
        "scales": scales,
        "cache": {"bytes": counted, "dtype": str(dtype).removeprefix("torch.")},
        "peak_memory": peak,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """The result as two tables: what is counted, what was measured."""
    counted = Table("scale", "tokens", *Work._fields, title="GFLOP")
    seconds = Table("scale", "wall, s", "counted, s", "trunk, s", "floor, s", "share", "GFLOP/s", "alone")
    for scale in result["scales"]:
        name, flop = "x".join(map(str, scale["side"])), scale["flop"]
        counted.add_row(name, str(scale["tokens"]), *(f"{flop[part] / 1e9:.4g}" for part in Work._fields))
        least = sum(scale["floor"].values())
        times = (f"{s:.3f}" for s in (scale["wall"], scale["counted"], scale["trunk"], least))
        rates = (f"{scale[rate] / 1e9:.0f}" for rate in ("rate", "rate_alone"))
        seconds.add_row(name, *times, f"{scale['share']:.0%}", *rates)
    console.print(counted, seconds)
    image, prepare, decode = result["image"], result["prepare"], result["decode"]
    console.print(
        f"prepare {prepare['counted']:.3f} s for {sum(prepare['flop'].values()) / 1e9:.1f} GFLOP; decoder "
        f"{decode['counted']:.3f} s for {decode['flop'] / 1e9:.0f} GFLOP, floor {decode['floor']:.3f} s"
    )
    console.print(
        f"image {image['wall']:.2f} s of wall time, {image['counted']:.2f} s counted (the first {result['first']['counted']:.2f}), "
        f"{image['flop'] / 1e12:.2f} TFLOP; floor {image['floor']:.2f} s, {image['share']:.0%}; at the best rate of a product "
        f"{result['at_best_rate']:.2f} s"
    )
    console.print(
        f"keys and values {result['cache']['bytes'] / GB:.3f} GB of {result['cache']['dtype']}, peak memory "
        f"{result['peak_memory'] / GB:.1f} GB"
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench infinity-2b", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pixels", choices=list(PIXELS), default="0.06M")
    parser.add_argument("--depth", type=int, default=32, help="blocks; the released model has 32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=2, help="images behind the first, and again by part")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    check_device(options.device)
    torch.set_num_threads(options.threads)
    console = Console()
    load = os.getloadavg()[0]  # before this benchmark adds to it
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = build(released(options.depth), options.pixels, device, DTYPES[options.dtype])
    result = bench(model, options.pixels, options.runs)
    name = f"infinity-2b-{options.pixels}-{options.device}" + ("" if options.depth == 32 else f"-depth-{options.depth}")
    out = options.out or Path(__file__).parent / "results" / f"{name}.json"
    file_result(out, {"machine": machine(), "load_before": load, "other_work": load > 0.5, **result})
    show(result, console)
    console.print(f"filed in {out}; load of the machine before: {load:.1f}")
