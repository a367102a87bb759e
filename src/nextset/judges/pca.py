"""Pictures on the main axes of a reference set: colour, layout, global structure. Blind to fine texture."""

from __future__ import annotations

import dataclasses

import numpy as np

from nextset.judges.frechet import Moments
from nextset.judges.pixels import box_resize

SIDE = 32
COMPONENTS = 64


def flat_pixels(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 3) -> float64 (N, D) in [0, 1], HWC order; pictures above 32 pixels are resized to 32 x 32."""
    x = box_resize(images, SIDE) if max(images.shape[1:3]) > SIDE else images.astype(np.float64)
    return x.reshape(len(x), -1) / 255


@dataclasses.dataclass(frozen=True)
class Basis:
    """mean (D,), axes (D, K) and their variances (K,), largest first."""

    mean: np.ndarray
    axes: np.ndarray
    variances: np.ndarray

    @classmethod
    def of(cls, pixels: Moments, components: int = COMPONENTS) -> Basis:
        """Of the moments of `flat_pixels`; variances are those of the set itself (1 / N)."""
        values, vectors = np.linalg.eigh(pixels.scatter / pixels.count)
        return cls(pixels.mean, vectors[:, ::-1][:, :components].copy(), values[::-1][:components].copy())

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) -> float64 (N, K)."""
        return (flat_pixels(images) - self.mean) @ self.axes
