"""The benchmark of maps of several sizes, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image

from benchmarks import locate_area, locate_plots
from nextset.data.city import City


def test_a_repeated_city_shows_each_of_its_copies() -> None:
    city = City(0, 320)
    more = locate_area.Repeated(city, 3)
    x, y = torch.tensor([100.0, 700.0, 420.0]), torch.tensor([130.0, 250.0, 770.0])  # of three copies
    lat, lon = more.degrees(x, y)
    again = city.degrees(x % 320, y % 320)
    sides = torch.tensor([90.0, 40.0, 60.0])
    torch.testing.assert_close(more.view(lat, lon, sides, 8), city.view(*again, sides, 8), atol=1e-4, rtol=0)
    whole = more.view(*more.degrees(torch.tensor([480.0]), torch.tensor([480.0])), torch.tensor([960.0]), 3)
    one = city.view(torch.tensor([city.lat]), torch.tensor([city.lon]), torch.tensor([320.0]), 1)
    torch.testing.assert_close(whole, one.expand(1, 3, 3, 3), atol=1e-4, rtol=0)


def test_a_row_a_map(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    locate_area.main(["--side", "320", "--times", "1", "2", "--photos", "2", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["retrieval_pictures"] for row in rows] == [66, 258] and [row["zoom_pictures"] for row in rows] == [4, 4]
    assert all(
        row["zoom_seconds"] > 0 and row["gallery_bytes"] == 512 * (row["retrieval_pictures"] - 2) for row in rows
    )


def test_plots_of_a_claim_with_an_empty_tenth(tmp_path: Path) -> None:
    curve = [{"arm": arm, "photos_seen": n, "minutes": n / 2, "within 100 m": 0.1} for arm in "ab" for n in (1, 2)]
    found = {"count": [3, 0, 1], "confidence": [0.1, None, 0.9], "accuracy": [0.0, None, 1.0], "ece": 0.1}
    rows = [{"arm": arm, "temperature": 1.5, "before": found, "after": found} for arm in "ab"]
    claim = tmp_path / "claim.json"
    claim.write_text(json.dumps({"tables": {"curve": curve, "calibration": rows}}))
    locate_plots.main(["--claim", str(claim), "--out", str(tmp_path / "images")])
    for name in ("locate-curves.png", "locate-reliability.png"):
        assert Image.open(tmp_path / "images" / name).size[0] > 600
