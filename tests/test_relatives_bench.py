"""The bench of VAR's relatives: arms that should agree do, what is measured is what is meant, and every column is filled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import relatives
from benchmarks.relatives import ARMS, BASES, RATIOS, check, in_turn, main, measure, memory, peak, ratio
from benchmarks.relatives_arms import Shape, build
from nextset.core.errors import NextsetError

# as many scales as the released plans, the local ones as small as the window
TINY = Shape((1, 1, 2, 2, 2, 3, 3, 3, 7, 7), depth=2, width=32, vocabulary=24, classes=5, batch=2)
NAMES = [*BASES, *(arm for arms in ARMS.values() for arm in arms)]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is measured in this process: what a new one costs is torch's import."""
    monkeypatch.setattr(relatives, "memory_apart", memory)


def test_arms_that_should_agree_do() -> None:
    arms = build(NAMES, TINY)
    checks, kept = check(arms)
    assert checks["ids_equal"] == {"var = plain": 1.0, "m_var = m_var recomputed": 1.0}
    assert checks["losses"]["var"] == pytest.approx(checks["losses"]["plain"], abs=1e-5)
    # keys and values of every layer, two branches; a Mamba's state, and the end of its convolution
    assert kept["var"] == kept["plain"] == 2 * TINY.depth * 2 * TINY.tokens * TINY.width * 4
    assert kept["m_var"] == TINY.depth * 2 * (64 * 64 + 3 * (64 + 2 * 64)) * 4
    assert [kept[n] for n in ("hmar", "hmar refined", "mvar", "m_var recomputed")] == [0] * 4


def test_a_step_sees_every_scale_and_leaves_no_gradient() -> None:
    arms = build(["var", "mvar"], TINY)
    first, again = arms["mvar"].train(), arms["mvar"].train()  # type: ignore[misc]
    assert first == again, "the parts are those of one cycle, whatever ran before"
    # an untrained classifier knows nothing: each position costs log V / L, in however many parts
    assert first == pytest.approx(torch.log(torch.tensor(24.0)).item(), abs=0.2)


def test_rounds_are_in_turn_and_the_first_is_not_counted() -> None:
    calls: list[str] = []
    found = in_turn({name: lambda name=name: calls.append(name) for name in "ab"}, 2, "cpu")  # type: ignore[misc]
    assert calls == list("ababab") and [len(t) for t in found.values()] == [2, 2]


def test_a_ratio_is_of_rounds() -> None:
    found = ratio([1.0, 2.0, 1.0], [2.0, 6.0, 4.0])
    assert found["pairs"] == [2.0, 3.0, 4.0] and found["median"] == 3.0 and found["low"] == 2.0 and found["high"] == 4.0


def test_peak_memory_counts_what_was_freed_meanwhile() -> None:
    def call() -> None:
        torch.ones(25_000_000)  # 100 MB, gone when the call is over

    assert 90e6 < peak(call, "cpu") < 130e6


def test_peak_memory_needs_a_place_to_read_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(relatives, "STATUS", tmp_path / "none")
    with pytest.raises(NextsetError, match="run on Linux"):
        peak(lambda: None, "cpu")


@pytest.mark.usefixtures("here")
def test_every_column_is_filled() -> None:
    result = measure(NAMES, TINY, 1)
    assert list(result["arms"]) == NAMES and result["ratios_of"] == "cpu" and result["tokens"] == 139
    for name, row in result["arms"].items():
        trained = name not in ("hmar refined", "m_var recomputed")
        assert row["parameters"] > 0 and row["generate"]["wall"] > 0 and row["generate_memory"] >= 0
        assert ("train" in row) == ("train_memory" in row) == trained
        if name not in BASES:
            for base in BASES:
                times = {"train", "generate"} if trained else {"generate"}
                assert times <= set(row["against"][base]) <= set(RATIOS)


@pytest.mark.usefixtures("here")
def test_the_command_files_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "relatives.json"
    main(
        ["--sizes", "680", "--only", "hmar", "--depth", "1", "--width", "64", "--vocabulary", "16", "--runs", "1",
         "--out", str(out)]
    )  # fmt: skip
    filed = json.loads(out.read_text())
    assert [list(size["arms"]) for size in filed["sizes"]] == [[*BASES, *ARMS["hmar"]]]
    assert filed["published"]["hmar"]["train"] == 2.5 and filed["machine"]["command"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="no CUDA device"):
        main(["--device", "cuda", "--out", str(tmp_path / "none.json")])
    assert not list(tmp_path.iterdir())
