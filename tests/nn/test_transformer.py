"""Transformer parts against formulas written out, with a context that attends to everything."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextset.nn.transformer import AdaptiveBlock, DropPath, FeedForward, Modulation, SelfAttention, modulated_norm

ROWS, N, C, HEADS = 2, 5, 12, 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


class Whole:
    """A context in which every row sees every row; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float | None]] = []

    def attend(self, site: str, q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, **_: Any) -> Tensor:
        self.asked.append((site, scale))
        self.q, self.k = q, k
        weights = (q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)).softmax(-1)
        return weights @ v


def randomise(module: torch.nn.Module) -> None:
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)


def test_modulated_norm():
    x, scale, shift = randn(ROWS, N, C), randn(ROWS, 1, C, seed=1), randn(ROWS, 1, C, seed=2)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale + shift
    torch.testing.assert_close(modulated_norm(x, scale, shift, 1e-6), expected)


def test_modulation_is_gates_scales_shifts():
    six = randn(ROWS, 6, C)
    m = Modulation.of(six)
    assert all(v.shape == (ROWS, 1, C) for v in m)
    for name, i, one in [
        ("gate_attn", 0, 0),
        ("gate_ffn", 1, 0),
        ("scale_attn", 2, 1),
        ("scale_ffn", 3, 1),
        ("shift_attn", 4, 0),
        ("shift_ffn", 5, 0),
    ]:
        torch.testing.assert_close(getattr(m, name)[:, 0], six[:, i] + one)


@pytest.mark.parametrize("l2_norm", [True, False])
def test_self_attention(l2_norm):
    layer, ctx, x = SelfAttention(C, HEADS, l2_norm), Whole(), randn(ROWS, N, C)
    randomise(layer)
    if l2_norm:
        with torch.no_grad():
            layer.scale.copy_(torch.tensor([0.0, 1.0, 9.0]).view(1, 3, 1, 1))
    q, k, v = (x @ layer.qkv.weight.T).chunk(3, -1)
    q, v = q + layer.q_bias, v + layer.v_bias  # the key has no bias
    outs = []
    for h in range(HEADS):
        part = slice(h * 4, h * 4 + 4)
        a, b = q[..., part], k[..., part]
        if l2_norm:
            a = a / a.norm(dim=-1, keepdim=True) * math.exp(min([0.0, 1.0, 9.0][h], math.log(100)))
            b = b / b.norm(dim=-1, keepdim=True)
            w = (a @ b.transpose(-1, -2)).softmax(-1)
        else:
            w = (a @ b.transpose(-1, -2) * 0.25 / math.sqrt(4)).softmax(-1)
        outs.append(w @ v[..., part])
    expected = torch.cat(outs, -1) @ layer.proj.weight.T + layer.proj.bias
    torch.testing.assert_close(layer(x, ctx, "site"), expected, atol=1e-5, rtol=1e-4)
    assert ctx.asked == [("site", 1.0 if l2_norm else 0.25 / 2)]
    if l2_norm:
        torch.testing.assert_close(ctx.k.norm(dim=-1), torch.ones(ROWS, HEADS, N))


def test_feed_forward():
    layer, x = FeedForward(C, 7), randn(ROWS, N, C)
    expected = F.gelu(x @ layer.up.weight.T + layer.up.bias, approximate="tanh") @ layer.down.weight.T + layer.down.bias
    torch.testing.assert_close(layer(x), expected)


def test_drop_path_drops_samples_while_training():
    x, layer = torch.ones(4000, 2, 3), DropPath(0.25)
    assert torch.equal(layer.eval()(x), x) and torch.equal(DropPath(0.0).train()(x), x)
    torch.manual_seed(0)
    found = layer.train()(x)
    values = found.flatten(1)
    assert (values == values[:, :1]).all(), "a whole sample at a time"
    assert set(values[:, 0].unique().tolist()) == {0.0, values.max().item()} and math.isclose(
        values.max().item(), 1 / 0.75, rel_tol=1e-6
    )
    assert abs((values[:, 0] == 0).float().mean() - 0.25) < 0.03


@pytest.mark.parametrize("shared", [False, True])
def test_an_adaptive_block(shared):
    block, ctx, x, cond = (
        AdaptiveBlock(C, HEADS, 2.0, shared=shared, l2_norm=True, drop_path=0.0, eps=1e-6),
        Whole(),
        randn(ROWS, N, C),
        randn(ROWS, C, seed=3),
    )
    randomise(block)
    common = randn(ROWS, 6, C, seed=4)
    m = block.modulate(cond, common if shared else None)
    six = (
        block.offset[0] + common
        if shared
        else (cond @ block.modulation.weight.T + block.modulation.bias).view(ROWS, 6, C)
    )
    g1, g2, s1, s2, b1, b2 = (six[:, i : i + 1] for i in range(6))
    y = x + block.attn(F.layer_norm(x, (C,), eps=1e-6) * (1 + s1) + b1, Whole(), "") * g1
    expected = y + block.ffn(F.layer_norm(y, (C,), eps=1e-6) * (1 + s2) + b2) * g2
    torch.testing.assert_close(block(x, m, ctx, "blocks.0"), expected, atol=1e-5, rtol=1e-4)
    assert [site for site, _ in ctx.asked] == ["blocks.0"]
    assert (block.offset is not None) == shared and (block.modulation is None) == shared


@pytest.mark.parametrize("shared", [False, True])
def test_gradients_reach_every_parameter_of_a_block(shared):
    block = AdaptiveBlock(C, HEADS, 2.0, shared=shared, l2_norm=True, drop_path=0.0, eps=1e-6)
    randomise(block)
    m = block.modulate(randn(ROWS, C), randn(ROWS, 6, C) if shared else None)
    (block(randn(ROWS, N, C), m, Whole(), "") * randn(ROWS, N, C, seed=9)).sum().backward()
    assert [n for n, p in block.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []
