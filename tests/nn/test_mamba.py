"""Mamba-2: the chunked scan is the recurrence of its paper, and its state carries a sequence on."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextset.nn import mamba
from nextset.nn.mamba import Mamba2, scan


def inputs(length: int, heads: int = 3, p: int = 4, n: int = 5) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(length)
    x, dt = torch.randn(2, length, heads, p, generator=g), F.softplus(torch.randn(2, length, heads, generator=g))
    decay = -torch.rand(heads, generator=g) * 3 - 0.1
    return x, dt, decay, torch.randn(2, length, n, generator=g), torch.randn(2, length, n, generator=g)


def recurrence(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Position by position, in float64."""
    x, dt, decay, b, c, h = (t.double() for t in (x, dt, decay, b, c, h))
    out = []
    for t in range(x.shape[1]):
        h = h * (dt[:, t] * decay).exp()[..., None, None]
        h = h + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, None, None]
        out.append((h * c[:, t, None, None]).sum(-1))
    return torch.stack(out, 1), h


@given(st.integers(1, 40), st.sampled_from([1, 3, 8, 64]))
def test_the_scan_is_the_recurrence(length: int, chunk: int) -> None:
    start = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(7))
    wanted, last = recurrence(*inputs(length), start)
    y, state = scan(*inputs(length), start, chunk)
    torch.testing.assert_close(y.double(), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(state.double(), last, atol=1e-4, rtol=1e-4)


def test_long_steps_forget_without_overflow() -> None:
    x, dt, decay, b, c = inputs(100)
    y, state = scan(x, dt * 1000, decay, b, c)
    assert bool(y.isfinite().all()) and bool(state.isfinite().all())


@pytest.mark.parametrize("split", [1, 2, 11, 39])
def test_a_state_carries_the_sequence_on(split: int) -> None:
    torch.manual_seed(0)
    mixer = Mamba2(32, state=8, head_width=16).eval()
    u = torch.randn(2, 40, 32)
    with torch.no_grad():
        whole, _ = mixer(u)
        first, state = mixer(u[:, :split])
        second, _ = mixer(u[:, split:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-5, rtol=1e-4)
    assert state[0].shape == (2, 64 + 16, 3) and state[1].shape == (2, 4, 16, 8)


def test_later_inputs_change_no_earlier_output() -> None:
    torch.manual_seed(0)
    mixer, u = Mamba2(32, state=8, head_width=16), torch.randn(1, 20, 32)
    other = u.clone()
    other[:, 12] += 1
    same = (mixer(u)[0] == mixer(other)[0]).all(-1)[0]
    assert bool(same[:12].all()) and not bool(same[12:].any())


def test_the_state_stays_float32_when_the_rest_is_not() -> None:
    torch.manual_seed(0)
    mixer = Mamba2(32, state=8, head_width=16)
    exact, _ = mixer(u := torch.randn(1, 20, 32))
    rough, (tail, state) = mixer.bfloat16()(u.bfloat16())
    assert state.dtype == torch.float32 and tail.dtype == torch.bfloat16 and rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.1)


def test_the_kernel_gets_what_it_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A double of mamba-ssm's kernel, which computes the recurrence: shapes, order, dtypes, and the state that goes on. The
    kernel itself needs a GPU."""
    asked = {}

    def kernel(x, dt, A, B, C, chunk_size, *, initial_states=None, return_final_states=False):
        assert return_final_states and all(t.is_contiguous() for t in (x, dt, B, C))
        asked.update(x=x, dt=dt, A=A, B=B, C=C, chunk_size=chunk_size)
        start = torch.zeros(2, 3, 4, 5) if initial_states is None else initial_states
        return recurrence(x, dt, A, B[:, :, 0], C[:, :, 0], start)

    module = types.ModuleType("mamba_ssm.ops.triton.ssd_combined")
    module.mamba_chunk_scan_combined = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.triton.ssd_combined", module)
    mamba._kernel.cache_clear()
    start = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(7))
    for h in (None, start):
        y, state = mamba.scan_by_kernel(*inputs(30), h, 8)
        wanted, last = scan(*inputs(30), h, 8)
        torch.testing.assert_close(y.float(), wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(state, last, atol=1e-4, rtol=1e-4)
    assert asked["B"].shape == (2, 30, 1, 5) and asked["chunk_size"] == 8
    monkeypatch.delitem(sys.modules, "mamba_ssm.ops.triton.ssd_combined")
    mamba._kernel.cache_clear()
    assert mamba._kernel() is None, "not installed here"
