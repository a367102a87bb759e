"""Offloading: blocks take turns on the device, at most two at once, and nothing else changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.run import Run, finish
from nextset.hub import pretrained
from nextset.nn.offload import Lane, Offloaded, blocks_of, offload_blocks
from tests.battery.instances import instance
from tests.tiny import tiny_model


class Scrambled(Lane):
    """A device that is told apart: matrices at home have all bits turned, so that computing with them shows at once, and
    a copy is there only after `arrive`."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.copies: list[int] = []
        self.under_way: list[tuple[Tensor, Tensor]] = []

    def begin(self, slot: Tensor, home: Tensor) -> None:
        slot.fill_(255)  # not a number
        self.under_way.append((slot, home))
        self.copies.append(home.data_ptr())

    def arrive(self) -> None:
        for slot, home in self.under_way:
            slot.copy_(home.bitwise_not())
        self.under_way.clear()


def scrambled(model: nn.Module) -> tuple[Offloaded, Scrambled]:
    lane = Scrambled()
    offloaded = offload_blocks(model, "cpu", lane)
    for block in offloaded.blocks:
        block.home.bitwise_not_()
    return offloaded, lane


class Stack(nn.Module):
    """Blocks of two maps each, of other sizes and dtypes, with weights besides."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inward = nn.Linear(3, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8 + i), nn.Linear(8 + i, 8)) for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.inward(x)
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
@torch.no_grad()
def test_at_most_two_blocks_are_there_and_values_are_the_same(depth: int) -> None:
    model, x = Stack(depth), torch.randn(4, 3)
    expected = model(x)
    offloaded, lane = scrambled(model)
    seen: list[tuple[int, set[int]]] = []
    for i, block in enumerate(model.blocks):
        block[2].register_forward_hook(lambda *_, i=i: seen.append((i, offloaded.resident)))  # type: ignore[operator,union-attr]
    for _ in range(3):
        assert torch.equal(model(x), expected)
    assert [i for i, _ in seen] == list(range(depth)) * 3
    assert all(there == {i, (i + 1) % depth} for i, there in seen), "the one that computes, and the next"
    # each block came once a forward; two blocks or fewer never leave again; one more was on its way at the end
    assert len(lane.copies) == (depth if depth <= 2 else 3 * depth + 1)


@torch.no_grad()
def test_blocks_in_any_order_are_right_too() -> None:
    model, x = Stack(5), torch.randn(2, 8)
    expected = [block(x) for block in model.blocks]
    offloaded, _ = scrambled(model)
    for i in (3, 0, 4, 4, 1, 0, 2, 3):
        assert torch.equal(model.blocks[i](x), expected[i])
        assert i in offloaded.resident and len(offloaded.resident) == 2


def test_what_is_on_the_device_is_two_blocks_and_the_rest() -> None:
    model = Stack(6)
    big = max(sum(m.weight.nbytes for m in b.modules() if isinstance(m, nn.Linear)) for b in model.blocks)
    offloaded = offload_blocks(model, "meta", Lane("cpu"))
    assert model.inward.weight.is_meta and model.blocks[0][0].weight.is_meta and model.blocks[0][1].bias.is_meta  # type: ignore[index,union-attr]
    assert not model.blocks[0][1].weight.is_meta, "its matrices stayed"  # type: ignore[index,union-attr]
    assert big <= sum(slot.nbytes for slot in offloaded.slots) // 2 <= big + 512


@pytest.mark.parametrize("name", ["infinity", "infinity:inside", "var", "hmar:refined", "m_var"])
def test_a_generator_makes_the_same_pictures(name: str) -> None:
    """Also where a system asks its blocks for something before they run, as for the condition's keys."""
    it, images = instance(name), torch.arange(2)

    def made(model: Any) -> tuple[Tensor, Tensor]:
        job = it.job(images)
        job.network = model
        run = Run.of(job, Noise(5), images)
        pictures = finish(run)
        return run.codes(), pictures

    expected = made(it.model)
    twin = copy.deepcopy(it.model)
    offloaded, lane = scrambled(twin)
    found = made(twin)
    assert lane.copies and len(offloaded.resident) == 2
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_load_offloads_and_saving_keeps_the_weights(tmp_path: Path) -> None:
    model = tiny_model()
    folder = pretrained.save(tmp_path / "m", model)
    loaded = pretrained.load(folder, offload=True).model
    labels = torch.tensor([1, 2])

    def made(m: Any) -> Tensor:
        run = Run.of(m.job(labels, guidance_scale=2.0), Noise(0))
        finish(run)
        return run.codes()

    assert torch.equal(made(loaded), made(model))
    again = pretrained.load(pretrained.save(tmp_path / "again", loaded)).model
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_a_model_without_blocks_says_so() -> None:
    with pytest.raises(NextsetError, match="Linear has no blocks"):
        blocks_of(nn.Linear(2, 2))
    assert blocks_of(tiny_model()) is not None
