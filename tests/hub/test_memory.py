"""Memory is counted as it is used: against real tensors, a real run's cache and a real encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import infinity_memory
from nextset.core.noise import Noise
from nextset.engine.run import Run, finish
from nextset.hub import pretrained
from nextset.hub.catalogue import get_record
from nextset.hub.memory import (
    RESERVE,
    Needs,
    block_bytes,
    cache_bytes,
    decoder_bytes,
    forward_bytes,
    needs,
    on_meta,
    weight_bytes,
)
from nextset.nn.offload import offload_blocks
from nextset.systems.infinity import Infinity
from tests.battery.instances import instance
from tests.tiny import tiny_model, tiny_tokenizer

DOCS = Path(__file__).resolve().parents[2] / "docs" / "memory.md"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_those_that_a_loaded_model_has(dtype: str, tmp_path: Path) -> None:
    folder = pretrained.save(tmp_path / "m", tiny_model())
    loaded = pretrained.load(folder, dtype=dtype).model
    counted = on_meta(tiny_model, getattr(torch, dtype))
    real = [*loaded.parameters(), *loaded.buffers()]
    assert weight_bytes(counted) == sum(t.untyped_storage().nbytes() for t in {t.data_ptr(): t for t in real}.values())
    assert all(p.is_meta for p in counted.parameters())


def test_blocks_are_what_offloading_keeps_away() -> None:
    model: Any = instance("infinity").model
    counted = block_bytes(on_meta(lambda: Infinity(model.config), torch.float32))
    whole = sum(p.nbytes for p in model.blocks.parameters())
    assert len(counted) == 2 and 0.9 * whole < sum(counted) < whole, "nearly all of their bytes"
    twin = Infinity(model.config)
    resting = [block.size for block in offload_blocks(twin, "cpu").blocks]
    assert all(0 <= real - count < 256 * 16 for real, count in zip(resting, counted, strict=True)), "but for alignment"


def test_the_cache_is_that_of_a_run() -> None:
    it = instance("infinity")
    model: Any = it.model
    run = Run.of(it.job(torch.arange(3)), Noise(0), torch.arange(3), cache="full")
    finish(run)
    c = model.config
    assert run.policy.bytes() == cache_bytes(c.depth, 1 + 4 + 9, c.width, torch.float32, branches=2, images=3)


def test_the_formula_of_the_released_sizes() -> None:
    """2 (keys, values) x depth x positions x width x 2 bytes x 2 (guidance), for 1024 px: 10,521 positions."""
    two, eight = (next(s for s in get_record("infinity").sizes if s.name == name) for name in ("2B", "8B"))
    assert cache_bytes(two.depth, 10521, two.width, torch.bfloat16, 2) == 5_516_034_048
    assert cache_bytes(eight.depth, 10521, eight.width, torch.bfloat16, 2) == 2 * 40 * 10521 * 3584 * 2 * 2


def test_the_decoder_s_largest_map_is_found() -> None:
    tokenizer = on_meta(tiny_tokenizer, torch.bfloat16)
    # 16x16 pixels: after the upsampling to 16x16 the first level has 8 channels, as has the one above before it
    assert decoder_bytes(tokenizer, (16, 16)) == 4 * 8 * 16 * 16 * 2
    assert decoder_bytes(tokenizer, (32, 16), images=3) == 6 * 4 * 8 * 16 * 16 * 2


def test_a_device_holds_what_it_must() -> None:
    n = Needs(weights=100, blocks=80, block=10, tokenizer=7, cache=5, condition=3, working=2)
    assert n.on_device() == 117 + RESERVE
    assert n.on_device(encoder=50) == 167 + RESERVE
    assert n.on_device(offload=True) == 57 + RESERVE
    found = needs(
        on_meta(tiny_model, torch.float32), on_meta(tiny_tokenizer, torch.float32), depth=2, width=32, positions=30,
        largest_step=16, size=(16, 16), dtype=torch.float32, branches=2,
    )  # fmt: skip
    assert (found.cache, found.condition) == (2 * 2 * 30 * 32 * 4 * 2, 0)
    assert found.working == max(forward_bytes(16, 32, 2), 4 * 8 * 16 * 16 * 4)
    assert 0 < found.block < found.blocks < found.weights


def test_the_text_encoder_is_counted_as_transformers_builds_it() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        config = transformers.T5Config(
            d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, vocab_size=32128,
            feed_forward_proj="gated-gelu",
        )  # fmt: skip
        model = transformers.T5EncoderModel(config)
    assert sum(p.numel() for p in model.parameters()) == infinity_memory.T5_XL


def test_the_tables_of_the_docs_are_counted() -> None:
    text = DOCS.read_text()
    assert all(table in text for table in infinity_memory.tables())
