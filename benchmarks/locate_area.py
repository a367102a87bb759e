"""What it costs to find a photo on maps of 1, 4, 16 and 64 times the area, by zooming and by retrieval.

    nextset bench locate-area
    nextset bench locate-area -- --times 1 2 --photos 4

The last cells have 40 m (20 m where zooming has a choice of four by four too many), the encoders are those of the recipes,
with random weights, of which costs do not depend. A map is a city of 2.56 km, repeated, and nobody has seen it before: the first
photo waits until retrieval has encoded the gallery. CPU seconds, all threads.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.ab import file_result, machine, seconds
from nextset.core.errors import check_range
from nextset.data.city import City
from nextset.systems.just_zoom_in import JustZoomIn, JustZoomInConfig
from nextset.systems.just_zoom_in.cost import cost
from nextset.systems.just_zoom_in.retrieval import Retrieval, RetrievalConfig
from nextset.training.recipes import load_recipe

CELL = 40.0  # metres


class Repeated(City):
    """A city, `times` times in either direction."""

    def __init__(self, city: City, times: int) -> None:
        self.city, self.side, self.lat, self.lon = city, city.side * times, city.lat, city.lon

    def _integral(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Of whole cities, of strips of them, and of what is left."""
        whole, one = self.city.side, self.city._integral
        (down, y), (along, x) = np.divmod(rows, whole), np.divmod(columns, whole)
        all_rows, all_columns = np.full_like(y, whole), np.full_like(x, whole)
        down, along = down[:, :, None, None], along[:, None, :, None]
        strips = down * one(all_rows, x) + along * one(y, all_columns)
        return down * along * one(all_rows, all_columns) + strips + one(y, x)


def models(side: float) -> tuple[JustZoomIn, Retrieval]:
    """Of the recipes' shapes, for a map of a side: zooming with a 4 x 4 grid, and as many cells of 40 m for retrieval."""
    sizes = cost(side, CELL)
    halvings = round(np.log2(side / CELL))
    torch.manual_seed(0)
    zoom = JustZoomInConfig.from_dict({**load_recipe("just_zoom_in-city").model, "steps": sizes.steps})
    flat = RetrievalConfig.from_dict({**load_recipe("retrieval-city").model, "grid": 2, "steps": halvings})
    return JustZoomIn(zoom).eval(), Retrieval(flat).eval()


@torch.no_grad()
def measure(ground: City, photos: Tensor) -> dict[str, Any]:
    """Photos (N, 3, P, 2P): the median of one by zooming, the first and a later one by retrieval, and the gallery's bytes."""
    zoom, retrieval = models(ground.side)

    def spent(model: Any, photo: Tensor) -> float:
        return seconds(lambda: model.locate(photo[None], ground))[1]

    spent(zoom, photos[0])  # what is made once in a process
    zooms = [spent(zoom, photo) for photo in photos]
    first = spent(retrieval, photos[0])
    later = [spent(retrieval, photo) for photo in photos]
    return {
        "side_m": ground.side, "steps": zoom.config.steps, "zoom_pictures": 2 + zoom.config.steps,
        "zoom_seconds": statistics.median(zooms), "retrieval_pictures": 2 + 4**retrieval.config.steps,
        "retrieval_first_seconds": first, "retrieval_later_seconds": statistics.median(later),
        "gallery_bytes": retrieval.gallery_bytes,
    }  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="nextset bench locate-area", description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 2, 4, 8], help="sides, in those of the city")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--side", type=int, default=2560, help="of the city, in metres: 40 times a power of two")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/locate-area.json"))
    asked = parser.parse_args(list(arguments))
    check_range("photos", asked.photos, 1, 4096)
    torch.set_num_threads(asked.threads)
    city = City(0, asked.side)
    photos = torch.rand(asked.photos, 3, 32, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = [measure(Repeated(city, times), photos) for times in asked.times]
    table = Table("map", "steps", "zoom, s", "retrieval, first, s", "later, s", "gallery", box=None, pad_edge=False)
    for row in rows:
        table.add_row(
            f"{row['side_m'] / 1000:g} km", str(row["steps"]), f"{row['zoom_seconds']:.4f}",
            f"{row['retrieval_first_seconds']:.2f}", f"{row['retrieval_later_seconds']:.4f}",
            f"{row['gallery_bytes'] / 2**20:.0f} MiB",
        )  # fmt: skip
    Console().print(table)
    file_result(asked.out, {"photos": asked.photos, "rows": rows, "machine": machine()})
