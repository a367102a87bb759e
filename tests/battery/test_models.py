"""Models as files, configs and in other dtypes; compiled."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.run import Run, look
from nextset.heads.implicit import Implicit
from nextset.heads.velocity import Velocity
from nextset.hub import pretrained
from nextset.nn.precision import cast
from tests.battery.common import Tap, everything, generate, same
from tests.battery.instances import Instance, having

IMAGES = torch.arange(3)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@having()
def test_config_round_trip(it: Instance):
    config = it.model.config
    again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and type(it.model).config_type is type(config)
    built = type(it.model)(again).state_dict()
    assert {n: t.shape for n, t in built.items()} == {n: t.shape for n, t in it.model.state_dict().items()}
    with pytest.raises(NextsetError, match="has no field 'no_such_field'"):
        type(config).from_dict({**config.to_dict(), "no_such_field": 1})


@having("save", "generate")
def test_a_saved_model_makes_the_same_images(it: Instance, tmp_path):
    run, images = generate(it.job(IMAGES), IMAGES)
    loaded = pretrained.load(pretrained.save(tmp_path / "model", it.model)).model
    job = it.job(IMAGES)
    job.canvas = loaded.canvas(len(IMAGES))
    job = dataclasses.replace(job, network=loaded)
    again, found = generate(job, IMAGES)
    assert same(again.codes(), run.codes()) and same(found, images)
    for name, tensor in it.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def packed(it: Instance, network: torch.nn.Module, codes: torch.Tensor) -> torch.Tensor:
    """Logits of one forward over given codes; of laws that have none, their velocities or hidden states."""
    job = it.job(IMAGES)
    job.canvas.pin(codes, everything(codes))
    run = Run.of(dataclasses.replace(job, network=network), Noise(0), IMAGES)
    law: Any = look(run, job.plan.all(), filtered=False)
    if isinstance(law, Velocity):
        return law.velocity
    return law.hidden if isinstance(law, Implicit) else law.logits


@having("generate", "pin")
def test_bfloat16_is_close_to_float32(it: Instance):
    """Cast weights, exact parts stay float32: laws differ by rounding only."""
    codes = generate(it.job(IMAGES), IMAGES)[0].codes()
    exact = packed(it, it.model, codes)
    low = cast(copy.deepcopy(it.model), torch.bfloat16)
    assert {p.dtype for p in low.parameters()} == {torch.bfloat16, torch.float32}
    found = packed(it, low, codes)
    assert found.dtype == torch.float32
    assert (found - exact).std() < 0.03 * exact.std()
    assert {p.dtype for p in it.model.parameters()} == {torch.float32}, "the model itself is left as it was"


class Compiled(Tap):
    """A network with a compiled trunk, which counts the graphs that each forward made."""

    def __init__(self, network: Any) -> None:
        super().__init__(network)
        self.graphs: list[Any] = []
        self.made: list[tuple[tuple[Any, ...], int]] = []  # (signature of a forward, graphs compiled for it)
        self.body = torch.compile(network.trunk, backend=self.compile, dynamic=False)

    def compile(self, graph: Any, inputs: Any) -> Any:
        self.graphs.append(graph)
        return graph.forward

    def trunk(self, x: torch.Tensor, cond: Any, ctx: Any) -> Any:
        before = len(self.graphs)
        h = self.body(x, cond, ctx)
        self.made.append(((ctx.step.rows, ctx.step.phase, ctx.active, x.shape), len(self.graphs) - before))
        return h


@having("compile", "generate")
def test_compiled_is_eager_and_equal_forwards_compile_once(it: Instance):
    """Ids of a compiled trunk are those of the eager one; forwards of equal signature share what was compiled, within a
    run and between runs."""
    torch.compiler.reset()
    compiled = Compiled(it.model)
    eager, _ = generate(it.job(IMAGES), IMAGES)
    for _ in range(2):
        run, _ = generate(dataclasses.replace(it.job(IMAGES), network=compiled), IMAGES)
        assert same(run.codes(), eager.codes())
    torch.compiler.reset()
    assert compiled.graphs
    seen: set[tuple[Any, ...]] = set()
    for signature, graphs in compiled.made:
        assert not (signature in seen and graphs), f"{signature} was compiled again"
        seen.add(signature)
