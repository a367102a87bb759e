"""Modulated blocks: their formulas, turns by map coordinates, conditions of all rows, of each, and of parts."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.nn.gated import GatedBlock, Stacks, among, hidden_width, map_turns, ratio_of
from nextset.nn.rope import rotate


def context(slots: Tensor) -> SimpleNamespace:
    """A context of one forward in which all rows see each other."""
    return SimpleNamespace(
        attr=lambda name: {"slot": slots}[name],
        attend=lambda site, q, k, v, raw=None: among(q, k, v),
        hook=lambda site, h: h,
    )


def block(**sizes: object) -> GatedBlock:
    torch.manual_seed(0)
    return GatedBlock(16, 2, 20, **sizes)  # type: ignore[arg-type]


def grid(side: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()


@pytest.mark.parametrize(("width", "ratio", "hidden"), [(768, 4, 2048), (1024, 4, 2730), (1280, 4, 3413), (48, 2, 64)])
def test_hidden_widths_are_rounded_down(width: int, ratio: float, hidden: int) -> None:
    assert hidden_width(width, ratio) == hidden
    assert ratio_of(width, hidden) == ratio
    assert hidden_width(width, ratio_of(width, hidden + 1)) == hidden + 1


def test_a_block_is_the_formula() -> None:
    b, x, cond, turn = block(), torch.randn(2, 4, 16), torch.randn(2, 1, 16), map_turns(grid(2), 8)
    g1, g2, s1, s2, b1, b2 = b.modulation(cond).chunk(6, -1)

    def norm(x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    h = norm(x) * (1 + s1) + b1
    q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in b.attn.qkv(h).chunk(3, -1))
    weights = (rotate(q, turn) @ rotate(k, turn).transpose(-1, -2) / math.sqrt(8)).softmax(-1)
    x1 = x + g1 * b.attn.proj((weights @ v).transpose(1, 2).flatten(2))
    h = norm(x1) * (1 + s2) + b2
    x2 = x1 + g2 * b.ffn.down(F.gelu(b.ffn.gate(h)) * b.ffn.up(h))
    torch.testing.assert_close(b(x, b.modulate(cond), among, turn), x2, atol=1e-5, rtol=1e-5)


def test_turns_go_round_with_rows_in_the_first_half_and_columns_in_the_second() -> None:
    cos, sin = map_turns(torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0]]), 8)
    rates = 10000.0 ** (-4 * torch.arange(2) / 8)
    torch.testing.assert_close(sin[1], torch.cat([(3 * rates).sin(), torch.zeros(2)]))
    torch.testing.assert_close(cos[2], torch.cat([torch.ones(2), (5 * rates).cos()]))
    assert not sin[0].any()
    # products depend on differences alone
    q, k = torch.randn(2, 1, 1, 1, 8)
    at = lambda y, x: map_turns(torch.tensor([[float(y), float(x)]]), 8)  # noqa: E731
    one, two = ((rotate(q, at(y, x)) * rotate(k, at(y + 2, x - 1))).sum() for y, x in ((0, 1), (7, 3)))
    torch.testing.assert_close(one, two)


def test_conditions_of_rows_are_those_of_all_where_they_are_equal() -> None:
    b, x, turn = block(condition=6, bias=False), torch.randn(2, 4, 16), map_turns(grid(2), 8)
    cond = torch.randn(2, 1, 6)
    whole = b(x, b.modulate(cond), among, turn)
    torch.testing.assert_close(b(x, b.modulate(cond.expand(-1, 4, -1)), among, turn), whole)
    other = torch.cat([cond.expand(-1, 3, -1), cond + 1], 1)
    assert not torch.allclose(b(x, b.modulate(other), among, turn), whole)
    assert b.attn.qkv.bias is None and b.attn.proj.bias is not None


def test_stacks_have_tables_turns_and_norms_of_their_own() -> None:
    torch.manual_seed(0)
    stacks = Stacks(9, 16, (1, 2), (1, 2))
    assert len(stacks.encoder) == 1 and len(stacks.decoder) == 2 and stacks.head_widths == [16, 8]
    tables = torch.cat([stacks.encoder_position, stacks.decoder_position]).detach()
    assert 0.01 < float(tables.std()) < 0.03 and not stacks.decoder_in.bias.any()
    assert all(bool(b.modulation.weight.any()) for b in stacks.encoder), "nothing begins at zero"
    ctx, x, cond, places = context(torch.arange(9)), torch.randn(2, 9, 16), torch.randn(2, 1, 16), grid(3)
    out = stacks(x, cond, places, ctx)
    torch.testing.assert_close(out.square().mean(-1), torch.ones(2, 9), atol=1e-4, rtol=1e-4)
    order = torch.randperm(9)  # rows lie in any order: slots and coordinates say which they are
    again = stacks(x[:, order], cond, places[order], context(order))
    torch.testing.assert_close(again, out[:, order], atol=1e-5, rtol=1e-5)


def test_parts_share_a_condition() -> None:
    torch.manual_seed(0)
    stacks, x, ctx = Stacks(4, 16, (1, 1), (2, 2)), torch.randn(2, 4, 16), context(torch.arange(4))
    cond, spread = torch.randn(2, 2, 16), torch.tensor([0, 0, 1, 1])
    parts = stacks(x, cond, grid(2), ctx, spread=spread)
    torch.testing.assert_close(stacks(x, cond[:, spread], grid(2), ctx), parts)


def test_dropout_acts_in_training_alone() -> None:
    b, x, cond, turn = block(dropout=0.5), torch.randn(2, 4, 16), torch.randn(2, 1, 16), map_turns(grid(2), 8)
    draws = [b(x, b.modulate(cond), among, turn) for _ in range(2)]
    assert not torch.equal(*draws)
    b.eval()
    draws = [b(x, b.modulate(cond), among, turn) for _ in range(2)]
    assert torch.equal(*draws)
