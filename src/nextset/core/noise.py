"""Counter-based noise: every random number is a pure function of what it is for.

Philox 4x32-10. The key is a 64-bit hash of (seed, purpose); the counter is (image, candidate and attempt, position,
lane // 4) and a lane picks one of the four words. So a number does not depend on batch size, order, device or on what
was drawn before: the same image comes out alone, in a batch of 64, or resumed half way.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"; normal quantile: Wichura 1988 (AS241).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


def _high_low(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * m, for a < 2^32 in int64 (the product itself would overflow: m is cut in halves)."""
    low, high = a * (m & 0xFFFF), a * (m >> 16)
    total = low + ((high & 0xFFFF) << 16)
    return (high >> 16) + (total >> 32), total & _MASK


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int | Tensor, int | Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox 4x32: four words < 2^32 (int64, broadcastable) and a key of two words (numbers, or tensors that
    broadcast with them) -> four words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        h0, l0 = _high_low(c0, _M0)
        h1, l1 = _high_low(c2, _M1)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = (k0 + _W0) & _MASK, (k1 + _W1) & _MASK
    return c0, c1, c2, c3


class Noise:
    """A source of numbers addressed by (image, position, lane), for one seed and one purpose.

    `of(purpose)` gives an independent source; purposes nest. Addresses: images (N,) and positions (m,) or (N, m), int64
    >= 0; attempt: candidate << 16 | attempt, a number or (N,).
    """

    def __init__(self, seed: int, purpose: str = "") -> None:
        self.seed, self.purpose = int(seed), purpose
        digest = hashlib.blake2b(f"{self.seed}\0{purpose}".encode(), digest_size=8).digest()
        self.key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little"))

    def of(self, purpose: str) -> Noise:
        """The source for another purpose under the same seed."""
        return Noise(self.seed, f"{self.purpose}/{purpose}")

    def words(self, images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int = 1) -> Tensor:
        """32-bit words as int64: (N, m, lanes)."""
        return self._words(images, positions, attempt, lanes, self.key)

    @staticmethod
    def _words(
        images: Tensor,
        positions: Tensor,
        attempt: int | Tensor,
        lanes: int,
        key: tuple[int, int] | tuple[Tensor, Tensor],
    ) -> Tensor:
        """The words of a key, or of keys (k, 1, 1, 1): (N, m, lanes), or (k, N, m, lanes)."""
        device = images.device
        positions = positions.to(device)
        image = images.to(torch.int64)[:, None, None] & _MASK
        position = (positions if positions.dim() == 2 else positions[None])[..., None] & _MASK
        tries = (
            attempt.to(device)[:, None, None] if isinstance(attempt, Tensor) else torch.tensor(attempt, device=device)
        )
        blocks = torch.arange((lanes + 3) // 4, device=device)
        shape = torch.broadcast_shapes(image.shape, position.shape, blocks.shape)
        four = philox(
            (image.expand(shape), (tries & _MASK).expand(shape), position.expand(shape), blocks.expand(shape)), key
        )
        return torch.stack(four, -1).flatten(-2)[..., :lanes]

    def uniform(
        self, images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int | None = None
    ) -> Tensor:
        """Uniform float32 in [0, 1) with 24 bits: (N, m), or (N, m, lanes)."""
        u = (self.words(images, positions, attempt=attempt, lanes=lanes or 1) >> 8).to(torch.float32) * 2.0**-24
        return u if lanes is not None else u[..., 0]

    def normal(
        self, images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int | None = None
    ) -> Tensor:
        """Standard normal float32, the quantile of a 32-bit uniform: (N, m), or (N, m, lanes)."""
        z = _normal(self.words(images, positions, attempt=attempt, lanes=lanes or 1))
        return z if lanes is not None else z[..., 0]

    def normals(
        self,
        purposes: Sequence[str],
        images: Tensor,
        positions: Tensor,
        *,
        attempt: int | Tensor = 0,
        lanes: int,
    ) -> Tensor:
        """The normal numbers of several purposes at once, bit by bit those of `of(purpose).normal(...)`: (k, N, m, lanes).

        Few numbers cost as much as many: a loop that needs some at every turn asks for those of all its turns.
        """
        keys = torch.tensor([self.of(purpose).key for purpose in purposes], device=images.device)
        first, second = keys.view(-1, 2, 1, 1, 1).unbind(1)
        return _normal(self._words(images, positions, attempt, lanes, (first, second)))

    def permutation(self, n: int, index: int = 0) -> Tensor:
        """A random order of n things, int64 (n,): number `index` of this source."""
        words = self.words(torch.tensor([index]), torch.arange(n), lanes=2)[0]
        # 63-bit keys: ties are as good as impossible, and a stable sort decides them the same way everywhere
        return torch.argsort((words[:, 0] << 31) | (words[:, 1] >> 1), stable=True)


class Tape:
    """Numbers that were recorded elsewhere, behind the interface of `Noise`: parity cases inject the authors' draws.

    values: purpose -> (N, L) or (N, L, lanes); image i and position p read entry [i, p]. Purposes are matched by their
    last part.
    """

    def __init__(self, values: Mapping[str, Tensor], purpose: str = "") -> None:
        self.values, self.purpose = values, purpose

    def of(self, purpose: str) -> Tape:
        return Tape(self.values, purpose)

    def uniform(
        self, images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int | None = None
    ) -> Tensor:
        if self.purpose not in self.values:
            raise KeyError(f"the tape has no numbers for {self.purpose!r}; it has {', '.join(self.values)}")
        rows = self.values[self.purpose][images]
        index = (positions if positions.dim() == 2 else positions.expand(len(images), -1)).to(rows.device)
        return rows.gather(1, index if rows.dim() == 2 else index[..., None].expand(-1, -1, rows.shape[-1]))

    normal = uniform

    def normals(
        self, purposes: Sequence[str], images: Tensor, positions: Tensor, *, attempt: int | Tensor = 0, lanes: int
    ) -> Tensor:
        return torch.stack([self.of(p).normal(images, positions, attempt=attempt, lanes=lanes) for p in purposes])


def categorical(probs: Tensor, u: Tensor) -> Tensor:
    """Inverse-CDF draw: id = count(cumsum(p) <= u), ids ascending, never behind the last id with p > 0.

    probs (..., V) float32 after all filters, u (...) in [0, 1) -> ids (...) int64. Waits for nothing.
    """
    mass = probs.cumsum(-1)
    ids = torch.searchsorted(mass, u[..., None].to(mass.dtype).contiguous(), right=True)
    # the sum may end below 1 by rounding: a u above it must not fall on a removed id, but on the last one that adds to it
    return torch.minimum(ids, torch.searchsorted(mass, mass[..., -1:].contiguous())).squeeze(-1)


# ---- normal quantile


def _normal(words: Tensor) -> Tensor:
    """Standard normal float32 of 32-bit words."""
    device = words.device
    if device.type == "mps":  # no float64 there: the CPU's numbers are used
        words = words.cpu()
    return quantile((words.to(torch.float64) + 0.5) * 2.0**-32).to(torch.float32).to(device)


_A = (
    3.3871328727963666080,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
_B = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
_C = (
    1.42343711074968357734,
    4.63033784615654529590,
    5.76949722146069140550,
    3.64784832476320460504,
    1.27045825245236838258,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
_D = (
    1.0,
    2.05319162663775882187,
    1.67638483018380384940,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)
_E = (
    6.65790464350110377720,
    5.46378491116411436990,
    1.78482653991729133580,
    2.96560571828504891230e-1,
    2.65321895265761230930e-2,
    1.24266094738807843860e-3,
    2.71155556874348757815e-5,
    2.01033439929228813265e-7,
)
_F = (
    1.0,
    5.99832206555887937690e-1,
    1.36929880922735805310e-1,
    1.48753612908506148525e-2,
    7.86869131145613259100e-4,
    1.84631831751005468180e-5,
    1.42151175831644588870e-7,
    2.04426310338993978564e-15,
)


def _poly(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    total = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total = total * x + c
    return total


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of positive float64 by frexp and a series: only + - * /, so that every device gives the same bits."""
    mantissa, exponent = torch.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa = torch.where(low, mantissa * 2, mantissa)
    exponent = (exponent - low.to(exponent.dtype)).to(torch.float64)
    s = (mantissa - 1) / (mantissa + 1)
    s2 = s * s
    series = torch.full_like(s, 1 / 25)
    for k in range(23, 0, -2):
        series = series * s2 + 1 / k
    return exponent * 0.6931471805599453 + 2 * s * series


def quantile(p: Tensor) -> Tensor:
    """Inverse of the standard normal distribution function for float64 p in (0, 1), accurate to about 1e-15."""
    q = p - 0.5
    r = 0.180625 - q * q
    centre = q * _poly(_A, r) / _poly(_B, r)
    tail = torch.minimum(p, 1 - p)
    r = (-_log(tail)).sqrt()
    near = _poly(_C, r - 1.6) / _poly(_D, r - 1.6)
    far = _poly(_E, r - 5) / _poly(_F, r - 5)
    outer = torch.where(r <= 5, near, far)
    return torch.where(q.abs() <= 0.425, centre, torch.where(q < 0, -outer, outer))
