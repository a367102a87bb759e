"""The attention kernel. Called by cache policies, never by a layer (layers call `ctx.attend`)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(q k^T scale) v for q (rows, H, n, d), k and v (rows, H, t, d) -> (rows, H, n, d).

    mask: bool, True = may attend, broadcastable to (rows, H, n, t). scale: 1/sqrt(d) when None. Keys that were stored in
    another dtype (a policy's choice) are read in the queries' dtype.
    """
    return F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask, scale=scale)
