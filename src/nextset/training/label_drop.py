"""Training without the condition now and then, which is what guidance later subtracts."""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.protocols import NoiseSource


def drop_labels(labels: Tensor, index: Tensor, noise: NoiseSource, probability: float, none: int) -> Tensor:
    """Labels (B,) with `none` in their place with the given probability. index (B,): global sample indices, which address
    the noise."""
    if not probability:
        return labels
    u = noise.uniform(index, torch.zeros(1, dtype=torch.int64))[:, 0].to(labels.device)
    return torch.where(u < probability, none, labels)
