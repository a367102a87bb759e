"""What Infinity's released sizes need, counted from their configs: the tables of `docs/memory.md`.

    python -m benchmarks.infinity_memory

Nothing is measured and nothing is downloaded; models are built on the meta device.
"""

from __future__ import annotations

import torch

from nextset.hub.catalogue import Size, get_record
from nextset.hub.memory import Needs, needs, on_meta
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.infinity.schedules import schedule
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid

PIXELS = {256: "0.06M", 512: "0.25M", 1024: "1M"}
DEVICES = (8, 12, 24, 80)
GB = 10**9
TEXT = 512  # tokens of the longest prompt


def t5_encoder(width: int, layers: int, inner: int, hidden: int, vocabulary: int, heads: int, buckets: int = 32) -> int:
    """Parameters of the encoder of a T5 v1.1: attention without biases, a gated feed-forward part, relative positions
    once."""
    layer = 4 * width * inner + 3 * width * hidden + 2 * width
    return layers * layer + vocabulary * width + buckets * heads + width


T5_XL = t5_encoder(2048, 24, 2048, 5120, 32128, 32)


def config(size: Size) -> InfinityConfig:
    """The released config of a size: 8B reads patches of 2x2 cells of 14 bits, the others cells of 32."""
    channels, patch = (14, 2) if size.name.startswith("8B") else (32, 1)
    return InfinityConfig(depth=size.depth, width=size.width, heads=size.heads, channels=channels, patch=patch)


def tokenizer(c: InfinityConfig) -> BitwisePyramid:
    """The released tokenizer of a generator: stride 16, or 8 where a token is a patch."""
    multipliers = (1, 2, 4, 4, 4) if c.patch == 1 else (1, 2, 4, 4)
    sizes = AutoencoderConfig(128, multipliers, 2, c.channels, groups=0, attention=False, middle_attention=False)
    return BitwisePyramid(BitwiseConfig(autoencoder=sizes, patch=c.patch))


def count(size: Size, dtype: torch.dtype = torch.bfloat16) -> dict[int, Needs]:
    """What one guided square image needs, by pixels a side."""
    c = config(size)
    models = on_meta(lambda: Infinity(c), dtype), on_meta(lambda: tokenizer(c), dtype)
    found = {}
    for side, pixels in PIXELS.items():
        cells = [h * w for h, w in schedule(1.0, pixels)]
        found[side] = needs(
            *models, depth=c.depth, width=c.width, positions=sum(cells), largest_step=cells[-1], size=(side, side),
            dtype=dtype, text_tokens=TEXT, branches=2,
        )  # fmt: skip
    return found


def fits(by_side: dict[int, Needs], gigabytes: int, encoder: int) -> str:
    """The most comfortable way to make the largest image on a device."""
    for side in sorted(by_side, reverse=True):
        ways = {
            "whole": by_side[side].on_device(encoder=encoder),
            "text encoder on the CPU": by_side[side].on_device(),
            "offload": by_side[side].on_device(offload=True),
        }
        for way, needed in ways.items():
            if needed <= gigabytes * GB:
                return f"{side}: {way}"
    return "no"


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows))


def tables() -> tuple[str, str]:
    """What each size needs, and what fits on which device."""
    encoder = 2 * T5_XL
    bytes_, devices = [], []
    once = {(s.depth, s.width): s for s in reversed(get_record("infinity").sizes)}  # one row, for however many pixels
    for size in sorted(once.values(), key=lambda s: s.params):
        by_side = count(size)
        one = by_side[1024]
        caches = [f"{by_side[side].cache / GB:.2f}" for side in PIXELS]
        bytes_.append([
            size.name, f"{size.params / 1e6:,.0f}M", f"{4 * size.params / GB:.2f}", f"{one.weights / GB:.2f}", *caches,
            f"{one.condition / GB:.2f}", f"{one.tokenizer / GB:.2f}", f"{one.working / GB:.1f}",
            f"{one.on_device(encoder=encoder) / GB:.1f}", f"{one.on_device() / GB:.1f}",
            f"{one.on_device(offload=True) / GB:.1f}",
        ])  # fmt: skip
        devices.append([size.name, *(fits(by_side, gigabytes, encoder) for gigabytes in DEVICES)])
    first = table(
        ["size", "parameters", "weights float32", "weights bfloat16", "cache 256", "cache 512", "cache 1024", "text keys",
         "tokenizer", "working (estimate)", "1024 px whole", "text encoder on the CPU", "offload"],
        bytes_,
    )  # fmt: skip
    return first, table(["size", *(f"{g} GB" for g in DEVICES)], devices)


if __name__ == "__main__":
    print(f"T5-XL encoder: {T5_XL:,} parameters, {2 * T5_XL / GB:.2f} GB in bfloat16\n")
    print("\n\n".join(tables()))
