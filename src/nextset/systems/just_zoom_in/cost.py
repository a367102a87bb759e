"""What a search costs, and what retrieval costs, counted: by the size of the map and of the last cell.

Source: sheet `just_zoom_in`, Miniature claim (b).
"""

from __future__ import annotations

import dataclasses
import math

from nextset.core.errors import check_range


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one photo on a map that was never seen. steps: decisions. images: that the encoder reads. positions: of the decoder
    until the last decision. gallery: cells that retrieval encodes once, and compares each photo with. gallery_bytes: of their
    vectors in float32."""

    steps: int
    images: int
    positions: int
    gallery: int
    gallery_bytes: int

    @property
    def retrieval_images(self) -> int:
        """Pictures that retrieval encodes for the first photo of a map."""
        return self.images - self.steps + self.gallery


def cost(side: float, cell: float, *, grid: int = 4, crops: int = 2, width: int = 768) -> Cost:
    """side: of the map in metres; cell: most of the last cell's. crops: of a photo. width: of the encoder's vectors."""
    check_range("side", side, 1e-3, 1e8)
    check_range("cell", cell, 1e-3, side, remedy="it is a part of the map")
    check_range("grid", grid, 2, 32)
    steps = max(1, math.ceil(math.log(side / cell, grid) - 1e-9))
    gallery = math.ceil(side / cell - 1e-9) ** 2
    return Cost(steps, crops + steps, 2 * steps, gallery, 4 * width * gallery)
