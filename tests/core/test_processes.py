"""What processes do together: numbers are joined over them, and one acts for all."""

from __future__ import annotations

import os

import pytest
import torch

from nextset.core import processes
from nextset.core.errors import NextsetError

from ..training.together import together


def test_one_alone():
    x = torch.arange(6.0).view(3, 2)
    assert (processes.count(), processes.rank()) == (1, 0)
    processes.join()  # without a launcher there is nobody to meet
    assert processes.total(x) is x and processes.mean(x) is x and processes.rows(x) is x
    assert processes.most(1, 2.5) == [1, 2.5] and processes.unlike_first("x") == 0
    assert processes.by_first(lambda: "done") == "done"
    processes.average([x])
    processes.follow_first([x])
    assert torch.equal(x, torch.arange(6.0).view(3, 2))


def test_numbers_of_three():
    def work(rank: int):
        x = torch.full((2, 2), float(rank))
        mixed = [torch.full((3,), float(rank)), torch.tensor(rank), torch.full((2, 3, 2, 2), float(rank))]
        mixed[2] = mixed[2].to(memory_format=torch.channels_last)
        averaged = [mixed[0].clone(), mixed[2].clone()]
        processes.average(averaged)
        processes.follow_first(mixed)
        return {
            "place": (processes.rank(), processes.count()),
            "total": processes.total(x).tolist(),
            "mean": processes.mean(x).tolist(),
            "kept": x.tolist(),
            "rows": processes.rows(x.T)[:, 0].tolist(),
            "most": processes.most(rank, -rank),
            "unlike": processes.unlike_first({"a": [min(rank, 1)]}),
            "average": [t.unique().tolist() for t in averaged],
            "first": [t.unique().tolist() for t in mixed],
        }

    for rank, found in enumerate(together(3, work)):
        assert found["place"] == (rank, 3)
        assert found["total"] == [[3, 3], [3, 3]] and found["mean"] == [[1, 1], [1, 1]]
        assert found["kept"] == [[rank, rank], [rank, rank]]
        assert found["rows"] == [0, 0, 1, 1, 2, 2] and found["most"] == [2, 0]
        assert found["unlike"] == 2
        assert found["average"] == [[1], [1]] and found["first"] == [[0], [0], [0]]


def test_one_acts_for_all(tmp_path):
    def work(rank: int):
        path = processes.by_first(lambda: (tmp_path / "made").mkdir() or tmp_path / f"by-{rank}")
        try:
            processes.by_first(lambda: (_ for _ in ()).throw(NextsetError("the disk is full; free some space")))
        except NextsetError as error:
            return path.name, str(error)

    assert together(2, work) == [("by-0", "the disk is full; free some space")] * 2


def test_a_failure_of_the_first_ends_all():
    def work(rank: int):
        with pytest.raises((NextsetError, ZeroDivisionError)) as caught:
            processes.by_first(lambda: 1 // 0)
        return type(caught.value).__name__

    assert together(2, work) == ["ZeroDivisionError", "NextsetError"]


def test_messages_are_of_bounded_size(monkeypatch):
    monkeypatch.setattr(processes, "_BUCKET", 10)
    tensors = [torch.zeros(n) for n in (4, 6, 1, 30, 2)] + [torch.zeros(3, dtype=torch.int64)]
    sizes = [[t.numel() for t in bucket] for bucket in processes.buckets(tensors)]
    assert sizes == [[4, 6], [1], [30], [2], [3]]


def test_a_gpu_for_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "1")
    assert processes.device() == torch.device("cuda", 1)
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "2")
    with pytest.raises(NextsetError, match="2 GPUs, but process 3"):
        processes.device()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes.device().type == "cpu"
