"""One body for many steps: the ids of the loop, compiled once, and refused where a body cannot serve."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise, Tape
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish, proceed
from nextset.engine.static import Static
from nextset.nn import linear
from tests.battery import instances
from tests.engine.toys import job

IMAGES = torch.tensor([3, 0, 7])


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def made(it: instances.Instance, compile: str | None, noise: Any = None, **options: Any) -> Run:
    run = Run.of(it.job(IMAGES), noise or Noise(0), IMAGES, compile=compile, **options)
    finish(run)
    return run


@pytest.mark.parametrize("name", ["llamagen", "llamagen_text", "nar"])
def test_a_body_draws_what_the_loop_draws(name: str):
    it = getattr(instances, name)()
    eager, body = made(it, None), made(it, "none")
    assert torch.equal(body.codes(), eager.codes()) and body.forwards == eager.forwards
    assert len(eager.codes().unique(dim=0)) == 3


def test_steps_of_one_signature_share_a_body():
    it = instances.llamagen()
    static = Static(Run.of(it.job(IMAGES), Noise(0), IMAGES), "none")
    # nine tokens behind a class, of which six are guided
    assert sorted(len(group) for group in static.groups.values()) == [3, 6]
    nar = instances.nar()
    by_length = Static(Run.of(nar.job(IMAGES), Noise(0), IMAGES), "none").groups
    assert {key[0] for key in by_length} >= {2, 3}


def test_it_is_compiled_once_for_all_positions_and_runs():
    it = instances.llamagen()
    graphs: list[Any] = []

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    eager = made(it, None).codes()
    found = []
    for _ in range(2):
        run = Run.of(it.job(IMAGES), Noise(0), IMAGES, compile=count)  # type: ignore[arg-type]
        finish(run)
        assert torch.equal(run.codes(), eager)
        found.append(len(graphs))
    torch.compiler.reset()
    assert found == [2, 2], "one graph with guidance, one without, and none for the second run"


def test_a_network_that_changed_is_noticed_by_the_next_run():
    it = instances.llamagen()
    torch.compiler.reset()
    first = made(it, "eager").codes().clone()
    it.model.classifier.weight = torch.nn.Parameter(-it.model.classifier.weight)
    after = made(it, "eager").codes()
    torch.compiler.reset()
    assert torch.equal(after, made(it, None).codes()) and not torch.equal(after, first)


def test_products_that_are_turned_around_break_no_graph(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linear, "LARGE", 1)
    monkeypatch.setattr(linear, "_CAPABILITY", "AVX512")
    it = instances.llamagen()
    torch.compiler.reset()
    found = made(it, "eager").codes()  # raises where a graph breaks
    torch.compiler.reset()
    assert torch.equal(found, made(it, None).codes())


@pytest.mark.parametrize("backend", ["none", "eager"])
def test_given_ids_a_stop_and_a_selection(backend: str):
    it = instances.llamagen()
    codes, mask = made(it, None).codes().clone(), torch.arange(9) < 2
    rows = torch.tensor([2, 2, 0])
    found = []
    for compile in (None, backend):
        asked = it.job(IMAGES)
        asked.canvas.pin(codes.roll(1, 0), mask)
        run = Run.of(asked, Noise(0), IMAGES, compile=compile)
        list(proceed(run, stop=5))
        run.select(rows)
        finish(run)
        found.append(run.codes().clone())
    assert torch.equal(found[0], found[1]) and torch.equal(found[1][:, :2], codes.roll(1, 0)[rows][:, :2])


def test_it_leaves_gradients_alone():
    it = instances.llamagen()
    eager = made(it, None).codes()
    with torch.enable_grad():
        run = Run.of(it.job(IMAGES), Noise(0), IMAGES, compile="none")
        finish(run)
    assert torch.equal(run.codes(), eager)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"controllers": [Record()]}, "a controller .Record."),
        ({"cache": "none"}, "policy Nothing"),
        ({"noise": Tape({"draw": torch.zeros(8, 9)})}, "from a tape"),
    ],
)
def test_what_a_body_cannot_do_is_refused(options: dict[str, Any], why: str):
    with pytest.raises(NextsetError, match=f"compile cannot serve this request, because .*{why}.*; leave out compile"):
        made(instances.llamagen(), "none", **options)


def test_a_canvas_that_needs_numbers_of_steps_is_refused():
    with pytest.raises(NextsetError, match="canvas Ids does not take steps from tables"):
        finish(Run.of(job(), Noise(0), compile="none"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_recorded_graph_draws_what_the_loop_draws():
    it = instances.llamagen()
    it.model.cuda()
    assert torch.equal(made(it, "none").codes(), made(it, None).codes())
