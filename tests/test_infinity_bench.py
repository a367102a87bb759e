"""The bench of Infinity's released shape: what it counts is what is computed, what it times is what runs; and the model
keeps its promises of speed: storage made once in its own dtype, rotary tables made once, no names made in a forward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import emoji_prompt, infinity_2b, infinity_memory
from benchmarks.infinity_2b import BRANCHES, TEXT, build, filled, released
from benchmarks.infinity_floor import alone, decoder_layers, matrices, prepare_work, scale_work, timed
from nextset.cli.bench import bench as command
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.run import Run, finish, proceed
from nextset.hub import pretrained
from nextset.hub.memory import cache_bytes, on_meta
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.infinity.schedules import TABLE, Grids, schedule
from nextset.text.condition import Text
from nextset.tokenizers.bitwise import BitwiseConfig, BitwisePyramid
from tests.tiny import save_tiny_text

CPU = torch.device("cpu")
SMALL = InfinityConfig(depth=2, width=32, heads=2, channels=4, text_channels=16, text_length=24, pool_heads=4)
CELLS = [h * w for h, w in schedule(1.0, "0.06M")]


def small_tokenizer(c: InfinityConfig = SMALL) -> BitwisePyramid:
    sizes = AutoencoderConfig(8, (1, 2), 1, c.channels, 4, attention=False, middle_attention=False)
    return BitwisePyramid(BitwiseConfig(autoencoder=sizes, patch=c.patch))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Infinity:
    """A tiny Infinity in bfloat16, made as the bench makes the large one."""
    monkeypatch.setattr(infinity_2b, "tokenizer", small_tokenizer)
    torch.manual_seed(0)
    return build(SMALL, "0.06M", CPU, torch.bfloat16)


def job(model: Infinity) -> Any:
    text = Text.of([torch.randn(TEXT, SMALL.text_channels)])
    return model.job(text, guidance_scale=3.0, pixels="0.06M")


# ---- counted


def test_the_counts_are_those_of_the_sheet() -> None:
    """Infinity-2B at 1024 px: 13 scales, 10,521 tokens, twice for guidance: 115 TFLOP, 36 of them attention."""
    c = released(32)
    assert (c.depth, c.width, c.heads, c.bits, c.hidden) == (32, 2048, 16, 32, 8192)
    sides = schedule(1.0, "1M")
    work = scale_work(c, sides, TEXT)
    tokens = sum(h * w for h, w in sides)
    assert (len(work), tokens) == (13, 10521)
    # 24 C^2 a token and block, as in VAR, and 4 C^2 for the attention to the text
    assert sum(w.blocks for w in work) == 2 * tokens * 32 * 28 * 2048**2
    pairs = sum(h * w * sum(a * b for a, b in sides[: k + 1]) for k, (h, w) in enumerate(sides))
    assert sum(w.attention for w in work) == 2 * 32 * 4 * 2048 * pairs
    assert sum(w.head for w in work) == 2 * tokens * 2 * 2048 * 64
    assert [round(sum(part) / 1e12, 1) for part in zip(*work, strict=True)] == [79.1, 35.9, 0.1, 0.0, 0.0]
    assert round(sum(map(sum, scale_work(c, schedule(1.0, "0.06M"), TEXT))) / 1e12, 2) == 4.02


def test_the_counts_are_what_a_run_computes(small: Infinity) -> None:
    small.float()
    small.tokenizer.float()
    run = Run.of(job(small), Noise(0))
    events = proceed(run)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the counter knows products, and not the CPU's fused kernel
        for work in scale_work(SMALL, schedule(1.0, "0.06M"), TEXT):
            with FlopCounterMode(display=False) as counter:
                next(events)
            assert counter.get_total_flops() == sum(work)
        with FlopCounterMode(display=False) as counter:
            small.prepare([b.condition for b in run.job.branches])
        assert counter.get_total_flops() == sum(prepare_work(SMALL, TEXT).values())
        with FlopCounterMode(display=False) as counter:
            run.job.finish(run.job.canvas)
    layers = decoder_layers(on_meta(small_tokenizer, torch.float32), (16, 16))  # type: ignore[arg-type]
    assert counter.get_total_flops() == sum(layer.flops * count for layer, count in layers.items()) > 0


def test_the_released_decoder_is_that_of_the_sheet() -> None:
    layers = decoder_layers(on_meta(lambda: infinity_memory.tokenizer(released(32)), torch.bfloat16), (16, 16))  # type: ignore[arg-type]
    assert max(layer.h for layer in layers) == 256 and {layer.outer for layer in layers} == {3, 128, 256, 512}
    assert sum(layers.values()) == 1 + 2 * 2 + 5 * 3 * 2 + 2 + 4 + 1  # in; middle; blocks; shortcuts; upsampling; out


# ---- timed


def test_a_product_alone_meets_every_matrix_that_a_block_multiplies_at_each_scale(small: Infinity) -> None:
    block = small.layers[0]
    used: list[Tensor] = []
    for layer in block.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(lambda layer, _: used.append(layer.weight))
    run = Run.of(job(small), Noise(0))
    used.clear()  # the text's keys are made once a request
    with torch.no_grad():
        next(proceed(run))
    assert {id(w) for w in used} == {id(w) for w in matrices(block)} and len(used) == len(matrices(block))


def test_timing_counts_calls() -> None:
    calls: list[int] = []
    alone([lambda: calls.append(0), lambda: calls.append(1)], CPU, calls=2)
    assert calls == [0, 1] * 3, "once to warm up, then twice"
    cost = timed(lambda: sum(range(200_000)), CPU)
    assert cost.wall > 0 and cost.counted > 0


def test_the_bench_files_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infinity_2b, "tokenizer", small_tokenizer)
    monkeypatch.setattr(infinity_2b, "released", lambda depth: SMALL)
    infinity_2b.main(["--runs", "1", "--threads", "1", "--out", str(tmp_path / "r.json")])
    r = json.loads((tmp_path / "r.json").read_text())
    assert [scale["tokens"] for scale in r["scales"]] == CELLS
    assert r["cache"] == {"bytes": 2 * 2 * 521 * 32 * 2 * 2, "dtype": "bfloat16"}
    assert r["machine"]["command"].startswith("nextset bench") and r["machine"]["date"]
    assert r["image"]["floor"] == pytest.approx(
        sum(sum(s["floor"].values()) for s in r["scales"]) + r["decode"]["floor"]
    )
    for scale in r["scales"]:
        assert 0 < scale["trunk"] < scale["counted"] and scale["share"] > 0


def test_what_does_not_fit_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infinity_2b, "free_memory", lambda device: 3 * 10**9)
    with pytest.raises(
        NextsetError, match=r"needs \d+\.\d GB of cpu memory, but 3\.0 GB are free; give .*--depth"
    ) as e:
        build(released(32), "0.06M", CPU, torch.bfloat16)
    assert "\n" not in str(e.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(NextsetError, match="no CUDA device"):
        command("infinity-2b", ["--device", "cuda"])


# ---- a prompt of the emoji model


def test_the_untrained_emoji_model_has_the_sizes_of_its_recipe(tmp_path: Path) -> None:
    model = pretrained.load(emoji_prompt.untrained(tmp_path / "m")).model
    c = model.config
    assert (c.depth, c.width, c.bits, c.sides) == (7, 192, 20, (1, 2, 3, 4, 6, 8))
    assert model.encode_prompts([emoji_prompt.PROMPT]).lengths.tolist() == [4], (
        "its three words and what opens every text"
    )
    assert 8 * model.tokenizer.config.autoencoder.downsampling == 64


def test_a_prompt_is_timed_from_words_to_picture(tmp_path: Path) -> None:
    model, out = save_tiny_text(tmp_path / "m"), tmp_path / "r.json"
    emoji_prompt.main(["--model", str(model), "--runs", "1", "--threads", "1", "--out", str(out)])
    r = json.loads(out.read_text())
    (row,) = r["rows"]
    assert row["threads"] == 1 and row["next"]["cpu"] > 0 and r["aim"] == 3.0
    assert row["reached"] == (max(row["first"]["wall"], row["next"]["wall"]) < 3.0)


# ---- promises of the model


def test_weights_are_never_in_another_dtype_than_the_target(small: Infinity) -> None:
    kept = [n for n, p in small.named_parameters() if p.dtype == torch.float32]
    assert all(n.startswith(("text.", "classifier.")) for n in kept) and len(kept) < len(list(small.parameters()))
    assert all(p.abs().sum() > 0 for p in small.parameters()), "no weight was left as it lay in memory"
    assert torch.equal(filled(torch.nn.BatchNorm2d(2, device="meta"), CPU).running_var, torch.zeros(2))


def test_the_cache_of_a_bfloat16_model_is_bfloat16_and_allocated_once(small: Infinity) -> None:
    run = Run.of(job(small), Noise(0))
    events, seen = proceed(run), []
    with torch.no_grad():
        for _ in CELLS:
            next(events)
            stores = {site: (s.k, s.v) for site, s in run.policy._stores.items()}  # type: ignore[attr-defined]
            assert all(t.dtype == torch.bfloat16 for pair in stores.values() for t in pair)
            seen.append({site: tuple(t.data_ptr() for t in pair) for site, pair in stores.items()})
            assert run.policy.bytes() == cache_bytes(2, 521, 32, torch.bfloat16, BRANCHES)
    assert set(seen[0]) == {"blocks.0", "blocks.1"} and all(pointers == seen[0] for pointers in seen)
    k = next(iter(stores.values()))[0]
    assert bool(k.abs().sum(-1).all()), "every slot was written"


def test_what_the_text_decides_is_bfloat16_and_made_once(small: Infinity, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    keys = type(small.layers[0].cross).keys
    monkeypatch.setattr(type(small.layers[0].cross), "keys", lambda *a: (made.append(1), keys(*a))[1])
    run = Run.of(job(small), Noise(0))
    assert all(t.dtype == torch.bfloat16 for c in run.cond.blocks for t in (c.k, c.v, *c.modulation))
    finish(run)
    assert len(made) == SMALL.depth


def test_rotary_tables_are_made_once_for_equal_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    tables = Grids.tables
    monkeypatch.setattr(Grids, "tables", lambda *a: (made.append(1), tables(*a))[1])
    sides = ((1, 1), (2, 3), (5, 7))  # of no other test: tables are kept for the life of the process
    first, again, other = Grids(sides, (50, 70)), Grids(sides, (50, 70)), Grids(sides, (50, 71))
    assert first.turns(16) is again.turns(16) and len(made) == 1
    assert other.turns(16) is not first.turns(16) and len(made) == 2
    assert first.plan is again.plan is other.plan


def test_a_run_takes_its_tables_as_they_are(small: Infinity) -> None:
    grids = Grids(schedule(1.0, "0.06M"), TABLE[1.0][-1])
    assert Run.of(job(small), Noise(0)).cond.turns is Run.of(job(small), Noise(1)).cond.turns is grids.turns(16, CPU)


def test_a_forward_makes_no_names(small: Infinity) -> None:
    sites: list[str] = []

    class Probe:
        """Stands for the engine's context in one forward of two slots."""

        def attr(self, name: str) -> Tensor:
            return torch.zeros(2, dtype=torch.int64)

        def attend(self, site: str, q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
            sites.append(site)
            return v

        def hook(self, site: str, h: Tensor) -> Tensor:
            sites.append(site)
            return h

    run = Run.of(job(small), Noise(0))
    with torch.no_grad():
        small.trunk(torch.zeros(2, 2, 4), run.cond, Probe())
    assert sites == ["blocks.0", "blocks.0", "blocks.1", "blocks.1"]
    assert {id(site) for site in sites} == {id(site) for site in small.sites}, (
        "the model's own strings, and no new ones"
    )
