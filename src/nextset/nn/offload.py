"""Blocks that stay in the CPU's memory and come to the device one after another, for a device too small for them all.

What moves are the matrices of the linear maps inside the blocks, nearly all of their bytes; everything else of the model
lies on the device for good. The device has room for two blocks: the one that computes and the next, which is on its way
meanwhile. A block begins when a linear map of it is called, by whatever method of the block, so that no system needs to
know. Values do not change. For inference alone: a backward pass would find matrices that have moved on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError

_ALIGNED = 256  # bytes: where a matrix may begin


class Lane:
    """How bytes get to a device: at once. Any device can do this much."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)

    def home(self, size: int) -> Tensor:
        """Memory of the CPU in which a block of `size` bytes stays."""
        return torch.empty(size, dtype=torch.uint8)

    def begin(self, slot: Tensor, home: Tensor) -> None:
        """Start to copy a block into memory of the device, once all that was asked of the device before is done: the
        block whose place it takes may still be in use."""
        slot.copy_(home)

    def arrive(self) -> None:
        """What is asked of the device from now on happens after the last copy."""


class SideStream(Lane):
    """On a CUDA stream of its own, from pinned memory: the copy goes on while the device computes."""

    def __init__(self, device: torch.device | str) -> None:
        super().__init__(device)
        self.stream = torch.cuda.Stream(self.device)

    def home(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def begin(self, slot: Tensor, home: Tensor) -> None:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            slot.copy_(home, non_blocking=True)

    def arrive(self) -> None:
        torch.cuda.current_stream(self.device).wait_stream(self.stream)


class Block:
    """The matrices of one block, packed behind each other in the CPU's memory.

    Making one moves the matrices there; `point` lets the block's layers use other memory of the same content.
    """

    def __init__(self, module: nn.Module, lane: Lane) -> None:
        self.layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        self.places: list[tuple[int, torch.dtype, torch.Size]] = []
        self.size = 0
        for weight in (layer.weight for layer in self.layers):
            self.places.append((self.size, weight.dtype, weight.shape))
            self.size += -(-weight.numel() * weight.element_size() // _ALIGNED) * _ALIGNED
        self.home = lane.home(self.size)
        for view, layer in zip(self.views(self.home), self.layers, strict=True):
            view.copy_(layer.weight.detach())
        self.point(self.home)

    def views(self, memory: Tensor) -> list[Tensor]:
        """The matrices in memory of `size` bytes."""
        ends = [(start, start + shape.numel() * dtype.itemsize) for start, dtype, shape in self.places]
        return [
            memory[start:end].view(dtype).view(shape)
            for (start, end), (_, dtype, shape) in zip(ends, self.places, strict=True)
        ]

    def point(self, memory: Tensor) -> None:
        """Use the matrices that lie in this memory."""
        for view, layer in zip(self.views(memory), self.layers, strict=True):
            layer.weight.data = view


class Offloaded:
    """Blocks that take turns in two slots of the device.

    resident: the blocks whose matrices are on the device or on their way, at most two.
    """

    def __init__(self, blocks: nn.ModuleList, lane: Lane) -> None:
        self.lane = lane
        self.blocks = [Block(block, lane) for block in blocks]
        room = max((block.size for block in self.blocks), default=0)
        self.slots = [torch.empty(room, dtype=torch.uint8, device=lane.device) for _ in range(2)]
        self.tenants: list[int | None] = [None, None]
        self.current: int | None = None
        for i, block in enumerate(self.blocks):
            for layer in block.layers:
                layer.register_forward_pre_hook(self._hook(i))

    @property
    def resident(self) -> set[int]:
        return {tenant for tenant in self.tenants if tenant is not None}

    def _hook(self, index: int) -> Any:
        def enter(layer: nn.Module, args: Any) -> None:
            if self.current != index:
                self.enter(index)

        return enter

    def enter(self, index: int) -> None:
        """Block `index` computes from now on, and the one after it sets out; behind the last comes the first."""
        if index not in self.tenants:
            self._fetch(index, 1 - self._slot(self.current))
        self.lane.arrive()
        self.current = index
        following = (index + 1) % len(self.blocks)
        if following not in self.tenants:
            self._fetch(following, 1 - self._slot(index))

    def _slot(self, index: int | None) -> int:
        return self.tenants.index(index) if index in self.tenants else 1

    def _fetch(self, index: int, slot: int) -> None:
        leaving, block = self.tenants[slot], self.blocks[index]
        if leaving is not None:
            self.blocks[leaving].point(self.blocks[leaving].home)
        memory = self.slots[slot][: block.size]
        self.lane.begin(memory, block.home)
        block.point(memory)
        self.tenants[slot] = index


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The list of modules that holds most of a model's linear maps."""

    def size(modules: nn.ModuleList) -> int:
        return sum(layer.weight.numel() for layer in modules.modules() if isinstance(layer, nn.Linear))

    found = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=size, default=None)
    if found is None or size(found) == 0:
        raise NextsetError(f"{type(model).__name__} has no blocks of linear maps to offload; load it without offload")
    return found


def offload_blocks(model: nn.Module, device: torch.device | str, lane: Lane | None = None) -> Offloaded:
    """Put a model on a device, but for its blocks, which take turns there. lane: how they get there; by default a side
    stream where the device is CUDA's, else plain copies.

    The CPU needs the blocks and, while they are packed, one block more.
    """
    target = torch.device(device)
    lane = lane or (SideStream(target) if target.type == "cuda" else Lane(target))
    offloaded = Offloaded(blocks_of(model), lane)
    layers = [layer for block in offloaded.blocks for layer in block.layers]
    staying = [layer.weight for layer in layers]
    for layer in layers:
        layer.weight = nn.Parameter(torch.empty(0), requires_grad=False)
    model.to(target)
    for layer, weight in zip(layers, staying, strict=True):
        layer.weight = weight
    model.offloaded = offloaded  # type: ignore[assignment]
    return offloaded
