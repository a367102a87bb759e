"""Batches: which samples a step sees, as a pure function of (seed, step). Resuming needs nothing but the step number.

Of several processes each sees its rows of the same batch, in the order of the processes, so that their number changes
nothing but who sees what. It knows only how many samples there are; loading and augmenting them is the data's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextset.core import processes
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise


def rows_of_one(batch: int, count: int) -> int:
    """Rows that each of `count` processes sees of a batch; NextsetError if they do not get equally many."""
    if batch % count:
        more = -(-batch // count) * count
        raise NextsetError(f"batch is {batch}, but {count} processes must get equally many rows of it; choose {more}")
    return batch // count


def check_rows(batch: Any, rows: int) -> None:
    """Each of several processes trains on `rows` rows of its own, or the batch would be smaller than it is said to be."""
    tensors = [batch] if isinstance(batch, Tensor) else batch.values() if isinstance(batch, dict) else []
    found = next((len(t) for t in tensors if isinstance(t, Tensor) and t.dim()), rows)
    if processes.count() > 1 and found != rows:
        raise NextsetError(
            f"a batch has {found} rows, but each of the {processes.count()} processes sees {rows} of "
            f"{rows * processes.count()}; take indices from nextset.training.batches"
        )


class Batches:
    """Endless epochs over n samples, cut into batches; a batch may reach into the next epoch, so none is short.

    weights: None: each epoch is a permutation. Else n numbers >= 0: an epoch is n draws with replacement in proportion
    to them, spread evenly over their sum (one draw in each of n equal slices, in random order), so that each sample
    comes as often as its weight says, within one, in every epoch.
    batch: rows of all processes together. share: (number of the process, how many there are); None: as it is.
    """

    def __init__(
        self,
        n: int,
        batch: int,
        seed: int,
        weights: Sequence[float] | Tensor | None = None,
        share: tuple[int, int] | None = None,
    ) -> None:
        if n < 1:
            raise NextsetError(f"there are {n} samples to train on, but at least 1 is needed; check the data's path")
        self.n, self.batch, self.share = n, batch, share
        self._noise = Noise(seed, "batches")
        self._sums: Tensor | None = None
        if weights is not None:
            given = torch.as_tensor(weights, dtype=torch.float64)
            usable = bool(torch.isfinite(given).all()) and bool((given >= 0).all()) and float(given.sum()) > 0
            if given.shape != (n,) or not usable:
                raise NextsetError(f"weights must be {n} finite numbers >= 0 that are not all 0, one for each sample")
            self._sums = given.cumsum(0)
        self._orders: dict[int, Tensor] = {}

    def samples(self, step: int) -> Tensor:
        """Global sample index of each row of this process: int64 (batch / processes,), never the same twice.
        Augmentation draws its noise by it."""
        rank, count = self.share or (processes.rank(), processes.count())
        rows = rows_of_one(self.batch, count)
        first = step * self.batch + rank * rows
        return torch.arange(first, first + rows)

    def indices(self, step: int) -> Tensor:
        """Which of the n samples each row of this process is: int64 (batch / processes,)."""
        samples = self.samples(step)
        epochs, places = samples // self.n, samples % self.n
        result = torch.empty_like(samples)
        for epoch in epochs.unique().tolist():
            rows = epochs == epoch
            result[rows] = self._order(epoch)[places[rows]]
        if self._sums is None:
            return result
        words = self._noise.of("draw").uniform(samples, torch.arange(2)).double()
        point = (result + words[:, 0] + words[:, 1] * 2.0**-24) / self.n * self._sums[-1]
        return torch.searchsorted(self._sums, point, right=True).clamp(max=self._last)

    @property
    def _last(self) -> int:
        """The last sample with a weight: rounding of a sum must not draw one without."""
        assert self._sums is not None
        return int(torch.searchsorted(self._sums, self._sums[-1]))

    def _order(self, epoch: int) -> Tensor:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = self._noise.permutation(self.n, epoch)
        return self._orders[epoch]
