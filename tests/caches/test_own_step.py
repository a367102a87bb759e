"""Attention step by step against attention under the mask."""

from __future__ import annotations

import pytest
import torch

from nextset.caches import own_step
from nextset.caches.own_step import OwnStep
from nextset.caches.policies import Nothing
from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.core.rows import Branch
from nextset.core.rules import same_scale
from nextset.engine.context import Context

SIDES = [1, 2, 3]


def attend(policy: Nothing, plan: Plan, *branches: Branch) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes out, and the gradient of what goes in."""
    branches = branches or (Branch("only", None),)
    every = tuple(range(len(branches)))
    ctx = Context(plan, plan.all(), policy, branches, every, 2, torch.device("cpu"), {}, {})
    x = torch.randn(3, 2 * len(branches), 2, plan.positions, 4, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    out = ctx.attend("site", *x.unbind(0), scale=0.7)
    out.square().sum().backward()
    assert x.grad is not None
    return out, x.grad


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each call of the kernel that runs without a mask."""
    seen: list[int] = []
    kernel = own_step.attention

    def attention(q: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        seen.append(q.shape[-2])
        return kernel(q, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(own_step, "attention", attention)
    return seen


def test_joined_steps_that_keep_nothing_are_attended_to_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, plan = calls(monkeypatch), scale_pyramid(SIDES, keep=False)
    for a, b in zip(attend(OwnStep(), plan), attend(Nothing(), plan), strict=True):
        torch.testing.assert_close(a, b)
    assert seen == [1, 4, 9], "98 pairs instead of 196"


@pytest.mark.parametrize("case", ["kept", "rule", "branch"])
def test_where_rows_see_more_or_less_than_their_step_the_mask_decides(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = calls(monkeypatch)
    plan = scale_pyramid(SIDES, keep=case == "kept", sees=same_scale if case == "rule" else None)

    def diagonal(q, k):  # type: ignore[no-untyped-def]
        return q.slot == k.slot

    branches = (Branch("a", None), Branch("b", None, sees=diagonal if case == "branch" else None))
    for a, b in zip(attend(OwnStep(), plan, *branches), attend(Nothing(), plan, *branches), strict=True):
        torch.testing.assert_close(a, b)
    assert not seen


def test_padding_is_hidden_by_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, plan = calls(monkeypatch), scale_pyramid(SIDES, keep=False)
    hidden = torch.zeros(2, plan.size, dtype=torch.bool)
    hidden[0, 7] = True
    branch = Branch("only", None, hidden=hidden)
    for a, b in zip(attend(OwnStep(), plan, branch), attend(Nothing(), plan, branch), strict=True):
        torch.testing.assert_close(a, b)
    assert not seen
