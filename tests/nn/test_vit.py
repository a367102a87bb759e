"""The plain vision transformer block and fixed positions, against formulas written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from nextset.nn import sincos
from nextset.nn.vit import ViTBlock


@pytest.mark.parametrize("bias", [False, True])
def test_a_block_is_its_formula(bias: bool) -> None:
    torch.manual_seed(0)
    block = ViTBlock(12, 3, mlp_ratio=2.0, qkv_bias=bias, eps=0.1).double()
    assert (block.attn.qkv.bias is not None) == bias
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    h = F.layer_norm(x, (12,), eps=0.1)
    q, k, v = block.attn.qkv(h).chunk(3, -1)
    heads = []
    for part in range(3):
        own = slice(4 * part, 4 * part + 4)
        weights = (q[..., own] @ k[..., own].transpose(1, 2) / 2).softmax(-1)
        heads.append(weights @ v[..., own])
    y = x + block.attn.proj(torch.cat(heads, -1))
    inner = block.mlp.fc1(F.layer_norm(y, (12,), eps=0.1))
    y = y + block.mlp.fc2(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))
    torch.testing.assert_close(block(x), y)


def test_a_line_has_sines_before_cosines() -> None:
    table = sincos.line(torch.tensor([0, 3]), 4)
    rates = [1.0, 0.01]
    expected = [[0, 0, 1, 1], [*(math.sin(3 * r) for r in rates), *(math.cos(3 * r) for r in rates)]]
    torch.testing.assert_close(table, torch.tensor(expected))


def test_a_clip_tells_column_row_and_frame() -> None:
    table = sincos.clip(2, 3, 4, 16).view(2, 3, 4, 16)
    frame = sincos.line(torch.arange(2), 16)
    inside = table - frame[:, None, None]
    for y in range(3):
        torch.testing.assert_close(inside[1, y, :, :8], sincos.line(torch.arange(4), 8))
    for x in range(4):
        torch.testing.assert_close(inside[0, :, x, 8:], sincos.line(torch.arange(3), 8))
