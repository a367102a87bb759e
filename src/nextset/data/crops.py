"""Pictures that are kept larger than they are seen, so that each sample sees another part of them.

It knows nothing of noise, labels or where pictures come from.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from torch import Tensor

from nextset.data.framing import middle


@dataclasses.dataclass(frozen=True)
class LargerPictures:
    """Pictures of several shapes, one after another.

    values: uint8, all pixels. sides: int64 (N, 2), height and width of each picture, none below `size`, the side of the
    square that is cut out.
    """

    values: np.ndarray
    sides: np.ndarray
    size: int

    def __len__(self) -> int:
        return len(self.sides)

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(3 * self.sides[:, 0] * self.sides[:, 1])])

    def picture(self, index: int) -> np.ndarray:
        """A whole picture, uint8 (H, W, 3); not a copy."""
        start, end = self._starts[index], self._starts[index + 1]
        return self.values[start:end].reshape(*self.sides[index], 3)

    def cut(self, indices: Tensor, u: Tensor | None = None) -> np.ndarray:
        """Squares of those pictures (B,): uint8 (B, size, size, 3).

        u: (B, 2) in [0, 1), where each lies between top and bottom, left and right; None: the middle.
        """
        out = np.empty((len(indices), self.size, self.size, 3), dtype=np.uint8)
        for row, index in enumerate(indices.tolist()):
            whole = self.picture(index)
            top, left = (
                middle(length, self.size) if u is None else int(float(u[row, axis]) * (length - self.size + 1))
                for axis, length in enumerate(whole.shape[:2])
            )
            out[row] = whole[top : top + self.size, left : left + self.size]
        return out
