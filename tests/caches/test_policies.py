"""Memory policies behind a toy trunk: what is stored, what is read, and that it does not matter how."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextset.caches.policies import Full, Nothing, make_policy
from nextset.core.errors import NextsetError
from nextset.core.plan import Plan
from nextset.core.plans import raster, scale_pyramid
from nextset.core.protocols import Extra
from nextset.core.rows import Branch
from nextset.core.steps import Step
from nextset.engine.context import Context
from tests.core.test_plan import plans

HEADS, DIM, ENTRIES = 2, 4, 2


class Toy:
    """Two layers of attention over rows whose input depends on entry, branch, slot and step: all inputs are known."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        g = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(3, ENTRIES, 8, 8, HEADS * DIM, generator=g, dtype=dtype)  # branch, entry, slot, step
        self.w = torch.randn(2, 4, HEADS * DIM, HEADS * DIM, generator=g, dtype=dtype) / math.sqrt(HEADS * DIM)

    def rows(self, ctx: Context, conditions: tuple[int, ...]) -> Tensor:
        slots = ctx.step.feed.expand(ENTRIES, -1) if ctx.step.feed.dim() == 1 else ctx.step.feed
        entry = torch.arange(ENTRIES)[:, None]
        return torch.cat([self.inputs[conditions[b]][entry, slots, ctx.step.own] for b in ctx.active])

    def __call__(self, ctx: Context, conditions: tuple[int, ...] = (0, 1, 2)) -> Tensor:
        x = self.rows(ctx, conditions)
        for i in range(2):
            q, k, v = ((x @ self.w[i, j]).unflatten(-1, (HEADS, DIM)).transpose(1, 2) for j in range(3))
            out = ctx.attend(f"layer.{i}", q, k, v).transpose(1, 2).flatten(2)
            x = x + torch.tanh(out @ self.w[i, 3])
        return x


ALONE = (Branch("a", None),)


def context(
    plan: Plan,
    step: Step,
    policy: Any,
    branches: tuple[Branch, ...] = ALONE,
    active: tuple[int, ...] | None = None,
    entries: int = ENTRIES,
) -> Context:
    return Context(
        plan,
        step,
        policy,
        branches,
        tuple(range(len(branches))) if active is None else active,
        entries,
        torch.device("cpu"),
        {},
        {},
    )


def run(
    plan: Plan,
    forwards: list[Step],
    policy: Any,
    toy: Toy,
    branches: tuple[Branch, ...] = ALONE,
    conditions: tuple[int, ...] = (0, 1, 2),
) -> dict[int, Tensor]:
    """Hidden states of every step's rows, (branches * N, n, C), over the forwards in order."""
    out: dict[int, Tensor] = {}
    for forward in forwards:
        h = toy(context(plan, forward, policy, branches), conditions)
        policy.end(forward)
        for part, states in zip(forward.steps, h.split([s.rows for s in forward.steps], 1), strict=True):
            out[part.index] = states
    return out


def same(a: dict[int, Tensor], b: dict[int, Tensor]) -> None:
    assert a.keys() == b.keys()
    for k in a:
        torch.testing.assert_close(a[k], b[k], rtol=1e-9, atol=1e-9)


@given(st.booleans().flatmap(lambda orders: plans(orders=orders)))
@settings(deadline=None)
def test_stored_joined_and_recomputed_are_the_same(case):
    plan, forwards, _ = case
    toy = Toy()
    stepped = run(plan, list(plan.steps), Full(), toy)
    same(stepped, run(plan, [plan.all()], Nothing(), toy))
    same(stepped, run(plan, [plan.all()], Full(), toy))
    same(stepped, run(plan, forwards, Full(), toy))


@given(plans())
@settings(deadline=None)
def test_a_reader_sees_its_owners_memory_and_leaves_it_alone(case):
    """Branch b reads a's memory: with a's inputs it is a, with its own inputs a is as if b were not there."""
    plan, forwards, _ = case
    toy = Toy()
    alone = run(plan, forwards, Full(), toy)
    branches = (Branch("a", None), Branch("b", None, memory="a"))
    both = run(plan, forwards, Full(), toy, branches, conditions=(0, 0))
    same({k: v[:ENTRIES] for k, v in both.items()}, alone)
    if len(plan.steps) == len(forwards):  # in a join the reader's own rows stand for the owner's
        same({k: v[ENTRIES:] for k, v in both.items()}, alone)
    other = run(plan, forwards, Full(), toy, branches, conditions=(0, 1))
    same({k: v[:ENTRIES] for k, v in other.items()}, alone)


def test_branches_have_rules_and_memories_of_their_own():
    plan, toy = scale_pyramid([1, 2]), Toy()
    own_scale = lambda q, k: q.scale == k.scale  # noqa: E731
    branches = (Branch("a", None), Branch("b", None, sees=own_scale))
    both = run(plan, list(plan.steps), Full(), toy, branches)
    same({k: v[:ENTRIES] for k, v in both.items()}, run(plan, list(plan.steps), Full(), toy, ALONE, (0,)))
    blind = Plan(plan.slots, plan.steps, plan.positions, sees=own_scale)
    same({k: v[ENTRIES:] for k, v in both.items()}, run(blind, list(plan.steps), Full(), toy, ALONE, (1,)))


def test_a_branch_that_rests_keeps_its_memory():
    """Branch b runs at steps 0 and 2 of three: its line of the storage waits."""
    plan, toy, policy = raster(1, 4), Toy(), Full()
    branches = (Branch("a", None), Branch("b", None))
    everyone = run(plan, list(plan.steps), Full(), toy, branches)
    seen: dict[int, Tensor] = {}
    for step, active in zip(plan.steps[:3], [(0, 1), (0,), (0, 1)], strict=True):
        seen[step.index] = toy(context(plan, step, policy, branches, active))
        policy.end(step)
    same({k: v[:ENTRIES] for k, v in seen.items()}, {k: v[:ENTRIES] for k, v in everyone.items() if k < 3})
    only = toy(context(plan, plan.steps[3], policy, branches, (1,)))
    assert only.shape[0] == ENTRIES


# ---- storage


def test_bytes_are_those_of_the_slots():
    plan, toy = scale_pyramid([1, 2]), Toy(dtype=torch.float32)
    policy, branches = Full(), (Branch("a", None), Branch("b", None))
    assert policy.bytes() == 0
    run(plan, list(plan.steps[:1]), policy, toy, branches)
    layers, rows = 2, len(branches) * ENTRIES
    assert policy.bytes() == layers * 2 * rows * HEADS * plan.size * DIM * 4, "allocated once, for the whole plan"
    run(plan, list(plan.steps[1:]), policy, toy, branches)
    assert policy.bytes() == layers * 2 * rows * HEADS * plan.size * DIM * 4
    assert Nothing().bytes() == 0


def test_only_branches_that_own_a_memory_have_storage():
    plan, toy, policy = scale_pyramid([1, 2]), Toy(dtype=torch.float32), Full()
    run(plan, list(plan.steps), policy, toy, (Branch("r", None, memory="a"), Branch("a", None), Branch("b", None)))
    assert policy.bytes() == 2 * 2 * (2 * ENTRIES) * HEADS * plan.size * DIM * 4


def test_padding_is_seen_by_itself_alone():
    """Slot 0 of entry 1 is padding: entry 1 goes on as in a plan without it, entry 0 as if nothing were hidden."""
    plan, toy = raster(2, 4), Toy()
    hidden = torch.tensor([[False] * plan.size, [True] + [False] * (plan.size - 1)])
    plain = run(plan, list(plan.steps), Full(), toy)
    for policy, forwards in (
        (Full(), list(plan.steps)),
        (Nothing(), [plan.all()]),
        (Full(), [plan.join([0, 1]), *plan.steps[2:]]),
    ):
        found = run(plan, forwards, policy, toy, (Branch("a", None, hidden=hidden),))
        same({k: v[:1] for k, v in found.items()}, {k: v[:1] for k, v in plain.items()})
        without = Plan(
            plan.slots, plan.steps, plan.positions, lambda q, k: (k.slot <= q.slot) & ((k.slot > 0) | (q.slot == 0))
        )
        same(
            {k: v[1:] for k, v in found.items()},
            {k: v[1:] for k, v in run(without, list(plan.steps), Full(), toy).items()},
        )


def test_storage_is_written_in_place():
    plan, toy, policy = scale_pyramid([1, 2]), Toy(), Full()
    run(plan, [plan.steps[0]], policy, toy)
    k = policy._stores["layer.0"].k
    before, address = k.clone(), k.data_ptr()
    run(plan, [plan.steps[1]], policy, toy)
    assert policy._stores["layer.0"].k.data_ptr() == address
    assert (
        torch.equal(policy._stores["layer.0"].k[..., :1, :], before[..., :1, :]) and before[..., 1:, :].abs().sum() == 0
    )


def test_select_moves_every_branch():
    plan, toy = raster(1, 4), Toy()
    branches, rows = (Branch("a", None), Branch("b", None)), torch.tensor([1, 1])
    plain = run(plan, list(plan.steps), Full(), toy, branches)
    policy = Full()
    run(plan, list(plan.steps[:2]), policy, toy, branches)
    policy.select(rows)
    toy.inputs = toy.inputs[:, rows]
    moved = run(plan, list(plan.steps[2:]), policy, toy, branches)
    every = torch.cat([rows, rows + ENTRIES])
    same(moved, {k: plain[k][every] for k in (2, 3)})


def test_select_may_change_the_number_of_entries():
    plan, policy, toy = raster(1, 3), Full(), Toy()
    run(plan, list(plan.steps[:1]), policy, toy)
    policy.select(torch.tensor([0, 1, 1]))
    assert policy._stores["layer.0"].k.shape[:2] == (1, 3)
    policy.select(torch.tensor([2]))
    assert policy._stores["layer.0"].k.shape[:2] == (1, 1)


# ---- truncate


def hidden(toy: Toy, keys: Tensor, query: Tensor, layer: int) -> Tensor:
    """Plain attention of rows query (n, C) over rows keys (t, C) at a layer, with the toy's residual."""
    q, k, v = (
        (x @ toy.w[layer, j]).unflatten(-1, (HEADS, DIM)).transpose(0, 1) for j, x in enumerate((query, keys, keys))
    )
    out = (q @ k.transpose(-1, -2) / math.sqrt(DIM)).softmax(-1) @ v
    return query + torch.tanh(out.transpose(0, 1).flatten(1) @ toy.w[layer, 3])


def test_truncate_forgets_per_row_and_feeding_again_remembers():
    plan, toy, policy = raster(1, 5), Toy(), Full()
    run(plan, list(plan.steps[:3]), policy, toy)
    address = policy._stores["layer.0"].k.data_ptr()
    policy.truncate(torch.tensor([1, 3]))
    assert policy._stores["layer.0"].k.data_ptr() == address, "nothing is moved"
    found = run(plan, [plan.steps[3]], policy, toy)[3]
    full = run(plan, list(plan.steps), Full(), toy)
    torch.testing.assert_close(found[1], full[3][1])
    x, first = toy.inputs[0, 0, :, :], None
    first = hidden(toy, x[[0], [0]], x[[0], [0]], 0)  # slot 0, after layer 0
    middle = hidden(toy, torch.cat([x[[0], [0]], x[[3], [3]]]), x[[3], [3]], 0)
    last = hidden(toy, torch.cat([first, middle]), middle, 1)
    torch.testing.assert_close(found[0], last)
    policy.truncate(torch.tensor([1, 1]))
    again = run(plan, list(plan.steps[1:]), policy, toy)
    same(again, {k: full[k] for k in again})


def test_truncate_before_anything_is_stored():
    policy = Full()
    policy.truncate(torch.tensor([0, 0]))
    plan, toy = raster(1, 3), Toy()
    same(run(plan, list(plan.steps), policy, toy), run(plan, list(plan.steps), Full(), toy))


def test_what_is_forgotten_stays_so_until_it_is_kept_again():
    """A feed that is not kept does not bring back what was stored under its slot before."""
    feeds = [
        Step.make(0, torch.tensor([0, 1])),
        Step.make(1, torch.tensor([1]), keep=False),
        Step.make(2, torch.tensor([2])),
    ]
    plan, toy, policy = Plan({"s": torch.arange(3)}, tuple(feeds), 0), Toy(), Full()
    run(plan, feeds[:1], policy, toy)
    policy.truncate(torch.tensor([1, 1]))
    run(plan, feeds[1:2], policy, toy)
    assert policy._valid is not None and policy._valid.tolist() == [[True, False, False]] * ENTRIES


def test_truncate_and_select_together():
    plan, toy, policy = raster(1, 5), Toy(), Full()
    run(plan, list(plan.steps[:3]), policy, toy)
    policy.truncate(torch.tensor([1, 3]))
    policy.select(torch.tensor([1, 1]))
    found = run(plan, [plan.steps[3]], policy, toy)[3]
    torch.testing.assert_close(found[1], run(plan, list(plan.steps), Full(), toy)[3][1])


# ---- gradients


def test_kept_keys_are_constants_and_fed_rows_carry_gradients():
    plan, toy, policy = scale_pyramid([1, 2]), Toy(), Full()
    toy.inputs.requires_grad_(True)
    run(plan, [plan.steps[0]], policy, toy)
    run(plan, [plan.steps[1]], policy, toy)[1].square().sum().backward()
    grad = toy.inputs.grad[0]
    assert grad[:, 0].abs().sum() == 0, "the past is a constant"
    assert (grad[:, 1:5, 1].abs().sum(-1) > 0).all()
    assert not policy._stores["layer.0"].k.requires_grad

    # the same as attention over [detached past; fed rows]
    second = Toy()
    second.inputs.requires_grad_(True)
    again = Full()
    with torch.no_grad():
        run(plan, [plan.steps[0]], again, second)
    run(plan, [plan.steps[1]], again, second)[1].square().sum().backward()
    torch.testing.assert_close(second.inputs.grad[0, :, 1:5], grad[:, 1:5])


def test_a_join_carries_gradients_through_all_its_rows():
    plan, toy = scale_pyramid([1, 2]), Toy()
    toy.inputs.requires_grad_(True)
    found = []
    for policy in (Full(), Nothing()):
        toy.inputs.grad = None
        run(plan, [plan.all()], policy, toy)[1].square().sum().backward()
        found.append(toy.inputs.grad.clone())
        assert (found[-1][0, :, 0, 0].abs().sum(-1) > 0).all()
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("trained", [0, 2])
def test_rollouts_where_only_queries_or_values_are_trained(trained):
    """Adapters may leave keys without gradient; later steps must not write over what the backward pass needs."""
    plan, toy, policy = raster(1, 3), Toy(), Full()
    weight = toy.w[0, trained].clone().requires_grad_(True)
    losses = []
    for step in plan.steps:
        ctx = context(plan, step, policy)
        x = toy.rows(ctx, (0,))
        w = [toy.w[0, j] if j != trained else weight for j in range(3)]
        q, k, v = ((x @ w[j]).unflatten(-1, (HEADS, DIM)).transpose(1, 2) for j in range(3))
        losses.append(ctx.attend("layer", q, k, v).square().sum())
        policy.end(step)
    sum(losses).backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0


# ---- extra keys, kept rows


def test_extra_keys_stand_for_a_prefix():
    """Rows of segment 1 see pooled keys instead of segment 0, rows of segment 0 see neither."""
    slots = {"segment": torch.tensor([0, 0, 1, 1])}
    plan = Plan(slots, (Step.make(0, torch.tensor([0, 1])), Step.make(1, torch.tensor([2, 3]))), 0)
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(ENTRIES, HEADS, 4, DIM, generator=g, dtype=torch.float64) for _ in range(3))
    extra_k, extra_v = (torch.randn(ENTRIES, HEADS, 1, DIM, generator=g, dtype=torch.float64) for _ in range(2))
    expected = torch.cat([
        F.scaled_dot_product_attention(q[:, :, :2], k[:, :, :2], v[:, :, :2]),
        F.scaled_dot_product_attention(q[:, :, 2:], torch.cat([k[:, :, 2:], extra_k], 2), torch.cat([v[:, :, 2:], extra_v], 2)),
    ], 2)  # fmt: skip

    def extra(n: int, first: bool) -> Extra:
        rows = torch.tensor([[False]] * 2 + [[True]] * 2) if n == 4 else torch.full((n, 1), not first)
        return Extra(extra_k, extra_v, rows, instead_of=("segment", 0))

    joined = [p.attend("s", q, k, v, context(plan, plan.all(), p), extra=extra(4, True)) for p in (Full(), Nothing())]
    policy, parts = Full(), []
    for i, step in enumerate(plan.steps):
        part = slice(2 * i, 2 * i + 2)
        parts.append(
            policy.attend(
                "s", q[:, :, part], k[:, :, part], v[:, :, part], context(plan, step, policy), extra=extra(2, i == 0)
            )
        )
        policy.end(step)
    for found in (*joined, torch.cat(parts, 2)):
        torch.testing.assert_close(found, expected)
    keys, values = context(plan, plan.steps[1], policy).kept("s", "segment", 0, k[:, :, 2:], v[:, :, 2:])
    assert torch.equal(keys, k[:, :, :2]) and torch.equal(values, v[:, :, :2])
    for p in (Full(), Nothing()):  # in a join the prefix is among the fed rows
        keys, values = context(plan, plan.all(), p).kept("s", "segment", 0, k, v)
        assert torch.equal(keys, k[:, :, :2]) and torch.equal(values, v[:, :, :2])


def test_kept_rows_must_be_there():
    plan, x = raster(1, 2), torch.zeros(ENTRIES, HEADS, 1, DIM)
    with pytest.raises(NextsetError, match="nothing is stored at 's'"):
        context(plan, plan.steps[1], Full()).kept("s", "segment", 0, x, x)
    with pytest.raises(NextsetError, match="cache='full'"):
        context(plan, plan.steps[1], Nothing()).kept("s", "segment", 0, x, x)


def test_policies_have_names():
    assert isinstance(make_policy("full"), Full) and isinstance(make_policy("none"), Nothing)
    assert make_policy("full").remembers and make_policy("state").remembers and not make_policy("none").remembers
    with pytest.raises(NextsetError, match="cache is 'ful', but must be one of full, state, none"):
        make_policy("ful")
