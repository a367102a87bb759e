"""The examples run, and what they show holds: the tiny system learns its data and passes the tests that a system passes.

The pages of the documentation quote the example; the quotations are held to it word by word.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nextset.core.noise import Noise
from nextset.core.plan import Plan
from nextset.core.plans import raster, scale_pyramid
from nextset.core.steps import Step
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish, look, proceed

ROOT = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    """A script of examples/ as a module; its dataclasses need it in sys.modules."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tiny = load("tiny_system")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.train(tmp_path_factory.mktemp("tiny"))


def test_it_learns_filled_rectangles(model):
    ids = tiny.generate(model, 64, seed=1)
    assert ids.shape == (64, 25) and int(ids.max()) < model.config.colours
    assert sum(tiny.is_rectangle(picture, model.config.side) for picture in ids) >= 48


def test_its_data_are_filled_rectangles_of_every_colour(model):
    ids = tiny.rectangles(torch.arange(200), Noise(3), model.config)
    assert all(tiny.is_rectangle(picture, model.config.side) for picture in ids)
    assert ids.unique().tolist() == [0, 1, 2, 3]
    assert not tiny.is_rectangle(torch.tensor([1, 0, 0, 1]), 2), "a diagonal is none"
    assert not tiny.is_rectangle(torch.tensor([1, 2, 0, 0]), 2), "two colours are none"
    assert not tiny.is_rectangle(torch.tensor([1, 0, 1, 0, 0, 0, 0, 0, 0]), 3), "two pieces are none"


@torch.no_grad()
def test_stepped_is_packed(model):
    record, job = Record(), model.job(4)
    finish(Run.of(job, Noise(5), controllers=[record]))
    stepped = torch.cat([law.logits for law in record.dists], 1)
    packed = look(Run.of(job, Noise(5), cache="none"), job.plan.all()).logits
    torch.testing.assert_close(stepped, packed, atol=1e-4, rtol=1e-4)


def test_a_picture_is_the_same_alone_in_a_batch_and_resumed(model):
    together = tiny.generate(model, 8, seed=2)
    for image in (7, 3):
        job = model.job(1)
        run = Run.of(job, Noise(2, "generate"), torch.tensor([image]))
        with torch.no_grad():
            list(proceed(run, stop=10))
            list(proceed(run))
        assert torch.equal(job.canvas.codes()[0], together[image])


def test_what_is_given_stays_and_all_given_costs_nothing(model):
    ids = tiny.rectangles(torch.arange(4), Noise(6), model.config)
    job = model.job(4)
    job.canvas.pin(ids, torch.arange(25) < 10)
    run = Run.of(job, Noise(6))
    finish(run)
    assert torch.equal(job.canvas.codes()[:, :10], ids[:, :10])
    assert run.forwards == 15, "the given cells are joined with the first drawn one"
    job = model.job(4)
    job.canvas.pin(ids, torch.ones(25, dtype=torch.bool))
    run = Run.of(job, Noise(6))
    images = finish(run)
    assert run.forwards == 0 and torch.equal(images, model.paint(ids))


def test_a_step_gives_every_parameter_a_gradient():
    fresh = tiny.Tiny(tiny.TinyConfig())
    ids = tiny.rectangles(torch.arange(8), Noise(0), fresh.config)
    (update,) = fresh.updates({"codes": ids}, 0, Noise(0))
    update.loss.backward()
    assert [name for name, p in fresh.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_the_documentation_quotes_it_word_by_word():
    page = (ROOT / "docs" / "adding-a-system.md").read_text(encoding="utf-8")
    source = (ROOT / "examples" / "tiny_system.py").read_text(encoding="utf-8")
    quoted = re.findall(r"```python\n# examples/tiny_system\.py\n(.*?)```", page, re.DOTALL)
    assert quoted
    for block in quoted:
        for piece in block.strip("\n").split("\n...\n"):
            assert piece.strip("\n") in source, f"the page quotes what is not there:\n{piece}"


def drawn(plan: Plan, names: list[str]) -> str:
    """The mask of all steps joined as the architecture page draws it."""
    width = max(map(len, names))
    lines = ["    " + " ".join(name.ljust(width) for name in names)]
    for name, row in zip(names, plan.mask(plan.all()).tolist(), strict=True):
        lines.append(name.ljust(4) + " ".join(("x" if seen else ".").ljust(width) for seen in row))
    return "\n".join(line.rstrip() for line in lines)


def test_the_architecture_page_draws_the_masks_that_the_code_makes():
    steps: list[Step] = []
    for cell in range(3):
        slots = torch.tensor([cell])
        steps.append(Step.make(len(steps), slots, slots, keep=False, level=0.7))
        steps.append(Step.make(len(steps), slots, level=0.0))
    cells = Plan({"cell": torch.arange(3)}, tuple(steps), 3)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert drawn(scale_pyramid([1, 2]), list("01111")) in page
    assert drawn(raster(2, 4), list("cc012")) in page
    assert drawn(cells, ["n0", "c0", "n1", "c1", "n2", "c2"]) in page
