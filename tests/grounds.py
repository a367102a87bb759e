"""A map for tests: a formula for the colour of every place, so that it has every size, and no file."""

from __future__ import annotations

import torch
from torch import Tensor

START = (38.9, -77.0, 2560.0)


class Waves:
    """Colours are waves of several lengths over latitude and longitude. Counts the views that it was asked for; `edge`: of
    longitude, east of which it shows nothing."""

    native_mpp = 0.01

    def __init__(self, start: tuple[float, float, float] = START, edge: float | None = None) -> None:
        self.start, self.views = start, 0
        if edge is not None:
            self.covers = lambda lat, lon: lon <= edge

    def view(self, lat: Tensor, lon: Tensor, side_m: Tensor, pixels: int) -> Tensor:
        self.views += len(lat)
        at = ((torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels - 0.5)[None] * side_m[:, None]
        north = (lat[:, None] - START[0]) * 111_000 - at  # (N, P), metres
        east = (lon[:, None] - START[1]) * 86_000 + at
        place = torch.stack(torch.broadcast_tensors(north[:, :, None], east[:, None, :]), 1)
        waves = [(place.sum(1) / 300).sin(), (place[:, 0] / 70).sin(), (place[:, 1] / 25).cos()]
        return torch.stack(waves, 1).float()
