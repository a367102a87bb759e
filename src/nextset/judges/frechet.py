"""The Frechet distance of two sets, taken for Gaussians: |difference of means|^2 plus a distance of covariances.

`Moments` gathers what it needs in parts, in float64, so that sets never lie in memory. Not square-rooted. Source: Dowson
and Landau 1982.
"""

from __future__ import annotations

import dataclasses

import numpy as np

# added to a standard deviation before it divides: a feature that never changes must not become infinite
_LEAST = 1e-6
_STILL = 100 * _LEAST


@dataclasses.dataclass
class Moments:
    """Count, mean (D,) and scatter (D, D) (sum of products of deviations), float64.

    Parts are joined by their means, not by sums of squares: nothing cancels, however far the mean is from 0.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, width: int) -> Moments:
        return cls(0, np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, x: np.ndarray) -> Moments:
        """Of the rows of (N, D); cast to float64 first."""
        x = x.astype(np.float64)
        mean = x.mean(0) if len(x) else np.zeros(x.shape[1])
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def join(self, other: Moments) -> Moments:
        """The moments of both sets together."""
        total = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / total)
        between = np.outer(step, step) * (self.count * other.count / total)
        return Moments(total, mean, self.scatter + other.scatter + between)

    def add(self, x: np.ndarray) -> None:
        """Take the rows of (N, D) in: `join` in place."""
        rows = x.astype(np.float64)
        if not len(rows):
            return
        total = self.count + len(rows)
        mean, share = rows.mean(0), len(rows) / total
        step = mean - self.mean
        # one more row, the distance of the means, turns both updates of the scatter into one product
        centred = np.vstack([rows - mean, step * np.sqrt(self.count * share)])
        self.scatter += centred.T @ centred
        self.mean = self.mean + step * share
        self.count = total

    @property
    def covariance(self) -> np.ndarray:
        """(D, D), unbiased (N - 1)."""
        return self.scatter / (self.count - 1)

    def mapped(self, offset: np.ndarray, matrix: np.ndarray) -> Moments:
        """Moments of (x - offset) @ matrix, with matrix (D, K)."""
        return Moments(self.count, (self.mean - offset) @ matrix, matrix.T @ self.scatter @ matrix)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Mean and standard deviation (N - 1) of a reference set, by which features are given equal weight."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, reference: Moments) -> Scale:
        return cls(reference.mean, np.sqrt(np.diag(reference.covariance)) + _LEAST)

    @property
    def still(self) -> int:
        """Features that hardly change in the reference: divided by nearly 0, one of them can outweigh all others."""
        return int((self.deviation < _STILL).sum())

    def __call__(self, moments: Moments) -> Moments:
        """The moments of the standardised set."""
        d = self.deviation
        return Moments(moments.count, (moments.mean - self.mean) / d, moments.scatter / np.outer(d, d))


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance; 0 up to rounding for equal moments.

    Both roots are of symmetric matrices (the root of the product of two covariances is not, and gives complex noise).
    """
    step = a.mean - b.mean
    ca, cb = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    inner = root @ cb @ root
    cross = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum()
    return float(step @ step + np.trace(ca) + np.trace(cb) - 2 * cross)
