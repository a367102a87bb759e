"""Several processes are one: the same losses, the same weights, checkpoints for any number, nothing lost in a crash."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.update import Update
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.nn.transformer import DropPath
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig
from nextset.tokenizers.objective import Objective, ObjectiveConfig
from nextset.training import checkpoints, metrics
from nextset.training.batches import Batches
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer

from ..tiny import tiny_model
from .together import team, together
from .toys import Data, Line, Pictures, Players

SILENT = Console(quiet=True)
NUMBERS = ("loss", "gradient_norm")


class Plain(Line):
    """Without dropout, which differs between processes, and with a norm that does not mix the rows of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.GELU())
        self.outer = nn.Linear(7, 1)


class Counting(Plain):
    """Has a statistic of the batch in a buffer, writes into a weight, and has one that is sometimes not used."""

    def __init__(self) -> None:
        super().__init__()
        self.seldom = nn.Linear(1, 5)
        self.register_buffer("scale", torch.ones(2))

    def updates(self, batch, step, noise):
        if step % 3 == 1:
            self.outer.weight.data[0, 0] = 0.5
            self.scale.mul_(0.9)
        loss = (self.outer(self.inner(batch["x"])) - batch["y"]).square().mean() * self.scale.mean()
        if step % 2:
            loss = loss + self.seldom(torch.ones(1)).square().mean()
        yield Update("line", loss, {"scale": self.scale.mean()})


class Everything(nn.Module):
    """All of them, for tests that need many processes only once: three groups of parameters, waiting gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Counting(), Players(), Pictures()])

    def parameter_groups(self) -> dict[str, nn.Module]:
        counting, players, pictures = self.parts
        return {"main": counting, **players.parameter_groups(), "pictures": pictures}

    def updates(self, batch, step, noise):
        for part in self.parts:
            for update in part.updates(batch, step, noise):
                yield dataclasses.replace(update, group="pictures") if part is self.parts[2] else update


def config(**changes) -> TrainConfig:
    values = {"steps": 12, "batch": 12, "lr": 1e-2, "warmup": 2, "ema": 0.9, "log_every": 1, "sample_every": 0}
    return TrainConfig.from_dict({"threads": 1, **values, **changes})


def run(model: nn.Module, folder: Path, resume: bool = False, data=None, **changes) -> Trainer:
    t = Trainer(model, data or Data(12), config(**changes), folder, console=SILENT)
    if resume:
        t.resume()
    t.run()
    return t


def numbers(folder: Path) -> list[float]:
    return [value for row in metrics.read(folder) for name, value in row.items() if name.split("/")[-1] in NUMBERS]


def tensors(folder: Path) -> dict[str, Tensor]:
    parts = checkpoints.load(folder).tensors
    return {f"{part}/{name}": value for part, group in parts.items() for name, value in group.items()}


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}")


CHANGES: dict[str, dict] = {"plain": {}, "accumulated": {"accumulate": 2}, "clipped": {"clip": 0.1, "ema": 0.0}}


@pytest.mark.parametrize(("parallel", "count"), [("ddp", 2), ("fsdp", 3)])
@pytest.mark.parametrize("make", [Plain, Players, Pictures, Counting])
def test_several_are_one(tmp_path, make, parallel, count):
    def work(rank: int) -> None:
        for name, changes in CHANGES.items():
            run(make(), tmp_path / "several" / name, parallel=parallel, steps=8, **changes)

    together(count, work)
    for name, changes in CHANGES.items():
        one, several = tmp_path / "one" / name, tmp_path / "several" / name
        run(make(), one, steps=8, **changes)
        assert numbers(several) == pytest.approx(numbers(one), rel=1e-4, abs=1e-6), name
        close(tensors(several), tensors(one))


@pytest.mark.parametrize(
    ("parallel", "kinds"),
    [
        ("ddp", ("whole", "whole", "whole")),
        ("fsdp", ("whole", "whole", "whole")),
        ("fsdp", ("sharded", "sharded", "sharded")),
        ("fsdp", ("sharded", "whole", "sharded")),
        ("ddp", ("whole", "sharded", "whole")),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_checkpoint_of_two_serves_one_and_three(tmp_path, parallel, kinds):
    run(Everything(), tmp_path / "whole", steps=12)
    folder = tmp_path / "run"
    for until, count, kind in zip((5, 8, 12), (2, 1, 3), kinds, strict=True):
        model = Everything()
        if until > 5:
            for parameter in model.parameters():  # only the checkpoint may matter
                nn.init.normal_(parameter)

        def work(rank: int, until=until, kind=kind, model=model):
            t = Trainer(model, Data(12), config(parallel=parallel, checkpoint=kind), folder, console=SILENT)
            if until > 5:
                t.resume()
            while t.step < until:
                t._one_step()
            before = t.save().name
            if until == 12:
                t.run()
            return before

        results = together(count, work) if count > 1 else [work(0)]
        assert results == [f"step-{until:08d}"] * count
        files = [path.name for path in (folder / results[0]).glob("*.safetensors")]
        assert len(files) == (count if kind == "sharded" else 6), files
        assert all(name.startswith("shard-") for name in files) == (kind == "sharded")
    close(tensors(folder), tensors(tmp_path / "whole"))


@pytest.mark.parametrize(("parallel", "kind"), [("ddp", "whole"), ("fsdp", "whole"), ("fsdp", "sharded")])
def test_resuming_with_as_many_is_the_same_run_bit_by_bit(tmp_path, parallel, kind):
    """Waiting gradients, which `Players` has at step 5, included."""
    one, two = tmp_path / "one", tmp_path / "two"
    values = {"parallel": parallel, "checkpoint": kind}

    def work(rank: int) -> None:
        run(Players(), one, save_every=5, keep=0, **values)
        model = Players()
        nn.init.zeros_(model.critic.weight)
        t = Trainer(model, Data(12), config(**values), two, console=SILENT)
        t.resume(one / "step-00000005")
        t.run()

    together(2, work)
    expected, found = tensors(one), tensors(two)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class Logged(Data):
    """Writes down who saw which sample in which batch, and is slow enough to be killed."""

    def __init__(self, log: Path, seconds: float = 0.002) -> None:
        super().__init__(12)
        self.log, self.seconds = log, seconds

    def __call__(self, i: int) -> dict[str, Tensor]:
        with self.log.open("a") as handle:
            handle.write(f"{i} {' '.join(map(str, self.order.indices(i).tolist()))}\n")
        time.sleep(self.seconds)
        return super().__call__(i)


def seen(folder: Path, tag: str) -> dict[int, list[int]]:
    """Batch -> samples, of all processes of a run."""
    found: dict[int, list[int]] = {}
    for path in sorted(folder.glob(f"{tag}-*.log")):
        for line in path.read_text().splitlines():
            i, *indices = map(int, line.split())
            found.setdefault(i, []).extend(indices)
    return found


@pytest.mark.parametrize(("parallel", "kind"), [("ddp", "whole"), ("fsdp", "sharded")])
def test_one_of_two_is_killed_and_three_go_on(tmp_path, parallel, kind):
    """64 samples in batches of 12: 32 steps are 6 whole epochs."""
    folder, values = tmp_path / "run", {"steps": 32, "save_every": 5, "parallel": parallel, "checkpoint": kind}
    with team(2, lambda r: run(Plain(), folder, data=Logged(tmp_path / f"two-{r}.log", 0.02), **values)) as started:
        deadline = time.monotonic() + 120
        while len(seen(tmp_path, "two")) < 13 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(started.ids[1], signal.SIGKILL)
        codes = started.wait(120)
        assert codes[1] == -signal.SIGKILL and codes[0] == 1, "the other one must not wait for ever"
    saved = checkpoints.load(folder)
    assert 10 <= saved.step < 32
    together(3, lambda r: run(Plain(), folder, resume=True, data=Logged(tmp_path / f"three-{r}.log"), **values).step)
    before, after = seen(tmp_path, "two"), seen(tmp_path, "three")
    assert sorted(after) == list(range(saved.step, 32))
    whole = {**{i: before[i] for i in range(saved.step)}, **after}
    plan = Batches(64, 12, 0, share=(0, 1))
    assert all(whole[i] == plan.indices(i).tolist() for i in range(32))
    sequence = [sample for i in range(32) for sample in whole[i]]
    for epoch in range(6):
        assert Counter(sequence[64 * epoch : 64 * epoch + 64]) == Counter(range(64))
    run(Plain(), tmp_path / "whole", steps=32)
    assert numbers(folder) == pytest.approx(numbers(tmp_path / "whole"), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_signal_to_one_ends_all(tmp_path, victim):
    folder = tmp_path / "run"
    with team(2, lambda r: run(Plain(), folder, steps=10**6, data=Logged(tmp_path / f"log-{r}.log"))) as started:
        deadline = time.monotonic() + 120
        while len(seen(tmp_path, "log")) < 10 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(started.ids[victim], signal.SIGTERM)
        assert started.wait(120) == [143, 143]
    assert checkpoints.load(folder).step == metrics.read(folder)[-1]["step"]


def test_only_the_first_writes_and_speaks(tmp_path):
    def work(rank: int):
        console, drawn, told = Console(file=io.StringIO(), width=200), [], []
        t = Trainer(
            Plain(), Data(12), config(steps=4, sample_every=2, parallel="fsdp"), tmp_path / "run", console=console,
            sample=lambda model, step: drawn.append(model.outer.weight.detach().clone()) or torch.zeros(3, 2, 2),
            write_grid=lambda path, images: path.write_bytes(b"x"), on_log=lambda step, values: told.append(step),
        )  # fmt: skip
        t.run()
        with t.averaged() as model:
            mean = model.state_dict()["outer.weight"]
        return console.file.getvalue(), len(drawn), told, [type(d) for d in drawn], mean

    first, second = together(2, work)
    assert "2 processes (fsdp), 6 rows each" in first[0] and second[0] == ""
    assert (first[1], second[1]) == (2, 0) and first[2] == [1, 2, 3, 4] and second[2] == []
    assert first[3] == [Tensor, Tensor] and torch.equal(first[4], second[4]) and type(first[4]) is Tensor
    assert torch.equal(first[4], checkpoints.load(tmp_path / "run").tensors["ema"]["outer.weight"])
    assert [row["step"] for row in metrics.read(tmp_path / "run")] == [1, 2, 3, 4]
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 2


def test_what_cannot_be_is_refused(tmp_path):
    def error(work) -> str:
        with pytest.raises(NextsetError) as caught:
            work()
        return str(caught.value)

    class Same(Data):
        def __init__(self) -> None:
            super().__init__(12)
            self.order = Batches(64, 12, 0, share=(0, 1))

    mixed = Plain()
    mixed.inner.bfloat16()

    def work(rank: int):
        return [
            error(lambda: Trainer(Plain(), Data(9), config(batch=9), tmp_path / "a", console=SILENT)),
            error(lambda: Batches(64, 9, 0).indices(0)),
            error(lambda: Trainer(Plain(), Data(12), config(parallel="none"), tmp_path / "a", console=SILENT)),
            error(lambda: run(Plain(), tmp_path / "a", data=Same())),
            error(lambda: Trainer(Plain(), Data(12), config(), tmp_path / "a", console=SILENT).resume()),
            error(lambda: Trainer(Plain(), Data(12), config(), tmp_path / "a", notes={"data": rank}, console=SILENT)),
            error(lambda: Trainer(mixed, Data(12), config(parallel="fsdp"), tmp_path / "a", console=SILENT)),
        ]

    for found in together(2, work):
        assert found[0] == found[1] and "2 processes must get equally many rows of it; choose 10" in found[0]
        assert "parallel is 'none', but 2 processes" in found[2]
        assert "a batch has 12 rows, but each of the 2 processes sees 6 of 12" in found[3]
        assert "holds no checkpoint" in found[4]
        assert "1 of 2 processes have another recipe or other data than the first" in found[5]
        assert "one dtype, but the model has bfloat16 and float32; choose ddp" in found[6]


def test_a_full_disk_is_said_by_the_first_and_survived_by_all(tmp_path, monkeypatch):
    original = checkpoints.save

    def save(folder, step, *args, **kwargs):
        if step < 12:
            raise NextsetError("the disk is full; free some space")
        return original(folder, step, *args, **kwargs)

    monkeypatch.setattr(checkpoints, "save", save)
    assert together(2, lambda rank: run(Plain(), tmp_path, save_every=4).step) == [12, 12]


# ---- whole models


def generator_run(folder: Path, **changes) -> None:
    model = tiny_model()
    codes = torch.randint(0, 32, (60, 30), generator=torch.Generator().manual_seed(0))
    order = Batches(60, 6, 0)

    def batch(i: int) -> dict[str, Tensor]:
        chosen = order.indices(i)
        return {"codes": codes[chosen], "labels": chosen % 10, "index": order.samples(i)}

    for module in model.modules():
        if isinstance(module, DropPath):
            module.p = 0.0
    Trainer(model, batch, config(steps=50, batch=6, lr=1e-3, save_every=0, **changes), folder, console=SILENT).run()


def tokenizer_run(folder: Path, dtype=torch.float64, goal: ObjectiveConfig | None = None, **changes) -> None:
    """With codes that are revived. In float32, rounding would decide between codes that are equally far."""
    torch.manual_seed(0)
    autoencoder = AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=8, groups=4, attention=False)
    model = MultiScaleVQ(MultiScaleVQConfig(autoencoder, vocabulary=32, sides=(1, 2, 4))).to(dtype)
    model.objective = Objective(goal or ObjectiveConfig(revive_every=9))
    model.usage.decay = 0.5  # codes die early
    pictures = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 - 1
    order = Batches(60, 6, 0)
    values = {"steps": 50, "batch": 6, "lr": 1e-3, "save_every": 0, **changes}
    Trainer(model, lambda i: {"images": pictures[order.indices(i)]}, config(**values), folder, console=SILENT).run()


@pytest.fixture(scope="module", params=[generator_run, tokenizer_run])
def fifty(request, tmp_path_factory):
    """How a whole model is trained, and what one process logs of it."""
    folder = tmp_path_factory.mktemp("one")
    request.param(folder)
    return request.param, metrics.read(folder)


@pytest.mark.parametrize(("count", "parallel"), [(2, "fsdp"), (3, "ddp")])
def test_fifty_steps_of_several_are_those_of_one(tmp_path, fifty, count, parallel):
    """All losses; and every other number: at first, or always where rounding does not grow."""
    train, one = fifty
    together(count, lambda rank: train(tmp_path, parallel=parallel))
    several, always = metrics.read(tmp_path), train is tokenizer_run
    assert [row["step"] for row in several] == list(range(1, 51))
    for a, b in zip(one, several, strict=True):
        for name in a.keys() - {"elapsed", "images_per_second"}:
            if always or a["step"] <= 5 or name.endswith("/loss"):
                assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-6), f"{name} at step {a['step']}"
    assert not always or sum(row["tokenizer/revived"] > 0 for row in one) > 1


def test_a_critic_is_weighed_over_the_whole_batch(tmp_path):
    goal = ObjectiveConfig(adversarial=0.3, critic_channels=8, critic_layers=1)
    values = {"dtype": torch.float32, "goal": goal, "steps": 4}
    tokenizer_run(tmp_path / "one", **values)
    together(2, lambda rank: tokenizer_run(tmp_path / "two", **values))
    for a, b in zip(metrics.read(tmp_path / "one"), metrics.read(tmp_path / "two"), strict=True):
        assert a["tokenizer/adversarial_weight"] > 0 and "critic/loss" in a
        for name in a.keys() - {"elapsed", "images_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=1e-5, abs=1e-6), name
