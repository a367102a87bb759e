"""Vector quantisers: a codebook, its nearest-code search and its health.

A quantiser turns vectors into ids and ids into vectors. How vectors of an image are laid out (one map, a pyramid of
residuals, a sequence) is the business of the tokenizer that owns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.noise import Noise

Distance = Literal["l2", "cosine"]


class Codebook(nn.Module):
    """V vectors of C channels with nearest-neighbour search by squared distance or by cosine.

    The vector that `forward` looks up is the raw code in both cases (sheet `var`, Tokenizer).
    """

    def __init__(self, vocabulary: int, channels: int, distance: Distance = "l2") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocabulary, channels))
        nn.init.trunc_normal_(self.weight, std=channels**-0.5)
        self.distance = distance

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...) -> vectors (..., C)."""
        return F.embedding(ids, self.weight)

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """z (..., C) -> ids (...) of the nearest code, in float32; the lowest id on ties."""
        flat, table = z.reshape(-1, z.shape[-1]).float(), self.weight.float()
        if self.distance == "cosine":
            scores = F.normalize(flat, dim=-1) @ F.normalize(table, dim=-1).T
            return scores.argmax(dim=1).view(z.shape[:-1])
        distance = flat.square().sum(1, keepdim=True) + table.square().sum(1)
        distance = torch.addmm(distance, flat, table.T, alpha=-2.0)
        return distance.argmin(dim=1).view(z.shape[:-1])


class Usage(nn.Module):
    """How often each code was used lately, by group (a scale): an exponential mean of hits per update.

    The statistics are buffers of the training state and no part of a model's weights.
    """

    hits: Tensor

    def __init__(self, groups: int, vocabulary: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("hits", torch.zeros(groups, vocabulary), persistent=True)

    @torch.no_grad()
    def record(self, ids: Sequence[Tensor]) -> None:
        """Count the ids (any shape) that each group used in this step, in the rows of all processes together."""
        vocabulary = self.hits.shape[1]
        counts = torch.stack([torch.bincount(i.reshape(-1), minlength=vocabulary) for i in ids])
        self.hits.lerp_(processes.total(counts.to(self.hits.dtype)), 1 - self.decay)

    def used(self, least: float = 1e-3) -> Tensor:
        """Share of codes in use by each group: (groups,) in [0, 1]. A code is used when its mean hits exceed `least`."""
        return (self.hits > least).float().mean(1)

    def perplexity(self) -> Tensor:
        """exp(entropy) of the code distribution by each group: (groups,), 1 = collapsed, V = uniform."""
        p = self.hits / self.hits.sum(1, keepdim=True).clamp_min(1e-12)
        return torch.exp(-(p * p.clamp_min(1e-12).log()).sum(1))


def revival_order(noise: Noise, step: int, rarity: Tensor) -> Tensor:
    """A random order (M,) of samples, drawn without replacement with weights 1 / rarity (M,), by Efraimidis and Spirakis'
    keys."""
    u = noise.of("revive").uniform(torch.tensor([step]), torch.arange(len(rarity)))[0].clamp_min(1e-12)
    return torch.argsort(u.log().to(rarity.device) * rarity, descending=True)


@torch.no_grad()
def revive(codebook: Codebook, usage: Usage, samples: Tensor, least: float, order: Tensor) -> Tensor:
    """Replace codes whose hits (summed over groups) lie under `least` by vectors that were just seen.

    samples: (M, C) encoder vectors of this step, the same in all processes; order: (M,) a random permutation, so that
    the choice is the caller's noise. Returns the number of replaced codes as a tensor. A revived code starts with the
    hits of an average one, or it would be replaced again before it could be chosen.
    """
    total = usage.hits.sum(0)
    dead = total < least
    slots = (dead.cumsum(0) - 1).clamp_min(0) % samples.shape[0]
    fresh = samples.index_select(0, order.index_select(0, slots)).to(codebook.weight.dtype)
    codebook.weight.data.copy_(torch.where(dead[:, None], fresh, codebook.weight.data))
    usage.hits.copy_(torch.where(dead[None], usage.hits.mean(1, keepdim=True).clamp_min(least), usage.hits))
    return dead.sum()
