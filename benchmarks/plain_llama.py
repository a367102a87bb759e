"""A plain implementation of LlamaGen's sampling, as one would write it from the paper: the thing that our engine is timed against.

One eager forward a token, keys and values grown by concatenation, guidance by doubling the batch, top-k by a threshold. It
takes the weights of our model by name and imports nothing of nextset, so that the two can be checked against each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Cache = dict[int, tuple[Tensor, Tensor]]


class PlainLlama:
    """Sampling from a state dict: `side` x `side` ids behind a class, heads of equal number for queries and keys."""

    def __init__(self, state: Mapping[str, Tensor], side: int, heads: int, eps: float = 1e-5) -> None:
        self.w, self.side, self.heads, self.eps = dict(state), side, heads, eps
        self.depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        self.classes = state["prefix.embedding.weight"].shape[0] - 1
        self.turns = self.table(state["token.weight"].shape[1] // heads).to(state["token.weight"].device)

    def table(self, width: int) -> Tensor:
        """(1 + L, d / 2, 2) cos and sin of each slot: half of the pairs turn by the row, half by the column; the class by 0."""
        freqs = 1.0 / 10000 ** (torch.arange(0, width // 2, 2)[: width // 4].float() / (width // 2))
        angle = torch.outer(torch.arange(self.side), freqs)
        y = angle[:, None].expand(-1, self.side, -1)
        x = angle[None].expand(self.side, -1, -1)
        both = torch.cat([y, x], -1).flatten(0, 1)
        turns = torch.stack([both.cos(), both.sin()], -1)
        return torch.cat([torch.zeros(1, *turns.shape[1:]), turns])

    def norm(self, x: Tensor, name: str) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).type_as(x) * self.w[name]

    def rotate(self, x: Tensor, slots: Tensor) -> Tensor:
        """x (rows, n, heads, d)."""
        pairs = x.float().reshape(*x.shape[:-1], -1, 2)
        cos, sin = self.turns[slots][:, None].unbind(-1)
        first, second = pairs.unbind(-1)
        return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2).type_as(x)

    def block(self, x: Tensor, i: int, slots: Tensor, cache: Cache) -> Tensor:
        p = f"blocks.{i}"
        q, k, v = F.linear(self.norm(x, f"{p}.attn_norm.weight"), self.w[f"{p}.attn.qkv.weight"]).chunk(3, -1)
        q, k, v = (t.view(*t.shape[:2], self.heads, -1) for t in (q, k, v))
        q, k, v = (t.transpose(1, 2) for t in (self.rotate(q, slots), self.rotate(k, slots), v))
        if i in cache:
            k, v = torch.cat([cache[i][0], k], 2), torch.cat([cache[i][1], v], 2)
        cache[i] = k, v
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + F.linear(h, self.w[f"{p}.attn.proj.weight"])
        h = self.norm(x, f"{p}.ffn_norm.weight")
        h = F.silu(F.linear(h, self.w[f"{p}.ffn.gate.weight"])) * F.linear(h, self.w[f"{p}.ffn.up.weight"])
        return x + F.linear(h, self.w[f"{p}.ffn.down.weight"])

    @torch.no_grad()
    def generate(self, labels: Tensor, u: Tensor, scale: float, top_k: int) -> Tensor:
        """ids (N, L) of classes (N,). u (N, L): uniforms of the draws."""
        n, length = u.shape
        both = torch.cat([labels, torch.full_like(labels, self.classes)])
        h, cache, ids = self.w["prefix.embedding.weight"][both][:, None], Cache(), []
        for t in range(length):
            slots = torch.tensor([t], device=h.device)
            for i in range(self.depth):
                h = self.block(h, i, slots, cache)
            logits = F.linear(self.norm(h, "norm.weight")[:, -1].float(), self.w["classifier.weight"])
            given, without = logits.split(n)
            logits = without + (given - without) * scale
            if top_k:
                least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
                logits = logits.masked_fill(logits < least, -math.inf)
            found = torch.searchsorted(logits.softmax(-1).cumsum(-1), u[:, t : t + 1].contiguous(), right=True)
            ids.append(found.clamp_max(logits.shape[-1] - 1))
            h = self.w["token.weight"][ids[-1].repeat(2, 1)]
        return torch.cat(ids, 1)
