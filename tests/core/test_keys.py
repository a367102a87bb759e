"""Renaming by table and loading with a report."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.keys import KeyTable, load_into

TABLE = KeyTable(rules=((r"fc(\d)\.(.*)", r"layers.\1.\2"), (r"fc.*", "never")), drop=(r"mask", r".*\.buffer"))


def test_first_full_match_wins_and_buffers_are_dropped():
    t = torch.zeros(1)
    names = TABLE.rename(
        {"fc1.weight": t, "fc12": t, "other": t, "xfc1.weight": t, "mask": t, "fc1.buffer": t, "masks": t}
    )
    assert list(names) == ["layers.1.weight", "never", "other", "xfc1.weight", "masks"]


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3))


def test_weights_are_copied_and_what_is_left_over_is_told():
    m = model()
    weight = torch.arange(6.0).view(3, 2)
    state = {"0.weight": weight.half(), "0.bias": torch.ones(1, 3, 1), "extra": torch.zeros(1)}
    with pytest.warns(NextsetWarning, match="the file has 1 weights that the model lacks, first 'extra'"):
        load_into(m, state, what="the file")
    assert torch.equal(m[0].weight, weight) and m[0].weight.dtype == torch.float32, "in the module's own dtype"
    assert m[0].bias.tolist() == [1, 1, 1], "axes of length 1 do not matter"


def test_missing_weights_are_an_error_unless_optional():
    with pytest.raises(NextsetError, match=r"the file lacks 1 of 2 weights, first '0\.bias'"):
        load_into(model(), {"0.weight": torch.zeros(3, 2)}, what="the file")
    m = model()
    before = m[0].bias.clone()
    load_into(m, {"0.weight": torch.zeros(3, 2)}, what="the file", optional=(r".*\.bias",))
    assert torch.equal(m[0].bias, before)


@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 2), (6,)])
def test_other_shapes_are_an_error_and_nothing_is_loaded(shape):
    m = model()
    before = {n: t.clone() for n, t in m.state_dict().items()}
    with pytest.raises(NextsetError, match=r"0\.weight has shape .* needs \(3, 2\)"):
        load_into(m, {"0.bias": torch.ones(3), "0.weight": torch.zeros(shape)}, what="the file")
    assert all(torch.equal(t, before[n]) for n, t in m.state_dict().items())
