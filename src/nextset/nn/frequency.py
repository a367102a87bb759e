"""Frequencies of maps: how high a bin of the Fourier transform is, and maps without what is higher.

Bins are in FFT order, zero first; a map is (B, C, h, w). A frequency is a number in [0, 1], 1 at the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Shape = Literal["radial", "square"]


def frequency(h: int, w: int, shape: Shape = "radial") -> Tensor:
    """Of each bin, float64 (h, w): the radius over the corner's, or the larger of both axes' frequencies."""
    u = torch.fft.fftfreq(h, dtype=torch.float64).abs()[:, None] * 2
    v = torch.fft.fftfreq(w, dtype=torch.float64).abs()[None] * 2
    return ((u.square() + v.square()) / 2).sqrt() if shape == "radial" else torch.maximum(u, v)


def kept(h: int, w: int, cutoffs: Sequence[float], shape: Shape = "radial") -> Tensor:
    """Which bins lie at or under each cutoff, bool (n, h, w); a cutoff of 1 keeps all of them.

    Ties are common (cutoffs are fractions of small numbers), so that a little more than the cutoff is kept, in float64.
    """
    limits = torch.tensor([c + 1e-6 if c < 1 else torch.inf for c in cutoffs], dtype=torch.float64)
    return frequency(h, w, shape)[None] <= limits[:, None, None]


def low_pass(f: Tensor, cutoffs: Sequence[float], shape: Shape = "radial") -> Tensor:
    """A map without what lies above each cutoff: (B, C, h, w) -> (n, B, C, h, w). Linear, so gradients pass."""
    masks = kept(f.shape[-2], f.shape[-1], cutoffs, shape).to(f.device)
    spectrum = torch.fft.fft2(f)
    return torch.fft.ifft2(spectrum * masks[:, None, None]).real
