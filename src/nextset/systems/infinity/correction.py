"""Bitwise self-correction: the model is trained on inputs with flipped bits, and on labels that repair them.

Some bits of each scale are flipped before they are fed; what is left for the next scales is computed from the flipped
ones, so that their labels mend the error. Source: sheet `infinity`, Training (arXiv 2412.04431, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nextset.core.noise import Noise
from nextset.tokenizers.bitwise import BitwiseQuantiser


def strengths(noise: Noise, step: int, scales: int, strength: float) -> list[float]:
    """Probability of a flip in each noisy scale of a training step: whole percents in [0, strength], one for the batch."""
    u = noise.of("strength").uniform(torch.tensor([step]), torch.arange(scales))[0]
    return [int(x * (round(100 * strength) + 1)) / 100 for x in u.tolist()]


@torch.no_grad()
def corrected(
    quantiser: BitwiseQuantiser,
    f: Tensor,
    sides: Sequence[tuple[int, int]],
    chances: Sequence[float],
    u: Tensor,
    *,
    requantise: bool = True,
) -> tuple[Tensor, Tensor]:
    """(labels, what is fed), bits (B, L, D) each, of feature maps f (B, d, H, W).

    chances: probability of a flip in each of the first scales; u (B, L, D): uniforms, a bit flips where u < chance.
    requantise: labels of later scales are of what the fed bits leave; else of what the true ones leave.
    """
    total, labels, fed, start = torch.zeros_like(f), [], [], 0
    for k, (h, w) in enumerate(sides):
        bits = quantiser.bits(quantiser.rest(f - total, (h, w)))
        seen = bits
        if k < len(chances):
            seen = bits ^ (u[:, start : start + h * w] < chances[k]).long()
        total = total + quantiser.contribution(quantiser.embed(seen if requantise else bits), k, sides)
        labels.append(bits)
        fed.append(seen)
        start += h * w
    return torch.cat(labels, 1), torch.cat(fed, 1)
