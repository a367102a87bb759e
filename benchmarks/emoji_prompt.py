"""Seconds from a prompt to its 64x64 picture, once the model is loaded: the size of the recipe `infinity-emoji`.

    nextset bench emoji-prompt -- --threads 1 2
    nextset bench emoji-prompt -- --model runs/infinity-emoji/model

Without --model the weights are random: speed does not depend on their values. The first prompt in a process
also makes what is kept for all others (plan, rotary tables), so it is timed apart from those that follow.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import nextset
from benchmarks.ab import file_result, machine, seconds
from nextset.hub import pretrained
from nextset.hub.requests import sizes_of
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid
from nextset.training.recipes import load_recipe

PROMPT, AIM = "a red apple", 3.0


def untrained(folder: Path) -> Path:
    """A model folder of the recipe's sizes, random weights, the words of the prompt."""
    sizes = load_recipe("infinity-emoji-tokenizer").model
    sizes = {k: v for k, v in sizes.items() if k not in ("type", "objective")}
    tokenizer = BitwisePyramid(BitwiseConfig.from_dict(sizes))
    recipe = load_recipe("infinity-emoji")
    words = {**recipe.model["words"], "words": PROMPT.split()}
    model = {**sizes_of(Infinity, tokenizer), **recipe.model, "words": words}
    model |= {"text_channels": words["width"], "text_length": words["length"]}
    settings = {k: v for k, v in recipe.sample.items() if k != "store"}
    return pretrained.save(folder, Infinity(InfinityConfig.from_dict(model), tokenizer), defaults=settings)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench emoji-prompt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a model folder or name; by default random weights of the recipe's sizes")
    parser.add_argument("--threads", type=int, nargs="+", default=[torch.get_num_threads()])
    parser.add_argument("--runs", type=int, default=5, help="prompts behind the first")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "emoji-prompt.json")
    options = parser.parse_args(arguments)
    console, load = Console(), os.getloadavg()[0]
    result: dict[str, Any] = {"machine": machine(), "load_before": load, "other_work": load > 0.5, "prompt": PROMPT}
    result |= {"aim": AIM, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        name = options.model or str(untrained(Path(folder) / "model"))
        for threads in options.threads:
            torch.set_num_threads(threads)
            pipe = nextset.load(name)
            first, *more = (seconds(lambda pipe=pipe: pipe(PROMPT)) for _ in range(options.runs + 1))  # type: ignore[misc]
            wall, cpu = (statistics.median(kind) for kind in zip(*more, strict=True))
            row = {"threads": threads, "first": {"wall": first[0], "cpu": first[1]}, "next": {"wall": wall, "cpu": cpu}}
            result["rows"].append({**row, "reached": max(first[0], wall) < AIM})
            console.print(
                f"{threads} threads: the first prompt {first[0]:.2f} s of wall time and {first[1]:.2f} CPU-s, the next "
                f"{wall:.2f} and {cpu:.2f}"
            )
    file_result(options.out, {**result, "parameters": sum(p.numel() for p in pipe.system.parameters())})
    console.print(f"filed in {options.out}; load of the machine before: {load:.1f}")
