"""The loop: it learns, resumes bit by bit, serves two players, ends politely and names what broke."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from nextset.core.errors import NextsetError
from nextset.core.update import Update
from nextset.training import checkpoints, metrics
from nextset.training import trainer as trainer_file
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer

from .toys import Data, Line, Pictures, Players

SILENT = Console(quiet=True)


def config(**changes) -> TrainConfig:
    values = {"steps": 10, "batch": 8, "lr": 1e-2, "warmup": 2, "ema": 0.9, "log_every": 2, "sample_every": 0}
    return TrainConfig.from_dict({"threads": 1, **values, **changes})


def trainer(model: nn.Module, folder: Path, **changes) -> Trainer:
    return Trainer(model, Data(), config(**changes), folder, console=SILENT)


def everything(t: Trainer) -> dict[str, torch.Tensor]:
    """All state of a run, by name."""
    parts = {"model": t.model.state_dict(), "ema": t.ema.means() if t.ema else {}}
    parts |= checkpoints.load(t.folder).tensors
    return {f"{part}/{name}": value for part, group in parts.items() for name, value in group.items()}


def test_it_learns(tmp_path):
    result = trainer(Line(), tmp_path, steps=300, lr=3e-2).run()
    rows = metrics.read(tmp_path)
    assert result.step == 300 and rows[-1]["step"] == 300
    assert rows[-1]["line/loss"] < 0.3 * rows[0]["line/loss"]
    assert {"line/mse", "line/gradient_norm", "lr", "weight_decay", "images_per_second", "elapsed"} <= rows[0].keys()


@pytest.mark.parametrize("changes", [{}, {"dtype": "bfloat16"}, {"accumulate": 2}, {"ema": 0.0}])
@pytest.mark.parametrize("make", [Line, Players, Pictures])
def test_resume_is_the_whole_run(tmp_path, make, changes, monkeypatch):
    monkeypatch.setattr(trainer_file, "fast_bfloat16", lambda: True)  # in bfloat16 wherever this runs
    whole = trainer(make(), tmp_path / "whole", save_every=5, **changes)
    whole.run()
    # The second half starts from other weights in another process' state: only the checkpoint may matter.
    torch.manual_seed(123)
    model = make()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    rest = trainer(model, tmp_path / "rest", save_every=5, **changes)
    assert rest.resume(tmp_path / "whole" / "step-00000005") == 5
    rest.run()
    expected, found = everything(whole), everything(rest)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_bfloat16_where_it_would_be_emulated_is_float32(tmp_path, monkeypatch):
    found = {}
    for fast, dtype in ((False, "bfloat16"), (True, "bfloat16"), (True, "float32")):
        monkeypatch.setattr(trainer_file, "fast_bfloat16", lambda fast=fast: fast)
        said = io.StringIO()
        run = Trainer(Line(), Data(), config(dtype=dtype), tmp_path / f"{fast}-{dtype}", console=Console(file=said))
        run.run()
        found[fast, dtype] = everything(run)["model/outer.weight"], said.getvalue()
    slow, real, exact = found.values()
    assert "no bfloat16 instructions: computing in float32" in slow[1] and "float32 on cpu" in slow[1]
    assert "bfloat16 on cpu" in real[1] and "instructions" not in real[1] + exact[1]
    assert torch.equal(slow[0], exact[0]) and not torch.equal(real[0], exact[0])


def test_frozen_parts_stay_and_get_no_gradient(tmp_path):
    model = Line()
    before = model.fixed.weight.clone()
    trainer(model, tmp_path).run()
    assert torch.equal(model.fixed.weight, before)


def test_two_players(tmp_path):
    model = Players()
    weight = model.generator.weight.detach().clone()
    t = trainer(model, tmp_path, steps=2, warmup=0)
    t.run()
    # The generator's loss is computed after the critic's step, and leaves no gradient in the critic.
    assert model.seen[0] != pytest.approx(float(Players().critic.weight.detach().sum()), abs=1e-9)
    assert torch.equal(model.generator.weight, weight) and model.generator.weight.grad is not None
    assert model.critic.weight.grad is None
    longer = trainer(model, tmp_path, steps=3, warmup=0)
    longer.resume()
    longer.run()
    assert not torch.equal(model.generator.weight, weight) and model.generator.weight.grad is None


def test_accumulation_is_the_larger_batch(tmp_path):
    class Plain(Line):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 8))

    one, two = Plain(), Plain()
    Trainer(one, Data(16), config(steps=4, batch=16), tmp_path / "one", console=SILENT).run()
    Trainer(two, Data(8), config(steps=4, accumulate=2), tmp_path / "two", console=SILENT).run()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_samples_are_drawn_with_mean_weights_in_eval_mode(tmp_path):
    seen = []
    model = Line()

    def sample(m, step):
        seen.append((step, m.training, torch.is_grad_enabled(), m.outer.weight.detach().clone()))
        return torch.zeros(3, 2, 2)

    written = []
    t = Trainer(
        model, Data(), config(steps=6, sample_every=3), tmp_path, sample=sample,
        write_grid=lambda path, images: written.append(path), console=SILENT,
    )  # fmt: skip
    t.run()
    assert [s[:3] for s in seen] == [(3, False, False), (6, False, False)]
    assert torch.equal(seen[-1][3], t.ema.means()["outer.weight"]) and not torch.equal(seen[-1][3], model.outer.weight)
    assert [path.name for path in written] == ["step-000003.png", "step-000006.png"]
    assert model.training and not model.fixed.training


class Broken(Line):
    """Its loss or its gradient breaks at step 3."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def updates(self, batch, step, noise):
        hidden = self.inner(batch["x"])
        bad = step == 3
        if bad and self.how == "gradient":
            hidden = hidden * 1e-30
            hidden = (hidden.square() * 0).sqrt()  # finite forward, infinite slope
        loss = self.outer(hidden).square().mean()
        part = loss.detach() / 0 if bad and self.how == "part" else loss.detach()
        yield Update("toy", loss + (part - part.detach() if not bad else part * (self.how == "part")), {"energy": part})


@pytest.mark.parametrize(("how", "words"), [("part", "energy of 'toy'"), ("gradient", "the gradient of 'inner")])
def test_a_number_that_is_not_finite_is_named_before_it_spoils_the_weights(tmp_path, how, words):
    model = Broken(how)
    with pytest.raises(NextsetError, match=words) as caught:
        trainer(model, tmp_path, save_every=2).run()
    assert "step 3" in str(caught.value) and "step-00000002" in str(caught.value) and "\n" not in str(caught.value)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert [p.name for p in checkpoints.complete(tmp_path)] == ["step-00000002"]


def test_time_budget_ends_a_run_and_its_schedule(tmp_path):
    timed = {"time_budget": 0.3 / 60, "schedule_by": "time", "schedule": "lin00", "end": 0.0}
    t = trainer(Line(), tmp_path, steps=10**7, log_every=1, **timed)
    result = t.run()
    rows = metrics.read(tmp_path)
    assert 3 < result.step < 10**6 and result.elapsed < 3
    assert rows[-1]["lr"] < 0.2 * 1e-2 and checkpoints.load(tmp_path).step == result.step


def test_a_folder_in_use_is_refused(tmp_path):
    trainer(Line(), tmp_path, steps=3).run()
    with pytest.raises(NextsetError, match="step-00000003"):
        trainer(Line(), tmp_path, steps=3).run()


def test_another_model_is_refused(tmp_path):
    trainer(Line(), tmp_path, steps=3).run()
    with pytest.raises(NextsetError, match="is not of this model"):
        trainer(Players(), tmp_path).resume()


def test_changed_values_are_said(tmp_path):
    trainer(Line(), tmp_path, steps=3).run()
    console = Console(record=True, width=200, file=io.StringIO())
    Trainer(Line(), Data(), config(lr=5e-3), tmp_path, console=console).resume()
    assert "lr 0.01 -> 0.005" in console.export_text()


def test_first_lines_say_what_happens(tmp_path):
    console = Console(record=True, width=200, file=io.StringIO())
    Trainer(Line(), Data(), config(), tmp_path, title="a line", samples=64, console=console).run()
    text = console.export_text()
    said = ["training a line", "trained: main, 65 parameters: inner, outer", "frozen:  2 parameters: fixed"]
    for words in [*said, "64 samples, 1.25 epochs", "10 steps of 8", "expected:", "done: 10 steps"]:
        assert words in text, words


def test_a_terminal_gets_a_bar(tmp_path):
    console = Console(force_terminal=True, width=200, file=io.StringIO())
    Trainer(Line(), Data(), config(steps=12), tmp_path, show=("mse",), console=console).run()
    text = console.file.getvalue()
    assert "12/12" in text and "line/mse" in text and "step 2/12" not in text


def test_a_full_disk_in_the_middle_is_said_and_survived(tmp_path, monkeypatch):
    original, calls = checkpoints.save, []

    def save(*args, **kwargs):
        calls.append(args[1])
        if args[1] < 10:
            raise NextsetError("the disk is full; free some space")
        return original(*args, **kwargs)

    monkeypatch.setattr(checkpoints, "save", save)
    console = Console(width=200, file=io.StringIO())
    result = Trainer(Line(), Data(), config(save_every=4), tmp_path, console=console).run()
    assert calls == [4, 8, 10] and result.checkpoint.name == "step-00000010"
    assert console.file.getvalue().count("warning: the disk is full") == 2


def test_a_mean_can_begin_at_a_resume(tmp_path):
    trainer(Line(), tmp_path, steps=4, ema=0.0).run()
    t = trainer(Line(), tmp_path, ema=0.9)
    t.resume()
    assert torch.equal(t.ema.means()["outer.weight"], t.model.outer.weight)
    assert t.run().step == 10


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import torch
from training.toys import Data, Line
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer
class Slow(Data):
    def __call__(self, i):
        time.sleep(0.01)
        return super().__call__(i)
Trainer(Line(), Slow(), TrainConfig(steps=100000, batch=8, threads=1, log_every=1), {folder!r}).run()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_save_and_exit(tmp_path, number, code):
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((tmp_path / metrics.FILE).exists() and len(metrics.read(tmp_path)) > 2):
        time.sleep(0.05)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    saved = checkpoints.load(tmp_path)
    assert process.returncode == code
    assert saved.step == metrics.read(tmp_path)[-1]["step"]
    assert saved.path.name in output and "resume" in output
