"""Killed at any moment, resumed, and in the end the same weights; a full disk takes nothing away."""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.training import checkpoints, metrics
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer

from .toys import Data, Line, Players

KILLS = 8
TIMES = ("elapsed", "images_per_second")


class Slow(Data):
    def __call__(self, i: int) -> dict[str, Tensor]:
        time.sleep(0.001)
        return super().__call__(i)


def train(model: torch.nn.Module, folder: Path, steps: int, keep: int, console: Console | None = None) -> None:
    """Save every third step, so that many a kill falls into a save. Goes on where there is something to go on with."""
    values = {"steps": steps, "batch": 8, "warmup": 2, "ema": 0.9, "clip": 0.5, "threads": 1, "sample_every": 0}
    config = TrainConfig.from_dict({**values, "lr": 1e-2, "log_every": 2, "save_every": 3, "keep": keep})
    trainer = Trainer(model, Slow(), config, folder, console=console or Console(quiet=True))
    if checkpoints.latest(folder):
        trainer.resume()
    trainer.run()


def start(model: torch.nn.Module, folder: Path, steps: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(model, folder, steps, keep=2)
        code = 0
    finally:
        os._exit(code)


def tensors(checkpoint: checkpoints.Checkpoint) -> dict[str, Tensor]:
    groups = checkpoint.tensors.items()
    return {f"{part}/{name}": value for part, group in groups for name, value in group.items()}


@pytest.mark.parametrize("make", [Line, Players])
def test_killed_at_random_moments(tmp_path, make):
    """Every checkpoint that a kill leaves is, bit by bit, that of the undisturbed run; so are the end and the log.

    `nextset bench crash-test` does it with whole models, and more often.
    """
    steps, draws = 60, random.Random(0)
    train(make(), tmp_path / "whole", steps, keep=0)
    folder, killed, step, complete = tmp_path / "run", 0, 0, False
    while not complete:
        child = start(make(), folder, steps)
        if killed < KILLS:
            time.sleep(draws.uniform(0.0, 0.12))
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        complete = code == 0
        killed += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL)
        if checkpoints.latest(folder):
            found = checkpoints.load(folder)
            expected = checkpoints.load(tmp_path / "whole" / found.path.name)
            assert found.step >= step, "a later checkpoint was lost"
            step = found.step
            pairs = tensors(found), tensors(expected)
            assert pairs[0].keys() == pairs[1].keys()
            assert all(torch.equal(value, pairs[1][name]) for name, value in pairs[0].items())
    assert killed >= KILLS / 2 and step == steps
    rows = [
        [{name: value for name, value in row.items() if name not in TIMES} for row in metrics.read(place)]
        for place in (folder, tmp_path / "whole")
    ]
    assert rows[0] == rows[1]
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")], "litter"


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of 256 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk, tmp_path):
    """The disk fills up in the middle of a run and gets room again: nothing is missing in the end."""
    folder, ballast, told = small_disk / "run", small_disk / "ballast", io.StringIO()

    class Filling(Slow):
        def __call__(self, i: int) -> dict[str, Tensor]:
            if i == 6:
                with ballast.open("wb", buffering=0) as handle, pytest.raises(OSError, match="No space"):
                    while True:
                        handle.write(bytes(512))
            if i == 20:
                assert checkpoints.load(folder).step == 6, "the newest that was written is intact"
                ballast.unlink()
            return super().__call__(i)

    values = {"steps": 30, "batch": 8, "warmup": 2, "threads": 1, "log_every": 1, "save_every": 3, "sample_every": 4}
    config = TrainConfig.from_dict(values)
    Trainer(
        Line(), Filling(), config, folder, console=Console(file=told, width=200),
        sample=lambda model, step: torch.zeros(3, 2, 2), write_grid=lambda path, images: path.write_bytes(bytes(5000)),
    ).run()  # fmt: skip
    Trainer(Line(), Data(), config, tmp_path / "whole", console=Console(quiet=True)).run()
    expected, found = tensors(checkpoints.load(tmp_path / "whole")), tensors(checkpoints.load(folder))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert [row["step"] for row in metrics.read(folder)] == list(range(1, 31))
    warnings = [line for line in told.getvalue().splitlines() if line.startswith("warning:")]
    assert any("step-00000009" in line and "disk is full" in line for line in warnings), warnings
    assert any("metrics.jsonl" in line for line in warnings) and any("samples" in line for line in warnings)


def test_a_disk_that_stays_full_ends_in_one_clear_error(small_disk):
    class Filling(Slow):
        def __call__(self, i: int) -> dict[str, Tensor]:
            if i == 6:
                with (small_disk / "ballast").open("wb", buffering=0) as handle, pytest.raises(OSError):
                    while True:
                        handle.write(bytes(512))
            return super().__call__(i)

    values = {"steps": 12, "batch": 8, "warmup": 2, "threads": 1, "log_every": 1, "save_every": 3, "sample_every": 0}
    config = TrainConfig.from_dict(values)
    with pytest.raises(NextsetError, match=r"step-00000012.*the disk is full"):
        Trainer(Line(), Filling(), config, small_disk / "run", console=Console(quiet=True)).run()
    assert checkpoints.load(small_disk / "run").step == 6
