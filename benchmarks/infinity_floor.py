"""What one guided image of Infinity must compute: counted from its shapes, and the same products timed alone.

A multiply-add is two FLOP. Counted are matrix products, attention and convolutions; norms, draws and resizing are not. A
product that is timed alone meets the model's own matrices, one block's after another, so that they come from memory and
not from a cache. It knows shapes and devices, and nothing of how a run is timed as a whole.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.infinity.blocks import InfinityBlock
from nextset.systems.infinity.schedules import Grid
from nextset.tokenizers.bitwise import BitwisePyramid

BLOCKS = 8  # whose matrices a product that is timed alone meets: more than any cache holds at the released width


class Work(NamedTuple):
    """FLOP of one forward. blocks: matrix products of the blocks, those of the attention to the text among them;
    attention, cross: scores and values of the attention to the scales and to the text; head, word: the classifier and the
    embedding of the input."""

    blocks: float
    attention: float
    cross: float
    head: float
    word: float


class Layer(NamedTuple):
    """A convolution: channels in and out, side of its kernel, (h, w) of what it makes."""

    inner: int
    outer: int
    kernel: int
    h: int
    w: int

    @property
    def flops(self) -> float:
        return 2.0 * self.inner * self.outer * self.kernel**2 * self.h * self.w


# ---- counted


def scale_work(c: InfinityConfig, sides: Sequence[Grid], text: int, rows: int = 2) -> list[Work]:
    """FLOP of each scale. text: tokens of the prompt; rows: images x branches of guidance."""
    each, seen = [], 0
    outs = 4 * c.width + 2 * c.width + 2 * c.hidden  # qkv and out; q and out of the text's attention; up and down
    for h, w in sides:
        n = h * w
        seen += n
        each.append(
            Work(
                blocks=2.0 * c.width * outs * n * c.depth * rows,
                attention=4.0 * c.width * n * seen * c.depth * rows,
                cross=4.0 * c.width * n * text * c.depth * rows,
                head=2.0 * c.width * 2 * c.bits * n * rows,
                word=2.0 * c.bits * c.width * n * rows,
            )
        )
    return each


def prepare_work(c: InfinityConfig, text: int, rows: int = 2) -> dict[str, float]:
    """FLOP of what depends on the text alone, once a request: its pool and projections, the keys and values of every
    block, and the modulation."""
    token = (
        2.0 * c.text_channels * 3 * c.width + 2.0 * c.width**2 + 4.0 * c.width
    )  # pool and first; second; pool's attention
    return {
        "text": (token * text + 2.0 * c.width**2) * rows,
        "keys": 4.0 * c.width**2 * text * c.depth * rows,
        "modulation": 2.0 * c.width * 8 * c.width * rows,
    }


def decoder_layers(tokenizer: BitwisePyramid, side: Grid) -> Counter[Layer]:
    """The convolutions that decode one image, and how often each occurs. tokenizer: on the meta device; side: (h, w) of
    the last scale."""
    found: Counter[Layer] = Counter()

    def note(layer: Any, _: Any, out: Tensor) -> None:
        found[Layer(layer.in_channels, layer.out_channels, layer.kernel_size[0], *out.shape[-2:])] += 1

    hooks = [layer.register_forward_hook(note) for layer in tokenizer.modules() if isinstance(layer, nn.Conv2d)]
    tokenizer.decode_features(
        torch.empty(1, tokenizer.quantiser.channels, *tokenizer.quantiser.cells(side), device="meta")
    )
    for hook in hooks:
        hook.remove()
    return found


# ---- timed


class Cost(NamedTuple):
    """Seconds: of wall time, and those that count: CPU-seconds of all threads on a CPU, wall time on a GPU."""

    wall: float
    counted: float


def timed(fn: Callable[[], object], device: torch.device) -> Cost:
    """What one call costs, to the end of what it asked of the device."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    fn()
    _wait(device)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Cost(wall, wall if device.type == "cuda" else cpu)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alone(fns: Sequence[Callable[[], object]], device: torch.device, calls: int = 3) -> float:
    """Seconds that count of one of `fns`, which do the same to different memory: they are called in turn, and of several
    such turns the quickest counts."""

    def each() -> None:
        for fn in fns:
            fn()

    each()
    return min(timed(each, device).counted for _ in range(calls)) / len(fns)


@torch.no_grad()
def scale_floor(model: Infinity, sides: Sequence[Grid], text: int, rows: int = 2) -> Iterator[dict[str, float]]:
    """Seconds of each scale if its products and attentions were all: {"blocks", "attention", "cross", "head", "word"}."""
    c, seen = model.config, 0
    device, dtype, blocks = model.word.weight.device, model.word.weight.dtype, model.layers[:BLOCKS]
    head = c.width // c.heads

    def product(m: int, weights: Sequence[Tensor]) -> float:
        x = torch.randn(m, weights[0].shape[1], device=device, dtype=weights[0].dtype)
        return alone([lambda w=w: F.linear(x, w) for w in weights], device)  # type: ignore[misc]

    def attend(n: int, t: int, mask: Tensor | None = None) -> float:
        q, k, v = (torch.randn(rows, c.heads, s, head, device=device, dtype=dtype) for s in (n, t, t))
        return alone([lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)], device)

    mask = torch.ones(rows, 1, 1, text, dtype=torch.bool, device=device)
    for h, w in sides:
        n = h * w
        seen += n
        layer = sum(product(n * rows, weights) for weights in zip(*map(matrices, blocks), strict=True))
        yield {
            "blocks": c.depth * layer,
            "attention": c.depth * attend(n, seen),
            "cross": c.depth * attend(n, text, mask),
            "head": product(n * rows, [model.classifier.weight]),
            "word": product(n * rows, [model.word.weight]),
        }


def matrices(block: InfinityBlock) -> tuple[Tensor, ...]:
    """What a block multiplies its input with at every scale."""
    layers = (block.attn.qkv, block.attn.proj, block.cross.q, block.cross.proj, block.ffn.up, block.ffn.down)
    return tuple(layer.weight for layer in layers)


@torch.no_grad()
def decoder_floor(layers: Counter[Layer], device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of the decoder if its convolutions were all, channels last as in a loaded tokenizer."""
    layout, total = torch.channels_last, 0.0
    for layer, count in layers.items():
        x = torch.randn(1, layer.inner, layer.h, layer.w, device=device, dtype=dtype).contiguous(memory_format=layout)
        shape = (layer.outer, layer.inner, layer.kernel, layer.kernel)
        w = torch.randn(*shape, device=device, dtype=dtype).contiguous(memory_format=layout)
        total += count * alone([lambda x=x, w=w: F.conv2d(x, w, padding=w.shape[-1] // 2)], device)  # type: ignore[misc]
    return total
