"""The linear map for a few rows, and the parts of Llama's block that take another way without gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextset.nn import linear as module
from nextset.nn.linear import Linear, linear
from nextset.nn.llama import RMSNorm
from nextset.nn.rope import Turn, angles, frequencies, rotate, turns


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_a_few_rows_turned_around_are_the_product(monkeypatch, rows: int, bias: bool):
    monkeypatch.setattr(module, "LARGE", 1)
    monkeypatch.setattr(module, "_CAPABILITY", "AVX512")
    x, layer = torch.randn(rows, 1, 24), Linear(24, 40, bias=bias)
    expected = F.linear(x, layer.weight, layer.bias)
    with torch.no_grad():
        assert module._turned(x, layer.weight, rows) == (rows <= 4)
        found = layer(x)
    assert found.shape == expected.shape and found.is_contiguous()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("size", "rows", "on"),
    [
        ((2304, 768), 2, {"AVX512"}),
        ((16384, 768), 1, {"AVX512"}),
        ((16384, 768), 2, {"AVX512", "AVX2"}),
        ((16384, 768), 5, set()),
    ],
)
def test_turning_pays_where_it_was_measured_to_pay(size: tuple[int, int], rows: int, on: set[str]):
    assert {name for name in ("AVX512", "AVX2", "DEFAULT", "NEON") if module.pays(*size, rows, name)} == on


def test_gradients_and_small_weights_take_the_plain_way():
    x, weight = torch.randn(2, 8), torch.randn(4, 8, requires_grad=True)
    linear(x, weight).sum().backward()
    assert weight.grad is not None
    with torch.no_grad():
        assert torch.equal(linear(x, weight), F.linear(x, weight))
        assert not module._turned(x.bfloat16(), weight.bfloat16(), 2)


def test_the_norm_without_gradients_is_the_norm():
    norm, x = RMSNorm(24, 1e-5), torch.randn(3, 2, 24)
    norm.weight.data.uniform_(0.5, 2)
    x[0, 0] = 0
    expected = norm(x)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(norm(x), expected)
    assert torch.equal(x, before)


def test_all_ways_to_rotate_agree(monkeypatch):
    turn = turns(angles(torch.arange(5)[:, None], frequencies(4)))
    packed = torch.randn(2, 5, 6, 8)
    for x in (
        packed.transpose(1, 2)[:, :4],
        packed.transpose(1, 2).contiguous(),
        torch.randn(481)[1:].view(2, 6, 5, 8),  # pairs that begin at odd places
        torch.randn(2, 6, 5, 9)[..., :8],
        torch.randn(2, 6, 8, 5).transpose(2, 3),  # pairs that are torn apart
    ):
        with torch.enable_grad():
            expected = rotate(x, turn)
        with torch.no_grad():
            torch.testing.assert_close(rotate(x, Turn(turn)), expected)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            torch.testing.assert_close(rotate(x, turn), expected)
