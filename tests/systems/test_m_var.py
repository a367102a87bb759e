"""What is M-VAR's own: states instead of keys, the mixer's part, and its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.run import Run, advance, finish, look
from nextset.hub.convert import convert
from nextset.systems.m_var import MambaVar, MambaVarConfig
from tests.battery.instances import instance

IMAGES = torch.arange(3)


def test_what_goes_from_scale_to_scale_does_not_grow() -> None:
    it = instance("m_var")
    run, sizes = Run.of(it.job(IMAGES), Noise(0), IMAGES), []
    with torch.no_grad():
        while (step := run.upcoming()) is not None:
            advance(run, step)
            sizes.append(sum(t.numel() for state in run.states.values() for t in state))
    assert run.policy.bytes() == 0
    assert len(sizes) == 3 and len(set(sizes)) == 1 and sizes[0] > 0


def test_a_look_leaves_no_trace() -> None:
    it = instance("m_var")
    whole = Run.of(it.job(IMAGES), Noise(0), IMAGES)
    finish(whole)
    run = Run.of(it.job(IMAGES), Noise(0), IMAGES)
    with torch.no_grad():
        while (step := run.upcoming()) is not None:
            look(run, step), look(run, step)
            advance(run, step)
    assert torch.equal(run.codes(), whole.codes())


def test_without_the_mixer_a_scale_knows_nothing_of_those_before() -> None:
    """Its input aside: with the Mamba's gates at zero, other coarse codes under the same inputs change nothing."""
    torch.manual_seed(0)
    model = instance("m_var").model
    model = MambaVar(model.config, model.tokenizer)  # type: ignore[arg-type]
    model.load_state_dict(instance("m_var").model.state_dict())
    model.eval()

    class Inputs:
        def __init__(self, x: torch.Tensor) -> None:
            self.x = x

        def begin(self, noise: object, images: torch.Tensor) -> None: ...

        def input(self, step: object) -> torch.Tensor:
            return self.x

        def now(self, step: object) -> None: ...

    x = torch.randn(1, 14, 4)
    other = x.clone()
    other[:, 1:5] += 1
    for gates, changes in ((1.0, True), (0.0, False)):
        with torch.no_grad():
            for block in model.blocks:
                block.modulation.weight[32:64] *= gates  # type: ignore[union-attr,index]
                block.modulation.bias[32:64] *= gates  # type: ignore[union-attr,index]
            a, b = (model.teacher_forced(Inputs(v), torch.tensor([0])) for v in (x, other))  # type: ignore[arg-type]
        assert bool((a[:, 5:] != b[:, 5:]).any()) is changes


def test_files_are_known_by_the_mixer_and_its_sizes_read_off(tmp_path: Path) -> None:
    from benchmarks.plain_var import random_state

    sides = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    var, _ = random_state(2, width=32, heads=2, sides=sides, classes=5, vocabulary=16, latent=4)
    for i in range(2):
        p = f"blocks.{i}"
        var[f"{p}.ada_lin.1.weight"], var[f"{p}.ada_lin.1.bias"] = torch.randn(288, 32), torch.randn(288)
        var[f"{p}.attn.patch_nums"] = torch.tensor(sides, dtype=torch.int32)
        shapes = {"in_proj.weight": (148, 32), "conv1d.weight": (80, 1, 4), "conv1d.bias": (80,), "dt_bias": (4,),
                  "A_log": (4,), "D": (4,), "norm.weight": (64,), "out_proj.weight": (32, 64)}  # fmt: skip
        var |= {f"{p}.mamba.{name}": torch.randn(shape) for name, shape in shapes.items()}
    torch.save({"trainer": {"mvar_wo_ddp": var}}, tmp_path / "wrapped.pth")
    model = convert([tmp_path / "wrapped.pth"])
    assert type(model) is MambaVar
    assert (model.config.state, model.config.head_width, model.config.heads) == (8, 16, 2)


@pytest.mark.parametrize("values", [{"shared_adaln": True}, {"head_width": 48}, {"state": 0}])
def test_values_that_do_not_fit_are_refused(values: dict) -> None:
    with pytest.raises(NextsetError, match=next(iter(values))):
        MambaVarConfig(**values)
