"""What a run keeps and holds is counted to the byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nextset.core.noise import Noise
from nextset.engine.footprint import Alive, footprint
from tests.battery.instances import instance


def test_bytes_that_are_alive() -> None:
    x = torch.zeros(1000)
    with Alive() as alive:
        x.add_(1)
        view = x[2:]
        assert alive.now == 0, "neither in place nor a view"
        y = view + 1
        assert alive.now == 3992
        part = y[:10]
        del y
        assert alive.now == 3992, "a part keeps the whole"
        del part
        z = x.sum(0, keepdim=True)
        assert alive.now == 4 and alive.peak == 3992
        del z
    assert alive.now == 0


@pytest.mark.parametrize("slug", ["var", "mvar"])
def test_a_run_keeps_what_its_policy_keeps(slug: str) -> None:
    it = instance(slug)
    one, two = (footprint(lambda n=n: it.job(torch.arange(n)), Noise(0)) for n in (2, 4))  # type: ignore[misc]
    config: Any = it.model.config
    positions = it.job(torch.arange(1)).plan.positions
    rows = 2 * 2 * config.depth * positions * config.width * 4  # keys and values of two branches
    assert (one.kept, two.kept) == ((2 * rows, 4 * rows) if slug == "var" else (0, 0))
    assert one.kept < one.peak < two.peak


def test_states_are_kept_too_and_a_count_is_the_same_again() -> None:
    it = instance("m_var")
    counts = {footprint(lambda: it.job(torch.arange(3)), Noise(seed)) for seed in (0, 1)}
    assert len(counts) == 1 and counts.pop().kept > 0
