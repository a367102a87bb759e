"""What keeps the coarse scales of a tokenizer alive: the same short training with one thing changed at a time.

    nextset bench collapse -- --source path/to/train.npz --minutes 3

Coarse scales offer few vectors an image (the first has one), so that plain training leaves most codes to the fine ones.
Arms: codes are replaced when hardly used, equally from all scales (the default); never; only at the first step, which
starts the codebook at data; by cosine instead of distance. Measured on pictures: share of codes in use by each scale
(of at most as many as there are tokens), their perplexity, and PSNR.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.ab import file_result, machine
from nextset.data.dataset import open_dataset
from nextset.hub import pretrained
from nextset.hub.workshop import train
from nextset.judges.codebook import codebook_by_scale
from nextset.nn.losses import psnr
from nextset.training.recipes import load_recipe

ARMS = {
    "revived (default)": [],
    "never revived": ["model.objective.revive_below=0"],
    "only at the start": ["model.objective.revive_until=0"],
    "cosine": ['model.distance="cosine"'],
}


def health(model: Any, images: torch.Tensor) -> dict[str, Any]:
    """{"used": codes in use by scale, "perplexity": by scale, "psnr": dB} over images (N, 3, H, W)."""
    codes = torch.cat([model.encode(part) for part in images.split(250)])
    again = torch.cat([model.decode(part) for part in codes.split(250)])
    scales = codebook_by_scale(codes.numpy(), [h * w for h, w in model.sides], model.config.vocabulary)
    used, perplexity = [int((use.counts > 0).sum()) for use in scales], [use.perplexity for use in scales]
    return {"used": used, "perplexity": perplexity, "psnr": float(psnr(again, images).mean())}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench collapse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="var-cifar10-tokenizer")
    parser.add_argument("--source", required=True)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--runs", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "collapse.json")
    options = parser.parse_args(arguments)
    console = Console()
    base = [f"data.source={options.source}", f"time_budget={options.minutes}", "schedule_by=time", "sample_every=0"]
    result: dict[str, Any] = {"machine": machine(), "pictures": options.pictures, "arms": {}}
    table = Table("arm", "steps", "PSNR, dB", "codes in use by scale", "perplexity by scale")
    for name, changes in ARMS.items():
        recipe = load_recipe(options.recipe, [*base, *changes])
        folder = options.runs / name.split(" (")[0].replace(" ", "-")
        ended, model = train(recipe, folder, resume=folder.exists())
        data = open_dataset(options.source, size=recipe.data["size"])
        images = data.images(torch.linspace(0, len(data) - 1, options.pictures).long())
        found = health(pretrained.load(model).model, images)
        result["arms"][name] = {"changes": changes, "steps": ended.step, **found}
        table.add_row(
            name,
            str(ended.step),
            f"{found['psnr']:.2f}",
            " ".join(map(str, found["used"])),
            " ".join(f"{p:.0f}" for p in found["perplexity"]),
        )
        file_result(options.out, result)
    console.print(table)
    console.print(f"filed in {options.out}")
