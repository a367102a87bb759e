"""Attention of joined steps that do not see each other, one by one, against attention under the mask."""

from __future__ import annotations

import pytest
import torch

from nextset.caches import policies
from nextset.caches.policies import Nothing
from nextset.core.plan import Plan
from nextset.core.plans import scale_pyramid
from nextset.core.rows import Branch
from nextset.core.rules import Neighbourhood, same_scale
from nextset.engine.context import Context
from nextset.nn.attention import attention

SIDES = [1, 2, 3, 5]


def attend(plan: Plan, *branches: Branch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What goes in (3, rows, heads, n, d), what comes out, and the gradient of what goes in."""
    branches = branches or (Branch("only", None),)
    every = tuple(range(len(branches)))
    ctx = Context(plan, plan.all(), Nothing(), branches, every, 2, torch.device("cpu"), {}, {})
    x = torch.randn(3, 2 * len(branches), 2, plan.positions, 4, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    out = ctx.attend("site", *x.unbind(0), scale=0.7)
    out.square().sum().backward()
    assert x.grad is not None
    return x.detach(), out.detach(), x.grad


def agrees(plan: Plan, mask: torch.Tensor, *branches: Branch) -> None:
    x, out, grad = attend(plan, *branches)
    y = x.clone().requires_grad_()
    wanted = attention(*y.unbind(0), mask, 0.7)
    wanted.square().sum().backward()
    torch.testing.assert_close(out, wanted.detach())
    torch.testing.assert_close(grad, y.grad)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each call of the kernel."""
    rows: list[int] = []

    def spied(q: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        rows.append(q.shape[-2])
        return attention(q, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(policies, "attention", spied)
    return rows


@pytest.mark.parametrize("rule", [None, same_scale])
def test_steps_that_see_themselves_alone_are_attended_to_one_by_one(rule: object, seen: list[int]) -> None:
    plan = scale_pyramid(SIDES, keep=rule is not None, sees=rule)  # type: ignore[arg-type]
    agrees(plan, plan.mask(plan.all()))
    assert seen == [1, 4, 9, 25], "723 pairs instead of 1,521"


def test_windows_of_joined_maps_are_attended_to_as_windows(seen: list[int]) -> None:
    plan = scale_pyramid(SIDES, keep=False, sees=Neighbourhood(3, first=2))
    agrees(plan, plan.mask(plan.all()))
    assert seen == [1, 4, 9], "the last map has a kernel of its own"


def test_a_rule_inside_a_step_is_its_mask(seen: list[int]) -> None:
    plan = scale_pyramid(SIDES, keep=False, sees=lambda q, k: k.slot <= q.slot)
    agrees(plan, plan.mask(plan.all()))
    assert seen == [1, 4, 9, 25]


@pytest.mark.parametrize("case", ["kept", "branch"])
def test_where_rows_see_other_steps_or_branches_differ_the_mask_decides(case: str, seen: list[int]) -> None:
    plan = scale_pyramid(SIDES, keep=case == "kept")

    def diagonal(q, k):  # type: ignore[no-untyped-def]
        return q.slot == k.slot

    branches = (Branch("a", None), Branch("b", None, sees=diagonal if case == "branch" else None))
    every = plan.all()
    mask = torch.stack([plan.mask(every), plan.mask(every, branches[1].sees)]).repeat_interleave(2, 0)[:, None]
    agrees(plan, mask, *branches)
    assert seen == [39]


def test_padding_is_hidden_by_the_mask(seen: list[int]) -> None:
    plan = scale_pyramid(SIDES, keep=False)
    hidden = torch.zeros(2, plan.size, dtype=torch.bool)
    hidden[0, 7] = True
    mask = (plan.mask(plan.all()) & ~hidden[:, None]) | torch.eye(plan.size, dtype=torch.bool)
    agrees(plan, mask[:, None], Branch("only", None, hidden=hidden))
    assert seen == [39]
