"""Schedules against the authors' numbers (where the parity cases are at hand) and at their corners."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from nextset.core.errors import NextsetError
from nextset.systems.var.progressive import newest_weight, progressive_stage
from nextset.training.schedules import KINDS, iteration, lr_ratio, weight_decay

PARITY = Path(os.environ.get("NEXTSET_PARITY", Path(__file__).parents[3] / "shared" / "parity"))
CASES = sorted(
    path.parent for path in PARITY.glob("var/*/config.json") if json.loads(path.read_text())["kind"] == "schedule"
)


@pytest.mark.skipif(not CASES, reason=f"no schedule cases under {PARITY}; set NEXTSET_PARITY")
@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_authors_numbers(case):
    # Sheet `var`, Training. Schedules of other systems are other things under the same word.
    call, data = json.loads((case / "config.json").read_text())["call"], load_file(case / "data.safetensors")
    steps = data["inputs.it"].tolist()

    def same(name, values):
        expected = data[f"outputs.{name}"]
        torch.testing.assert_close(torch.tensor(values, dtype=expected.dtype), expected, rtol=1e-9, atol=1e-12)

    for kind in call["kinds"]:
        ratios = [lr_ratio(kind, it, call["wp_it"], call["max_it"], call["wp0"], call["wpe"]) for it in steps]
        same(f"lr_{kind}", [call["peak_lr"] * ratio for ratio in ratios])
    same("wd", [weight_decay(it, call["max_it"], call["wd"], call["wd_end"]) for it in steps])
    progress = (call["max_it"], call["wp_it"], call["pg"], call["pg0"], call["K"])
    stages = [progressive_stage(it, *progress) for it in steps]
    same("prog_si", [stage for stage, _ in stages])
    same("prog_wp", [newest_weight(within, call["prog_wp_it"]) for _, within in stages])


@given(st.sampled_from([*KINDS, "lin0.4"]), st.integers(2, 500), st.data())
def test_ratios_stay_in_their_bounds_and_end_at_the_end(kind, total, data):
    warmup = data.draw(st.integers(0, total - 1))
    it = data.draw(st.integers(0, total - 1))
    assert 0.005 <= lr_ratio(kind, it, warmup, total, 0.005, 0.01) <= 1.0
    if kind != "constant" and warmup < total - 1:
        assert lr_ratio(kind, total - 1, warmup, total, 0.005, 0.01) == pytest.approx(0.01, abs=1e-12)
        assert lr_ratio(kind, 10 * total, warmup, total, 0.005, 0.01) == pytest.approx(0.01, abs=1e-12)


@given(st.integers(2, 12), st.integers(1, 3000), st.floats(0.05, 1.0), st.data())
def test_stages_count_their_iterations(scales, total, fraction, data):
    first = data.draw(st.integers(0, scales - 1))
    warmup = data.draw(st.floats(0, fraction * total * 0.9))
    before, count = None, 0
    for it in range(total):
        stage, within = progressive_stage(it, total, warmup, fraction, first, scales)
        count = count + 1 if stage == before else 1
        before = stage
        assert within == (count if stage > first else float("inf"))


@pytest.mark.parametrize("kind", ["lin2", "linear", "cosine", "", "lin-0.1", "linnan"])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(NextsetError, match="must be one of"):
        lr_ratio(kind, 0, 0, 10)


def test_progress_in_time():
    assert iteration(7, 100, 10, elapsed=50, budget=100) == 7  # warm-up counts steps
    assert iteration(20, 101, 10, elapsed=50, budget=100) == 50
    assert iteration(80, 101, 10, elapsed=50, budget=100) == 80  # steps that are ahead of time count
    assert iteration(20, 101, 10, elapsed=500, budget=100) == 100
    assert iteration(20, 101, 10) == 20
