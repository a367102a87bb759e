"""The attention kernel. Called by cache policies, and by layers only where a condition is attended to, which has no slots
(everything else goes through `ctx.attend`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(q k^T scale) v for q (rows, H, n, d), k and v (rows, H, t, d) -> (rows, H, n, d).

    mask: bool, True = may attend, broadcastable to (rows, H, n, t). scale: 1/sqrt(d) when None. Keys that were stored in
    another dtype (a policy's choice) are read in the queries' dtype.
    """
    if not k.dtype == v.dtype == q.dtype:
        k, v = k.to(q.dtype), v.to(q.dtype)
    if torch.is_grad_enabled() and q.shape[1] == k.shape[1] and _composed(q, k):
        scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-1, -2)
        if mask is not None:
            scores = scores + torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, torch.finfo(q.dtype).min / 2)
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])


def _composed(q: Tensor, k: Tensor) -> bool:
    """Plain products for training short sequences in bfloat16 on a CPU: there the backward of the fused kernel takes
    twice as long (measured at 64 x 3 heads x 130 rows)."""
    return q.requires_grad and q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= 512
