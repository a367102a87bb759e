"""`nextset train` as a person starts it several times: under torchrun, and under accelerate launch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nextset.hub import pretrained
from nextset.hub.workshop import train
from nextset.training import checkpoints, metrics
from nextset.training.recipes import load_recipe

from ..tiny import tiny_tokenizer

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
# What is given beside the number of processes is what accelerate would otherwise warn of.
ACCELERATE = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no"),
    *("--dynamo_backend", "no", "--num_processes"),
]
FAST = [
    *("steps=4", "warmup=1", "schedule=constant", "batch=6", "dtype=float32", "threads=1"),
    *("log_every=1", "sample_every=4", "save_every=2"),
]
TOKENIZER = [
    *("var-folder-tokenizer", "data.size=16", "model.vocabulary=32", "model.sides=[1,2]"),
    *("model.autoencoder.channels=8", "model.autoencoder.latent=8", "model.autoencoder.groups=4", *FAST),
]
GENERATOR = ["var-folder", "data.size=16", "model.depth=2", "model.width=32", "model.heads=2", *FAST]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(12) % 2, classes=np.array(["a", "b"]))
    return f"data.source={path}"


def launched(launcher: list[str], *arguments: object) -> str:
    """Everything that was said by a command that must succeed."""
    command = [*launcher, "-m", "nextset", "train", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def same(several: Path, one: Path) -> None:
    for a, b in zip(metrics.read(one), metrics.read(several), strict=True):
        for name in a.keys() - {"elapsed", "images_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-6), name


def test_torchrun(tmp_path, pictures):
    """Two processes are one in the end; what is said and written comes once."""
    folder = tmp_path / "two"
    said = launched([*TORCHRUN, "2"], *TOKENIZER, pictures, "-o", folder)
    assert "2 processes (ddp), 3 rows each" in said
    assert all(said.count(line) == 1 for line in ("training var-folder", "step 4/4", "done: 4", "wrote "))
    assert [path.name for path in (folder / "samples").iterdir()] == ["step-000004.png"]
    train(load_recipe(TOKENIZER[0], [*TOKENIZER[1:], pictures]), tmp_path / "one", console=Console(quiet=True))
    same(folder, tmp_path / "one")
    assert [path.name for path in (folder / "model").iterdir()] == [
        path.name for path in (tmp_path / "one" / "model").iterdir()
    ]


@pytest.mark.skipif(not importlib.util.find_spec("accelerate"), reason="accelerate is not installed")
def test_accelerate(tmp_path, pictures):
    """Two processes with FSDP, by accelerate's own option; then one goes on. Codes are made once."""
    tokenizer = pretrained.save(tmp_path / "tokenizer", tiny_tokenizer())
    changes = [*GENERATOR[1:], pictures, f"data.tokenizer={tokenizer}", "checkpoint=sharded"]
    folder, silent = tmp_path / "two", Console(quiet=True)
    said = launched([*ACCELERATE, "2", "--use_fsdp"], GENERATOR[0], *changes, "steps=2", "-o", folder)
    assert "2 processes (fsdp), 3 rows each" in said and said.count("tokenizing 12 pictures") == 1
    assert len(list(checkpoints.load(folder).path.glob("shard-*"))) == 2
    train(load_recipe(GENERATOR[0], changes), folder, resume=True, console=silent)
    train(load_recipe(GENERATOR[0], changes), tmp_path / "one", console=silent)
    same(folder, tmp_path / "one")
