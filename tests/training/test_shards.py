"""Checkpoints that each process writes a part of: the same guarantees as for whole ones."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from nextset.core import processes
from nextset.core.errors import NextsetError
from nextset.training import checkpoints, shards
from nextset.training.parallel import Shards
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer

from .test_checkpoints import die_at
from .together import team, together
from .toys import Data, Pictures


def save(folder: Path, step: int, keep: int = 3) -> Path:
    """What two processes have: a tensor that is cut between them, and one that both have."""
    model = nn.Linear(2, 3, bias=False)
    nn.init.constant_(model.weight, float(step))
    weights = Shards(model)
    weights.release()
    tensors = {"model": {**model.state_dict(), "n": torch.tensor(float(step))}}
    return checkpoints.save(folder, step, tensors, {"step": step}, keep, sharded=True)


def test_round_trip_of_one(tmp_path, recwarn):
    tied = torch.arange(6.0).view(2, 3)
    pictures = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tensors = {
        "model": {"a": tied, "b": tied, "c": tied.T, "n": torch.tensor(3), "on": torch.tensor([True, False])},
        "optimizer-main": {"x/exp_avg": pictures, "x/step": torch.tensor(2.0), "half": torch.ones(2).bfloat16()},
        "empty": {},
    }
    path = checkpoints.save(tmp_path, 7, tensors, {"x": 1}, sharded=True)
    found = checkpoints.load(tmp_path)
    assert (found.step, found.state, found.path) == (7, {"x": 1}, path) and found.tensors["empty"] == {}
    for group, named in tensors.items():
        assert found.tensors[group].keys() == named.keys()
        for name, value in named.items():
            assert found.tensors[group][name].dtype == value.dtype and torch.equal(found.tensors[group][name], value)
    assert not recwarn.list


def test_each_writes_its_part_and_reads_no_more(tmp_path):
    def work(rank: int):
        path = save(tmp_path / "run", 5)
        model = nn.Linear(2, 3, bias=False)
        weights = Shards(model)
        places = {}

        def place(name, shape, dtype):
            places[name] = weights.place(name, shape, dtype)
            return places[name]

        loaded = checkpoints.load(path, place)
        weights.load({"weight": loaded.tensors["model"]["weight"]})
        part = loaded.tensors["model"]["weight"]
        return path.name, part.to_local().shape[0], part.full_tensor().tolist(), float(loaded.tensors["model"]["n"])

    assert together(2, work) == [("step-00000005", rows, [[5.0, 5.0]] * 3, 5.0) for rows in (2, 1)]
    names = sorted(path.name for path in (tmp_path / "run" / "step-00000005").iterdir())
    assert names[:2] == ["manifest.json", "shard-00001-model-00001-of-00001.safetensors"] and len(names) == 4
    assert torch.equal(checkpoints.load(tmp_path / "run").tensors["model"]["weight"], torch.full((3, 2), 5.0))


@pytest.mark.parametrize(("victim", "moments"), [(0, (2, 4, 9, 13, 17)), (1, (1,))])
def test_killed_while_writing(tmp_path, monkeypatch, victim, moments):
    """Whoever dies, and when: the newest checkpoint is the old one or the new one, whole."""
    for moment in moments:
        folder = tmp_path / str(moment)

        def work(rank: int, moment=moment, folder=folder):
            save(folder, 1)
            if rank == victim:
                die_at(moment, monkeypatch)
            save(folder, 2, keep=1)

        with team(2, work) as started:
            codes = started.wait()
        assert codes[victim] == 9 and codes[1 - victim] == 1, codes
        checkpoints.recover(folder)
        found = checkpoints.load(folder)
        assert found.step in (1, 2) and torch.equal(
            found.tensors["model"]["weight"], torch.full((3, 2), found.step * 1.0)
        )
        assert found.step == 1 or moment > 13
        assert not list(folder.glob(".step*"))


def test_one_disk_is_full_and_all_go_on(tmp_path):
    def work(rank: int):
        told, full, sync = io.StringIO(), [rank == 1], os.fsync

        def fsync(descriptor: int) -> None:
            if full and full.pop():
                raise OSError(28, "No space left on device")
            sync(descriptor)

        os.fsync = fsync
        values = {"steps": 8, "batch": 12, "warmup": 2, "threads": 1, "save_every": 4, "sample_every": 0}
        config = TrainConfig.from_dict({**values, "parallel": "fsdp", "checkpoint": "sharded"})
        console = Console(file=told, width=200)
        step = Trainer(Pictures(), Data(12), config, tmp_path / "run", console=console).run().step
        return step, [line for line in told.getvalue().splitlines() if "warning" in line]

    first, second = together(2, work)
    assert first[0] == second[0] == 8 and second[1] == []
    assert "step-00000004 was not written: No space left on device (process 1); the older" in first[1][0]
    assert [path.name for path in checkpoints.complete(tmp_path / "run")] == ["step-00000008"]


def test_what_cannot_be_is_refused(tmp_path, monkeypatch):
    def work(rank: int):
        (tmp_path / str(rank)).mkdir()
        os.chdir(tmp_path / str(rank))  # as on two machines
        with pytest.raises(NextsetError) as caught:
            save(Path("run"), 1)
        return str(caught.value), list(Path("run").glob("*")) if rank == 0 else []

    for text, left in together(2, work):
        assert "1 of 2 processes do not see run/.step-00000001.part" in text and "checkpoint=whole" in text
        assert left == []
    monkeypatch.delattr("torch.distributed.checkpoint.HuggingFaceStorageWriter")
    with pytest.raises(NextsetError, match=r"cannot write safetensors in shards; .* set checkpoint=whole"):
        shards.write(tmp_path, {})
    assert processes.count() == 1
