"""M-VAR's claim in miniature: at equal parameters and steps, scales that hand on a state of fixed size against VAR, whose
scales see all keys before them. Source: sheet `m_var`, Miniature claim.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.core.steps import Step
from nextset.engine.run import Run, advance
from nextset.judges.claims import Claim, Finding, Lab, counted, within
from nextset.systems.var import baseline as shared
from nextset.systems.var.baseline import PLAIN, VAR, Arm

STATEMENT = (
    "At equal parameters and steps, a model that carries a state of fixed size from scale to scale makes pictures at most "
    "1.05 times as far from real ones as VAR, which keeps the keys of all scales."
)
M_VAR = "M-VAR"


def measure(lab: Lab) -> Claim:
    """Beside what is shared, one generator, with as many steps as VAR."""
    base = shared.baseline(lab)
    model = lab.train("generator-m-var", base.relative("m_var-cifar10"))
    exact = list(_exact(model.model))
    found = shared.compared(lab, [Arm(M_VAR, model), Arm(VAR, base.model)])
    ratio = shared.parameters(model) / shared.parameters(base.model)
    findings = [
        *exact,
        within("parameters, as a factor of VAR's", ratio, 1.05, "M-VAR / VAR"),
        shared.forwards(found.row(M_VAR), len(model.model.plan)),
        found.nearer(M_VAR, VAR, 1.05),
    ]
    return Claim(STATEMENT, findings, found.tables())


@torch.no_grad()
def _exact(model: Any) -> Iterator[Finding]:
    yield shared.stepped_as_packed(model)

    run = Run.of(model.job(shared.eight(model), **PLAIN), Noise(0))
    sizes = []
    while (step := run.upcoming()) is not None:
        advance(run, step)
        sizes.append(sum(t.numel() * t.element_size() for state in run.states.values() for t in state))
    yield counted("keys and values that are kept", run.policy.bytes(), 0, "bytes")
    yield counted(
        "growth of the carried state from the first scale to the last",
        max(sizes) - min(sizes),
        0,
        "bytes",
        note=f"{sizes[0] / len(shared.eight(model)):,.0f} bytes a picture, guided",
    )

    closed = copy.deepcopy(model)
    for block in closed.blocks:
        width = model.config.width
        for tensor in (block.modulation.weight, block.modulation.bias):
            tensor[width : 2 * width] = 0  # the second gate, of the Mamba
    moved = [_moved(each) for each in (closed, model)]
    what = "with the Mamba's gate closed, a scale and the inputs of those before it"
    yield within(what, moved[0], 1e-6, "largest change of logits", f"{moved[1]:.2g} with the gate as trained")

    mamba, n = model.blocks[0].mamba, 8
    u = Noise(0).normal(torch.arange(2), torch.arange(2 * n), lanes=model.config.width)
    other = torch.cat([u[:, :n], -u[:, n:]], 1)
    gap = float((mamba(u)[0] - mamba(other)[0])[:, :n].abs().max())
    yield within("outputs of the Mamba and inputs behind them", gap, 1e-6, "largest change")


def _moved(model: Any) -> float:
    """By how much logits of the last scale change when the inputs of the scales before it do."""
    last, channels = model.sizes[-1], model.config.channels
    x = Noise(0).normal(torch.arange(1), torch.arange(model.plan.positions), lanes=channels)
    other = torch.cat([x[:, :-last] + 1, x[:, -last:]], 1)
    a, b = (model.teacher_forced(_Inputs(each), torch.zeros(1, dtype=torch.int64)) for each in (x, other))
    return float((a - b)[:, -last:].abs().max())


class _Inputs:
    """A canvas of which only the input is asked: x (N, L, D), the slots of the whole plan."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def begin(self, noise: Any, images: Tensor) -> None:
        """Nothing is drawn."""

    def input(self, step: Step) -> Tensor:
        return self.x[:, step.feed]

    def now(self, step: Step) -> None:
        return None
