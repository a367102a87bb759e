"""How much memory a generator needs, counted from its sizes: models are built on the meta device, nothing is allocated.

Weights, keys and values are exact counts. What a forward and the decoder work in is an estimate, and says so. Bytes
throughout; a GB is 10^9 of them. Nothing here is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from nextset.nn.offload import blocks_of
from nextset.nn.precision import cast

RESERVE = 800_000_000  # of a CUDA device, for its context, kernels and libraries: an estimate
# of a forward, a channel of a fed token: the float32 stream and its norm (8), the cast norm (2), the widened layer of
# the feed-forward part before and after GELU (8 + 8), its output and the gated sum (2 + 4), and room for the rest
_FORWARD = 40
_DECODER = 4  # maps of the largest size at once: the shortcut, the norm, its activation, the convolution's output


@dataclasses.dataclass(frozen=True)
class Needs:
    """Bytes for one request.

    weights: of the generator; blocks: of these, the matrices that offloading keeps away; block: those of the largest
    block. tokenizer: of its decoder and encoder. cache: keys and values of all positions. condition: keys and values of
    the text. working: what a forward or the decoder needs besides, an estimate.
    """

    weights: int
    blocks: int
    block: int
    tokenizer: int
    cache: int
    condition: int
    working: int

    def on_device(self, *, offload: bool = False, encoder: int = 0) -> int:
        """Bytes of the device. encoder: weights of a text encoder that lies there too."""
        generator = self.weights - self.blocks + 2 * self.block if offload else self.weights
        return generator + encoder + self.tokenizer + self.cache + self.condition + self.working + RESERVE


def on_meta(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """The model that `build` makes, without memory, as it would be cast."""
    with torch.device("meta"):
        return cast(build(), dtype)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def block_bytes(model: nn.Module) -> list[int]:
    """Bytes of the matrices of each block: what offloading keeps in the CPU's memory."""
    return [
        sum(
            layer.weight.numel() * layer.weight.element_size()
            for layer in block.modules()
            if isinstance(layer, nn.Linear)
        )
        for block in blocks_of(model)
    ]


def cache_bytes(depth: int, tokens: int, width: int, dtype: torch.dtype, branches: int = 1, images: int = 1) -> int:
    """Keys and values: 2 depth tokens width, for each image and branch (2 with guidance)."""
    return 2 * depth * tokens * width * dtype.itemsize * branches * images


def forward_bytes(tokens: int, width: int, branches: int = 1, images: int = 1) -> int:
    """An estimate of what the largest forward, of so many tokens, works in."""
    return _FORWARD * tokens * width * branches * images


def decoder_bytes(tokenizer: Any, size: tuple[int, int], images: int = 1) -> int:
    """An estimate of what decoding images of (H, W) pixels works in: four maps as large as the largest that a layer
    makes. tokenizer: on the meta device."""
    largest = 0

    def note(layer: nn.Module, args: Any, out: Any) -> None:
        nonlocal largest
        largest = max(largest, out.numel() * out.element_size())

    hooks = [layer.register_forward_hook(note) for layer in tokenizer.decoder.modules()]
    down = tokenizer.config.autoencoder.downsampling
    shape = (images, tokenizer.config.autoencoder.latent, size[0] // down, size[1] // down)
    tokenizer.decode_features(torch.empty(shape, device="meta"))
    for hook in hooks:
        hook.remove()
    return _DECODER * largest


def needs(
    system: nn.Module,
    tokenizer: nn.Module,
    *,
    depth: int,
    width: int,
    positions: int,
    largest_step: int,
    size: tuple[int, int],
    dtype: torch.dtype,
    text_tokens: int = 0,
    branches: int = 1,
    images: int = 1,
) -> Needs:
    """What a request needs of models on the meta device (`on_meta`).

    positions: of the plan; largest_step: most of them in one forward; size: (H, W) of an image; text_tokens: of the
    longest prompt, whose keys and values each block keeps; branches: 2 with guidance.
    """
    each = block_bytes(system)
    work = (forward_bytes(largest_step, width, branches, images), decoder_bytes(tokenizer, size, images))
    return Needs(
        weights=weight_bytes(system),
        blocks=sum(each),
        block=max(each),
        tokenizer=weight_bytes(tokenizer),
        cache=cache_bytes(depth, positions, width, dtype, branches, images),
        condition=cache_bytes(depth, text_tokens, width, dtype, branches, images),
        working=max(work),
    )
