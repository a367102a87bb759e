"""Ways that must lead to the same place, and a network for which they do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.core.protocols import Job
from nextset.engine.agreement import stepped_against_packed, stored_against_recomputed
from tests.battery.common import Tap
from tests.battery.instances import instance

TWO = torch.arange(2)


class Drifting(Tap):
    """Hidden states that depend on how many forwards were made."""

    calls = 0

    def trunk(self, x: Tensor, cond: Any, ctx: Any) -> Any:
        self.calls += 1
        taps = self.network.trunk(x, cond, ctx)
        turned = tuple(tap.roll(self.calls, -1) for tap in (taps if isinstance(taps, tuple) else (taps,)))
        return turned


def test_steps_memory_and_one_forward_agree() -> None:
    for kind in ("nar", "llamagen"):
        it = instance(kind)
        assert stepped_against_packed(lambda it=it: it.job(TWO), Noise(0)) < 1e-4  # type: ignore[misc]
        assert stored_against_recomputed(lambda it=it: it.job(TWO), Noise(0)) == 0  # type: ignore[misc]


def test_a_network_that_counts_its_forwards_is_found_out() -> None:
    it = instance("nar")
    network = Drifting(it.model)

    def make() -> Job:
        return dataclasses.replace(it.job(TWO), network=network)

    assert stepped_against_packed(make, Noise(0)) > 0.1
    assert stored_against_recomputed(make, Noise(0)) > 0
