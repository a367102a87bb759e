"""Features on disk: the same bit for bit, damaged ones computed again, the oldest evicted, two processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.text.cache import CachedEncoder
from nextset.text.encoders import T5Encoder
from tests.text.counting import Counting
from tests.text.tiny_t5 import save_t5

PROMPTS = ["a red cat", "the old man sits under the old tree", "dog"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_cached_features_are_those_of_the_encoder_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    model = save_t5(tmp_path / "t5", decoder=False)
    plain = T5Encoder(model, dtype=dtype).encode(PROMPTS)
    for _ in range(2):
        encoder = CachedEncoder(T5Encoder(model, dtype=dtype), tmp_path / "text")
        text = encoder.encode(PROMPTS)
        assert torch.equal(text.values, plain.values) and torch.equal(text.lengths, plain.lengths)
        assert text.values.dtype == torch.float32
    assert "_model" not in vars(encoder.encoder)  # what is cached needs no model, and no tokenizer
    assert "_tokenizer" not in vars(encoder.encoder)
    assert (encoder.width, encoder.dtype, encoder.identity) == (32, getattr(torch, dtype), encoder.encoder.identity)


def test_a_cached_prompt_that_was_cut_warns_again(tmp_path: Path) -> None:
    model = save_t5(tmp_path / "t5", decoder=False)
    for _ in range(2):
        with pytest.warns(NextsetWarning, match="4 of a prompt's 6 tokens are read; cut: 'sits on'"):
            CachedEncoder(T5Encoder(model, max_length=4), tmp_path / "text").encode(["a red cat sits on"])


def test_each_prompt_is_computed_once(tmp_path: Path) -> None:
    encoder = Counting()
    cached = CachedEncoder(encoder, tmp_path / "text")
    first = cached.encode(["a cat", "dog", " a  cat"])
    assert encoder.asked == ["a cat", "dog"] and torch.equal(first.values[0], first.values[2])
    again = cached.encode(["dog", "cow", "a cat"])
    assert encoder.asked == ["a cat", "dog", "cow"]
    assert torch.equal(again[:1].values[:, :3], first[1:2].values[:, :3])
    assert torch.equal(again[2:].values, first[:1].values)
    assert len(names(tmp_path / "text")) == 3


def test_another_encoder_reads_nothing_of_the_first(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    second.identity = "another"
    for encoder in (first, second):
        CachedEncoder(encoder, tmp_path).encode(["a cat"])
        assert encoder.asked == ["a cat"]


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "text"])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: str) -> None:
    CachedEncoder(Counting(), tmp_path).encode(["a cat", "cow"])
    encoder = Counting()
    cached = CachedEncoder(encoder, tmp_path)
    path = cached._path("a cat")
    data = path.read_bytes()
    flipped = bytes([*data[:-3], data[-3] ^ 4, *data[-2:]])
    path.write_bytes({"cut": data[:-10], "emptied": b"", "flipped": flipped, "text": b"no tensors"}[damage])
    for _ in range(2):
        cached.encode(["a cat", "cow"])
        assert encoder.asked == ["a cat"]
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("name", ["values", "cut", "digest"])
@pytest.mark.parametrize("change", [torch.Tensor.half, lambda t: torch.cat((t, t)), None])
def test_a_file_with_other_tensors_is_computed_again(tmp_path: Path, name: str, change: Any) -> None:
    encoder = Counting(cut="the rest")
    cached = CachedEncoder(encoder, tmp_path)
    cached.features(["a cat"])
    path = cached._path("a cat")
    stored = safetensors.torch.load(path.read_bytes())
    tensor = stored.pop(name)
    path.write_bytes(safetensors.torch.save({**stored, name: change(tensor)} if change else stored))
    assert cached.features(["a cat"])[0].cut == "the rest"
    assert encoder.asked == ["a cat", "a cat"]


def test_those_used_longest_ago_are_evicted(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10_000)  # not ours: neither counted nor removed
    prompts = [f"{i:04}" for i in range(8)]
    cached = CachedEncoder(Counting(), tmp_path)
    cached.encode(prompts)
    size = cached._path(prompts[0]).stat().st_size
    for age, prompt in enumerate(prompts):
        os.utime(cached._path(prompt), ns=(0, age * 10**9))
    unfinished = tmp_path / f".{'0' * 64}.safetensors.abc.part"
    unfinished.write_bytes(b"x" * size)
    os.utime(unfinished, ns=(0, 0))
    small = CachedEncoder(Counting(), tmp_path, limit=8 * size)
    small.encode([prompts[0]])  # used: now the newest
    small.encode(["new!"])
    left = {p for p in [*prompts, "new!"] if small._path(p).exists()}
    assert left == {prompts[0], *prompts[3:], "new!"} and not unfinished.exists()
    assert (tmp_path / "model.safetensors").exists()


def test_the_folder_stays_near_its_limit(tmp_path: Path) -> None:
    cached = CachedEncoder(Counting(), tmp_path, limit=8_000)
    for i in range(80):
        cached.encode([f"prompt {i}"])
        assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 8_000 * 17 / 16 + 1000
    assert cached._path("prompt 79").exists() and len(names(tmp_path)) > 8
    CachedEncoder(Counting(), tmp_path, limit=0).encode(["the last"])
    assert names(tmp_path) == []
    with pytest.raises(NextsetError, match="limit of the text cache is -1"):
        CachedEncoder(Counting(), tmp_path, limit=-1)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a file")
    cached = CachedEncoder(Counting(), tmp_path / "text")
    with pytest.warns(NextsetWarning, match="features of prompts are not kept: .* cannot be written") as seen:
        assert len(cached.encode(["a cat", "cow"])) == 2
    assert len(seen) == 1


TURNS = """
import sys
from nextset.text.cache import CachedEncoder
from tests.text.counting import Counting

cached = CachedEncoder(Counting(), sys.argv[1], limit=6_000)
for turn in range(3):
    for i in range(30):
        assert cached.encode([f"prompt {i}"]).lengths.tolist() == [len(f"prompt {i}")]
"""


def test_two_processes_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = subprocess.Popen([sys.executable, "-W", "error", "-c", TURNS, str(tmp_path)])
    while not any(tmp_path.iterdir()) and other.poll() is None:
        time.sleep(0.01)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path)])
    exec(TURNS, {})
    assert other.wait(60) == 0
    assert all(name.endswith(".safetensors") for name in names(tmp_path))
