"""Checkpoints are whole or absent: killed at every moment of a save, something complete is there to resume from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.training import checkpoints


def save(folder: Path, step: int, keep: int = 3) -> Path:
    return checkpoints.save(folder, step, {"model": {"w": torch.full((3,), float(step))}}, {"step": step}, keep)


def test_round_trip(tmp_path):
    tied = torch.arange(6.0).view(2, 3)
    tensors = {"model": {"a": tied, "b": tied, "c": tied.T, "n": torch.tensor(3)}, "empty": {}}
    path = checkpoints.save(tmp_path, 7, tensors, {"x": [1, None, "y"]})
    loaded = checkpoints.load(tmp_path)
    assert (loaded.step, loaded.state, loaded.path) == (7, {"x": [1, None, "y"]}, path)
    assert all(torch.equal(loaded.tensors["model"][k], v) for k, v in tensors["model"].items())
    assert loaded.tensors["empty"] == {}
    assert checkpoints.load(path).step == 7


def test_keep_and_latest(tmp_path):
    for step in (1, 2, 10, 11):
        save(tmp_path, step, keep=2)
    assert [p.name for p in checkpoints.complete(tmp_path)] == ["step-00000010", "step-00000011"]
    assert (tmp_path / "latest").read_text() == "step-00000011\n"
    (tmp_path / "latest").unlink()
    assert checkpoints.latest(tmp_path) == tmp_path / "step-00000011"
    save(tmp_path, 10, keep=1)  # a run that was resumed from an older checkpoint
    assert checkpoints.latest(tmp_path) == tmp_path / "step-00000010"
    assert (tmp_path / "step-00000011").exists()


def test_nothing_there(tmp_path):
    assert checkpoints.latest(tmp_path / "no") is None
    with pytest.raises(NextsetError, match="holds no checkpoint"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_found_and_the_remedy_named(tmp_path, name, harm):
    save(tmp_path, 1)
    file = save(tmp_path, 2) / name
    content = bytearray(file.read_bytes())
    if harm == "remove":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content if harm == "flip" else content[:-1])
    with pytest.raises(NextsetError, match=r"step-00000002/.* is (damaged|missing); resume from .*step-00000001"):
        checkpoints.load(tmp_path)


def test_a_full_disk_leaves_the_older_ones(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_json", full)
    with pytest.raises(NextsetError, match="step-00000002 was not written: No space left on device"):
        save(tmp_path, 2)
    assert checkpoints.load(tmp_path).step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000001"]


def die_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End this process, as a power cut would, at the given one of the calls that change the disk."""
    calls = 0

    def fatal(original):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                os._exit(9)
            return original(*args, **kwargs)

        return wrapped

    changes = ((os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "fsync"), (Path, "rename"), (Path, "mkdir"))
    for place, name in changes:
        monkeypatch.setattr(place, name, fatal(getattr(place, name)))


@pytest.mark.parametrize("step", [2, 3], ids=["a-new-one", "one-that-is-there"])
def test_killed_at_every_moment(tmp_path, monkeypatch, step):
    survived = False
    call = 0
    while not survived:
        call += 1
        folder = tmp_path / str(call)
        save(folder, 1)
        if step == 3:
            save(folder, 3)
            (folder / "latest").write_text("step-00000001\n")
        child = os.fork()
        if child == 0:
            die_at(call, monkeypatch)
            save(folder, step, keep=1)
            os._exit(0)
        survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        checkpoints.recover(folder)
        loaded = checkpoints.load(folder)
        assert loaded.step in (1, step) and float(loaded.tensors["model"]["w"][0]) == loaded.step
        assert checkpoints.load(save(folder, 4)).step == 4
        assert not list(folder.glob(".step*"))
    assert call > 8
