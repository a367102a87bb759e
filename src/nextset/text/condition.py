"""Text as a condition: what every encoder gives and every generator reads.

Entries of one batch have texts of different lengths. They are stored side by side, padded at the end, with the lengths
beside them; what lies behind an entry's length never matters. It knows neither words nor encoders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """The texts of N entries. values: (N, T) int64 ids or (N, T, C) features; lengths: (N,) int64, 1 <= length <= T."""

    values: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, texts: Sequence[Tensor]) -> Text:
        """From one tensor (len_i, ...) a text."""
        lengths = torch.tensor([len(t) for t in texts])
        return cls(torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True), lengths)

    @classmethod
    def unpacked(cls, values: Tensor, ends: Tensor) -> Text:
        """From texts one behind another (sum of lengths, ...), with their cumulative lengths (N + 1,), 0 first."""
        return cls.of(values.split((ends[1:] - ends[:-1]).tolist()))

    @property
    def mask(self) -> Tensor:
        """(N, T) bool: True where there is text."""
        return (
            torch.arange(self.values.shape[1], device=self.values.device) < self.lengths.to(self.values.device)[:, None]
        )

    def pad_to(self, length: int) -> Text:
        """The same texts with room for `length`, which is not below T."""
        more = length - self.values.shape[1]
        pad = (0, 0) * (self.values.dim() - 2) + (0, more)
        return Text(F.pad(self.values, pad), self.lengths) if more else self

    def repeat_interleave(self, n: int) -> Text:
        """Each entry n times."""
        return Text(self.values.repeat_interleave(n, 0), self.lengths.repeat_interleave(n, 0))

    def to(self, device: torch.device | str) -> Text:
        """On a device."""
        return Text(self.values.to(device), self.lengths.to(device))

    def __len__(self) -> int:
        return self.values.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> Text:
        return Text(self.values[rows], self.lengths[rows])
