"""Rows: entries x branches, branch after branch, and structures of tensors."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.core.rows import Branch, expand, fold, map_rows, rows_of


class Pair(NamedTuple):
    a: torch.Tensor
    b: tuple


@dataclasses.dataclass(frozen=True)
class Record:
    x: torch.Tensor
    name: str


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4))
def test_a_row_is_branch_times_entries_plus_entry(branches, entries):
    x = torch.arange(entries * 2).view(entries, 2)
    rows = expand(x, branches)
    assert rows.shape == (branches * entries, 2)
    for b in range(branches):
        for i in range(entries):
            assert torch.equal(rows[b * entries + i], x[i])
    assert torch.equal(fold(rows, branches), x.expand(branches, -1, -1))
    assert torch.equal(rows[rows_of([branches - 1], entries, "cpu")], x)
    assert rows_of(list(range(branches)), entries, "cpu").tolist() == list(range(branches * entries))


def test_one_branch_is_not_copied():
    x = torch.zeros(3, 2)
    assert expand(x, 1) is x


def test_map_rows_reaches_every_tensor_and_keeps_types():
    t = torch.arange(4)
    tree = {"pair": Pair(t, (t, None)), "list": [t, "word", 3], "record": Record(t, "n"), "type": Record}
    out = map_rows(lambda x: x[:2], tree)
    assert isinstance(out["pair"], Pair) and isinstance(out["pair"].b, tuple) and isinstance(out["record"], Record)
    found: list[torch.Tensor] = []
    map_rows(lambda x: found.append(x) or x, out)
    assert len(found) == 4 and all(x.tolist() == [0, 1] for x in found)
    assert (
        out["list"][1:] == ["word", 3]
        and out["pair"].b[1] is None
        and out["record"].name == "n"
        and out["type"] is Record
    )
    assert t.tolist() == [0, 1, 2, 3]


def test_a_branch_reads_its_own_memory_unless_told():
    assert Branch("a", None).reads == "a"
    assert Branch("a", None, memory="b").reads == "b"
