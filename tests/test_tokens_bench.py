"""The bench of tokens: both arms draw the same ids, and every figure is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import tokens
from nextset.core.errors import NextsetError

TINY = {"classes": 3, "depth": 2, "width": 32, "heads": 2, "hidden": 48, "vocabulary": 24, "sides": (3,)}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tokens.SHAPES, "b", TINY)
    monkeypatch.setitem(tokens.TOP_K, "b", 7)
    monkeypatch.setattr(tokens, "bandwidth", lambda device: 1e9)


@pytest.mark.usefixtures("tiny")
def test_it_files_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "tokens.json"
    tokens.main(["--shapes", "b", "--batch", "1", "3", "--runs", "2", "--tokens", "9", "--out", str(out)])
    filed = json.loads(out.read_text())
    assert [row["batch"] for row in filed["rows"]] == [1, 3] and filed["copy_bytes_a_second"] == 1e9
    for row in filed["rows"]:
        arm = row["arms"]["eager"]
        assert arm["ids_equal"] == 1.0 and len(arm["ratio"]["pairs"]) == 2
        assert arm["floor_share"]["a"] == pytest.approx(row["weights"] / 1e9 * 9 / arm["a"]["cpu"])


@pytest.mark.usefixtures("tiny")
def test_weights_that_a_token_reads() -> None:
    # a layer: queries, keys, values and their way out 4 C^2, a gated layer 3 C hidden, two norms; one norm, one classifier
    layer = 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32
    assert tokens.read(tokens.network("b")) == 4 * (2 * layer + 32 + 24 * 32)


@pytest.mark.parametrize(("arguments", "limit"), [(["--runs", "0"], "runs is 0"), (["--batch", "0"], "batch is 0")])
def test_bad_numbers_are_refused(arguments: list[str], limit: str, tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match=limit):
        tokens.main([*arguments, "--out", str(tmp_path / "none.json")])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="no CUDA device"):
        tokens.main(["--device", "cuda", "--out", str(tmp_path / "none.json")])
