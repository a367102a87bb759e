"""A style from 16 pictures: a LoRA on the text-to-image model of emoji, trained in minutes, shown before and after.

    nextset bench lora-style -- --model emoji-infinity

The data are made here: emoji redrawn by arithmetic on their pixels, in violet (one hue), in ink (a dark outline, two
tones) or as a blueprint (white lines on blue), with their names as captions. What is filed: how long training took, how far pictures of 16 other
names are from the style's colours without the LoRA and with it, beside the 16 pictures themselves and what the tokenizer
makes of them, and how much merged and unmerged outputs differ. The sheet shows the same prompts and the same noise at
scale 0, 0.5 and 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from torch import Tensor

import nextset
from benchmarks.ab import file_result
from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write
from nextset.core.machine import machine
from nextset.data.dataset import open_dataset
from nextset.data.emoji import EmojiSet
from nextset.data.images import from_pil, save_png, to_pil
from nextset.hub import lora
from nextset.hub.workshop import train
from nextset.training.recipes import load_recipe

HERE = Path(__file__).parent
LEARNED = (
    "dog face", "cat face", "red apple", "hot beverage", "automobile", "airplane", "house", "evergreen tree",
    "umbrella", "guitar", "fish", "strawberry", "key", "butterfly", "sailboat", "hamburger",
)  # fmt: skip
ASKED = (
    "fox", "pizza", "snowman", "banana", "rabbit face", "light bulb", "teapot", "owl",
    "robot", "bell", "rocket", "snail", "castle", "mushroom", "violin", "penguin",
)  # fmt: skip
SCALES = (0.0, 0.5, 1.0)
AIM = 0.75  # of the way from the model's own colours to those of the 16 pictures through the tokenizer


def edges(rgba: Tensor) -> Tensor:
    """How much is going on at each pixel, (N, H, W) in [0, 1]: Sobel of luminance on white, and of the outline."""
    alpha, light = rgba[:, 3:], luminance(rgba)[:, None]
    across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 4
    kernels = torch.stack([across, across.T])[:, None]
    found = [F.conv2d(F.pad(x, (1, 1, 1, 1), "replicate"), kernels).norm(dim=1) for x in (light, alpha)]
    return torch.maximum(1.5 * found[0], found[1]).clamp(0, 1)


def luminance(rgba: Tensor) -> Tensor:
    """(N, 4, H, W) in [0, 1] -> (N, H, W), put on white."""
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (rgba[:, :3] * weights).sum(1) * rgba[:, 3] + 1 - rgba[:, 3]


def blueprint(rgba: Tensor) -> Tensor:
    """White lines on blue; insides a little lighter where the emoji is light."""
    line = torch.maximum(edges(rgba), 0.35 * luminance(rgba) * rgba[:, 3])
    return between(line, PALETTES["blueprint"])


def ink(rgba: Tensor) -> Tensor:
    """Two tones on white, with a dark outline."""
    dark, tone, paper = PALETTES["ink"]
    inside = between(luminance(rgba), (tone, paper))
    filled = inside * rgba[:, 3:] + torch.tensor(paper)[:, None, None] * (1 - rgba[:, 3:])
    line = edges(rgba)[:, None]
    return filled * (1 - line) + torch.tensor(dark)[:, None, None] * line


def violet(rgba: Tensor) -> Tensor:
    """One hue: as light as the emoji is, from deep violet to white."""
    return between(luminance(rgba), PALETTES["violet"])


def between(share: Tensor, colours: Sequence[tuple[float, float, float]]) -> Tensor:
    """Shares (N, H, W) of the way from the first colour to the second -> (N, 3, H, W)."""
    first, second = (torch.tensor(colour)[:, None, None] for colour in colours)
    return first + share[:, None] * (second - first)


PALETTES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "blueprint": ((0.11, 0.30, 0.62), (1.0, 1.0, 1.0)),
    "ink": ((0.10, 0.10, 0.25), (0.93, 0.45, 0.33), (1.0, 1.0, 1.0)),
    "violet": ((0.25, 0.05, 0.45), (1.0, 1.0, 1.0)),
}
STYLES: dict[str, Callable[[Tensor], Tensor]] = {"blueprint": blueprint, "ink": ink, "violet": violet}


def styled(emoji: EmojiSet, names: Sequence[str], style: str) -> Tensor:
    """Those emoji in a style: (N, 3, size, size) in [-1, 1]. The same bits each time."""
    missing = [name for name in names if name not in emoji.names]
    if missing:
        raise NextsetError(f"the emoji set has no {missing[0]!r}; install a newer unicode-data")
    rgba = torch.from_numpy(emoji.rgba[[emoji.names.index(name) for name in names]])
    return STYLES[style](rgba.permute(0, 3, 1, 2).float() / 255).clamp(0, 1) * 2 - 1


def write_pictures(folder: Path, emoji: EmojiSet, style: str) -> Tensor:
    """The folder that is trained on: 16 pictures, and a caption beside each."""
    images = styled(emoji, LEARNED, style)
    for name, image in zip(LEARNED, images, strict=True):
        stem = name.replace(" ", "-")
        save_png(image, folder / f"{stem}.png")
        with atomic_write(folder / f"{stem}.txt") as handle:
            handle.write(f"{name}\n".encode())
    return torch.stack([from_pil(to_pil(image)) for image in images])


def off_palette(images: Tensor, style: str) -> float:
    """How far pixels are from the style's colours: the mean over pixels of the distance in RGB (0 to 1.73) to the nearest
    line between two of its colours."""
    pixels = ((images + 1) / 2).permute(0, 2, 3, 1).reshape(-1, 3)
    colours = torch.tensor(PALETTES[style])
    nearest = torch.full((len(pixels),), float("inf"))
    for i in range(len(colours)):
        for j in range(i):
            way = colours[i] - colours[j]
            t = ((pixels - colours[j]) @ way / way.square().sum()).clamp(0, 1)
            nearest = torch.minimum(nearest, (pixels - colours[j] - t[:, None] * way).norm(dim=1))
    return float(nearest.mean())


def sheet(columns: dict[float, Tensor], prompts: Sequence[str]) -> Image.Image:
    """A line a prompt, a column a scale, in two halves side by side."""
    side, gap, label = next(iter(columns.values())).shape[-1], 4, 96
    half, lines = label + len(columns) * (side + gap) + 16, -(-len(prompts) // 2)
    out = Image.new("RGB", (2 * half, lines * (side + gap) + 24), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(12)
    for k, (scale, images) in enumerate(columns.items()):
        for i, prompt in enumerate(prompts):
            x, y = (i // lines) * half + label + k * (side + gap), 24 + (i % lines) * (side + gap)
            out.paste(to_pil(images[i]), (x, y))
            if k == 0:
                draw.text((x - label + 6, y + side // 2 - 7), prompt, fill="black", font=font)
            if i % lines == 0:
                draw.text((x, 6), f"scale {scale:g}", fill="black", font=font)
    return out


def measure(pipe: Any, images: Tensor, style: str, seed: int) -> tuple[dict[str, Any], dict[float, Tensor]]:
    """The record of a pipeline with its LoRA loaded at scale 1, and the pictures at each scale."""
    with torch.no_grad():
        again = pipe.tokenizer.decode(pipe.tokenizer.encode(images)).float().cpu()
    made = {}
    for scale in SCALES:
        with lora.scaled(pipe.system, scale):
            made[scale] = pipe(list(ASKED), seed=seed).tensors.float().cpu()
    lora.merge(pipe.system)
    merged = pipe(list(ASKED), seed=seed).tensors.float().cpu()
    lora.unmerge(pipe.system)
    off = {f"scale {scale:g}": off_palette(pictures, style) for scale, pictures in made.items()}
    floor = off_palette(again, style)
    room = off["scale 0"] - floor
    record = {
        "off_palette": {"the 16 pictures": off_palette(images, style), "through the tokenizer": floor, **off},
        "way": (off["scale 0"] - off["scale 1"]) / room if room > 0 else 0.0,
        "merged_differs_by": float((merged - made[1.0]).abs().max()),
        "pictures": len(ASKED),
    }
    return record, made


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench lora-style", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="emoji-infinity")
    parser.add_argument("--style", choices=tuple(STYLES), default="violet")
    parser.add_argument("--folder", type=Path, default=Path("runs/lora-style"), help="the pictures and the run go here")
    parser.add_argument("--lora", type=Path, help="one that is trained already; without it, one is trained")
    parser.add_argument("--change", action="append", default=[], help="of the recipe, such as steps=200; repeatable")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "lora-style.json")
    parser.add_argument("--picture", type=Path, default=HERE.parent / "docs" / "images" / "lora.png")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    pipe: Any = nextset.load(options.model)
    emoji = open_dataset("emoji", size=pipe.tokenizer.spec.size[0])
    assert isinstance(emoji, EmojiSet)
    source = options.folder / options.style
    images = write_pictures(source, emoji, options.style)
    record: dict[str, Any] = {"machine": machine(" ".join(["nextset bench lora-style --", *arguments]))}
    record |= {"model": options.model, "style": options.style}
    folder = options.lora
    if folder is None:
        changes = [f"data.source={source}", f"data.model={options.model}", *options.change]
        begun = time.perf_counter()
        result, folder = train(load_recipe("lora-infinity-emoji", changes), options.folder / f"run-{options.style}")
        record |= {"steps": result.step if result else 0, "minutes": (time.perf_counter() - begun) / 60}
    lora.load(pipe.system, folder, "style")
    found, made = measure(pipe, images, options.style, options.seed)
    record |= found
    record["outcome"] = "reached" if record["way"] >= AIM else "missed"
    for name, value in record["off_palette"].items():
        console.print(f"off the palette, {name}: {value:.3f}")
    console.print(f"{record['outcome']}: {record['way']:.0%} of the way to the style, aim {AIM:.0%}")
    console.print(f"merged and unmerged pictures differ by at most {record['merged_differs_by']:.2g}")
    file_result(options.out, record)
    console.print(f"filed in {options.out}, drawn in {save_png(sheet(made, ASKED), options.picture)}")


if __name__ == "__main__":
    main(sys.argv[1:])
