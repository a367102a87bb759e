"""Mamba-2: a causal mixer with a state of fixed size, computed chunk by chunk.

h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,  y_t = h_t C_t + D x_t, for each head with its own decay A. Inside a chunk this
is a masked product of matrices; between chunks only the state goes on. Nothing runs per position. On a GPU the kernel of
mamba-ssm is used where that package is installed.

Shapes: inputs (rows, L, width); state (rows, heads, P, N); P channels a head, N the state's size.
Source: Dao and Gu 2024, "Transformers are SSMs" (arXiv 2405.21060), section 6.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


def scan(
    x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, h: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Outputs (rows, L, heads, P) and the last state (rows, heads, P, N), in float32.

    x (rows, L, heads, P); dt (rows, L, heads) > 0; decay (heads,) < 0; b, c (rows, L, N), shared by the heads; h: the
    state before, zeros by default.
    """
    rows, length, heads, p = x.shape
    n, chunks = b.shape[-1], -(-length // chunk)
    size = -(-length // chunks)  # all alike, so that little is padded
    x, dt, b, c = x.float(), dt.float(), b.float(), c.float()
    pad = chunks * size - length
    if pad:  # steps of length 0: they neither decay nor add
        x, dt, b, c = (F.pad(t, (0, 0) * (t.dim() - 2) + (0, pad)) for t in (x, dt, b, c))
    x, dt, b, c = (t.unflatten(1, (chunks, size)) for t in (x, dt, b, c))  # (rows, chunks, size, ...)
    grown = (dt * decay).cumsum(2)  # log of the decay since the chunk began, this step's included
    scaled = x * dt[..., None]
    # within a chunk: row t takes what column s <= t added, decayed since
    by_head = grown.transpose(2, 3)
    causal = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
    decayed = (by_head[..., :, None] - by_head[..., None, :]).masked_fill(~causal, -torch.inf).exp()
    weights = decayed * (c @ b.transpose(-1, -2))[:, :, None]
    y = (weights @ scaled.transpose(2, 3)).transpose(2, 3)
    # what each chunk adds to the state by its end, and what the state before a chunk still gives to its rows: products of
    # matrices over all channels of all heads at once, since B and C are the same for every head
    rest = (grown[:, :, -1:] - grown).exp()[..., None] * scaled
    added = (rest.flatten(3).transpose(2, 3) @ b).unflatten(2, (heads, p))
    whole = grown[:, :, -1].exp()[..., None, None]
    state = x.new_zeros(rows, heads, p, n) if h is None else h.float()
    before = []
    for k in range(chunks):
        before.append(state)
        state = state * whole[:, k] + added[:, k]
    given = c @ torch.stack(before, 1).flatten(2, 3).transpose(2, 3)
    y = y + given.unflatten(3, (heads, p)) * grown.exp()[..., None]
    return y.flatten(1, 2)[:, :length], state


def scan_by_kernel(
    x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, h: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """`scan` by the Triton kernel of mamba-ssm, which keeps chunks on the chip."""
    kernel = _kernel()
    assert kernel is not None
    x, dt, b, c = (t.float().contiguous() for t in (x, dt, b[:, :, None], c[:, :, None]))  # B and C in one group
    y, state = kernel(x, dt, decay, b, c, chunk, initial_states=h, return_final_states=True)
    return y, state.float()


@functools.cache
def _kernel() -> Callable[..., Any] | None:
    try:
        return importlib.import_module("mamba_ssm.ops.triton.ssd_combined").mamba_chunk_scan_combined
    except ImportError:
        return None


class Mamba2(nn.Module):
    """Projection, short causal convolution, scan, gated RMS norm, projection; one group of B and C.

    width: of the input. state: N. head_width: P. expand: inner width over `width`. kernel: of the convolution. Names are
    those of the released layers.
    """

    def __init__(
        self, width: int, *, state: int = 64, head_width: int = 64, expand: int = 2, kernel: int = 4, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.inner, self.state, self.eps = expand * width, state, eps
        self.heads, mixed = self.inner // head_width, self.inner + 2 * state
        self.in_proj = nn.Linear(width, self.inner + mixed + self.heads, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, kernel, groups=mixed)
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.RMSNorm(self.inner, eps=eps)
        self.out_proj = nn.Linear(self.inner, width, bias=False)
        with torch.no_grad():
            step = torch.exp(torch.rand(self.heads) * (math.log(0.1) - math.log(1e-3)) + math.log(1e-3)).clamp_min(1e-4)
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
            self.A_log.copy_(torch.empty(self.heads).uniform_(1, 16).log())

    def forward(self, u: Tensor, before: State | None = None) -> tuple[Tensor, State]:
        """(rows, L, width) -> the same, and what a later call on the rest of the sequence needs as `before`."""
        gate, mixed, dt = self.in_proj(u).split([self.inner, self.inner + 2 * self.state, self.heads], -1)
        mixed = mixed.transpose(1, 2)
        width = self.conv1d.kernel_size[0] - 1
        past = mixed.new_zeros(*mixed.shape[:2], width) if before is None else before[0].to(mixed.dtype)
        mixed = torch.cat([past, mixed], -1)
        tail = mixed[..., mixed.shape[-1] - width :].contiguous()  # a view would keep the whole scale alive
        x, b, c = F.silu(self.conv1d(mixed)).transpose(1, 2).split([self.inner, self.state, self.state], -1)
        x = x.unflatten(-1, (self.heads, -1))
        dt = F.softplus(dt.float() + self.dt_bias.float())
        decay = -self.A_log.float().exp()
        with torch.autocast(u.device.type, enabled=False):  # sums over many steps: float32 whatever the rest runs in
            best = scan_by_kernel if x.is_cuda and _kernel() else scan
            y, state = best(x, dt, decay, b, c, None if before is None else before[1])
        y = (y + self.D.float()[:, None] * x.float()).flatten(2).to(u.dtype) * F.silu(gate)
        normed = F.rms_norm(y, (self.inner,), self.norm.weight.to(y.dtype), self.eps)
        return self.out_proj(normed), (tail, state)
