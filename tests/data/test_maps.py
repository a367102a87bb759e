"""Maps as people have them: the reading rule against a slow one, missing tiles, other files, and what is refused."""

from __future__ import annotations

import json
import math
import sqlite3
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.data.city import EARTH
from nextset.data.maps import SampledMap, open_map

T, Z = 16, 14  # pixels of a tile; the finest zoom
LAT, LON = 36.0, -40.0


def _tile(z: int, x: int, y: int) -> np.ndarray:
    return np.random.default_rng([z, x, y]).integers(0, 256, (T, T, 3), dtype=np.uint8)


def _at(z: int) -> tuple[int, int]:
    """The tile of the middle."""
    n = 2**z
    return int((LON + 180) / 360 * n), int((1 - math.asinh(math.tan(math.radians(LAT))) / math.pi) / 2 * n)


def write_tiles(root: Path, zooms: range = range(12, Z + 1), around: int = 3, about: dict | None = None) -> Path:
    for z in zooms:
        cx, cy = _at(z)
        for x in range(cx - around, cx + around + 1):
            (root / str(z) / str(x)).mkdir(parents=True, exist_ok=True)
            for y in range(cy - around, cy + around + 1):
                Image.fromarray(_tile(z, x, y)).save(root / str(z) / str(x) / f"{y}.png")
    if about is not None:
        (root / "tilejson.json").write_text(json.dumps(about))
    return root


def _view(ground: SampledMap, side: float, pixels: int, lat: float = LAT, lon: float = LON) -> np.ndarray:
    place = (torch.tensor([v], dtype=torch.float64) for v in (lat, lon, side))
    return (ground.view(*place, pixels)[0].permute(1, 2, 0).numpy() + 1) * 127.5


def _slow(side: float, pixels: int) -> np.ndarray:
    """The sheet's rule, pixel by pixel, with sub-samples."""
    mpp = side / pixels
    around = 2 * math.pi * EARTH * math.cos(math.radians(LAT))
    z = min(max(math.ceil(math.log2(around / (T * mpp))), 12), Z)
    k = max(1, math.ceil(mpp / (around / (T * 2**z)) - 1e-9))
    out = np.zeros((pixels, pixels, 3))
    for i in range(pixels):
        for j in range(pixels):
            for a in range(k):
                for b in range(k):
                    north = (pixels / 2 - i - (a + 0.5) / k) * mpp
                    east = (j + (b + 0.5) / k - pixels / 2) * mpp
                    lat = LAT + math.degrees(north / EARTH)
                    lon = LON + math.degrees(east / (EARTH * math.cos(math.radians(LAT))))
                    x = (lon + 180) / 360 * T * 2**z - 0.5
                    y = (1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * T * 2**z - 0.5
                    for dy in (0, 1):
                        for dx in (0, 1):
                            px, py = math.floor(x) + dx, math.floor(y) + dy
                            weight = (1 - abs(x - px)) * (1 - abs(y - py))
                            out[i, j] += weight * _tile(z, px // T, py // T)[py % T, px % T] / k**2
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("map") / "tiles")


@pytest.mark.parametrize(("side", "pixels"), [(1500.0, 8), (4000.0, 8), (5000.0, 4)])
def test_views_follow_the_rule(folder: Path, side: float, pixels: int) -> None:
    assert np.abs(_view(open_map(folder), side, pixels) - _slow(side, pixels)).max() < 1e-2


def test_a_coarse_view_averages_what_lies_below(tmp_path: Path) -> None:
    ground = open_map(write_tiles(tmp_path, range(Z, Z + 1)))
    view = _view(ground, 8000.0, 2)
    assert ground.level(4000.0, LAT) == Z and np.ptp(view) < 12  # means of many random pixels


def test_scheme_tms_counts_from_the_south(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.png"):
        z, x, y = int(path.parts[-3]), path.parts[-2], int(path.stem)
        place = tmp_path / str(z) / x / f"{2**z - 1 - y}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.read_bytes())
    (tmp_path / "tilejson.json").write_text(json.dumps({"scheme": "tms"}))
    assert np.array_equal(_view(open_map(tmp_path), 1500.0, 8), _view(open_map(folder), 1500.0, 8))


def test_mbtiles_are_the_same_map(folder: Path, tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "a.mbtiles")
    base.execute("CREATE TABLE metadata (name TEXT, value TEXT)")
    base.execute("CREATE TABLE tiles (zoom_level INT, tile_column INT, tile_row INT, tile_data BLOB)")
    for path in folder.rglob("*.png"):
        z, x, y = int(path.parts[-3]), int(path.parts[-2]), int(path.stem)
        base.execute("INSERT INTO tiles VALUES (?, ?, ?, ?)", (z, x, 2**z - 1 - y, path.read_bytes()))
    west, south, east, north = open_map(folder).bounds or ()
    base.execute("INSERT INTO metadata VALUES ('bounds', ?)", (f"{west},{south},{east},{north}",))
    base.commit()
    ground = open_map(tmp_path / "a.mbtiles")
    assert ground.start == open_map(folder).start
    assert np.array_equal(_view(ground, 1500.0, 8), _view(open_map(folder), 1500.0, 8))
    base.execute("UPDATE metadata SET value = 'a,b' WHERE name = 'bounds'")
    base.commit()
    with pytest.raises(NextsetError, match="four numbers"):
        open_map(tmp_path / "a.mbtiles")
    base.execute("INSERT INTO metadata VALUES ('format', 'pbf')")
    base.commit()
    with pytest.raises(NextsetError, match="vector tiles"):
        open_map(tmp_path / "a.mbtiles")


def test_a_missing_tile_is_its_parent_then_grey(tmp_path: Path) -> None:
    ground = open_map(write_tiles(tmp_path))
    cx, cy = _at(Z)
    (tmp_path / str(Z) / str(cx) / f"{cy}.png").unlink()
    colours, known = ground.block(Z, cx * T, cy * T, T, T)
    parent = _tile(Z - 1, cx // 2, cy // 2).repeat(2, 0).repeat(2, 1)
    quarter = parent[(cy % 2) * T : (cy % 2 + 1) * T, (cx % 2) * T : (cx % 2 + 1) * T]
    assert known.all() and np.array_equal(colours, quarter)
    for z in (12, 13):
        x, y = _at(z)
        (tmp_path / str(z) / str(x) / f"{y}.png").unlink()
    ground = open_map(tmp_path)
    colours, known = ground.block(Z, cx * T, cy * T, T, T)
    assert not known.any() and (colours == 127).all()
    with pytest.warns(NextsetWarning, match=r"lacks [0-9.]+ %"):
        _view(ground, 1500.0, 8)
    assert 0 < ground.missing[0] < 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the same share is said once
        _view(ground, 1500.0, 8)


def test_a_damaged_tile_is_as_good_as_missing(tmp_path: Path) -> None:
    write_tiles(tmp_path)
    cx, cy = _at(Z)
    (tmp_path / str(Z) / str(cx) / f"{cy}.png").write_bytes(b"no picture")
    colours, known = open_map(tmp_path).block(Z, cx * T, cy * T, 1, 1)
    assert known.all() and np.array_equal(colours[0, 0], _tile(Z - 1, cx // 2, cy // 2)[cy % 2 * 8, cx % 2 * 8])


def test_a_zoom_level_that_is_missing_is_named(tmp_path: Path) -> None:
    write_tiles(tmp_path, range(12, 13))
    write_tiles(tmp_path, range(14, 15))
    ground = open_map(tmp_path)
    mpp = ground.metres(13, LAT)
    with pytest.raises(NextsetError, match="no tiles of zoom 13, which is needed; it has 12, 14"):
        _view(ground, mpp * 8, 8)


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"bounds": [1, 2, 3]}, "four numbers"),
        ({"bounds": [10, 95, 20, 99]}, "must be west < east"),
        ({"maxzoom": "x"}, "a number"),
        ([], "JSON object"),
    ],
)
def test_a_tilejson_that_lies_is_refused(tmp_path: Path, about: object, said: str) -> None:
    write_tiles(tmp_path, range(12, 13), 1)
    (tmp_path / "tilejson.json").write_text(json.dumps(about))
    with pytest.raises(NextsetError, match=said):
        open_map(tmp_path)


def test_regions(folder: Path) -> None:
    ground = open_map(folder, (LAT, LON, 900.0))
    assert ground.start == (LAT, LON, 900.0)
    with pytest.raises(NextsetError, match="lies outside"):
        open_map(folder, (10.0, LON, 900.0))
    with pytest.raises(NextsetError, match="does not exist"):
        open_map(folder / "nowhere")
    with pytest.raises(NextsetError, match="holds no tile"):
        open_map(folder / str(Z))


def _picture(path: Path, width: int = 40, height: int = 30) -> np.ndarray:
    pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_a_picture_with_bounds_or_a_world_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pixels = _picture(tmp_path / "a" / "map.png")
    step = math.degrees(10 / EARTH)  # 10 m a pixel to the north
    aside = step / math.cos(math.radians(LAT))
    west, north = LON - 20 * aside, LAT + 15 * step
    said = {"west": west, "south": LAT - 15 * step, "east": LON + 20 * aside, "north": north}
    (tmp_path / "a" / "bounds.json").write_text(json.dumps(said))
    ground = open_map(tmp_path / "a" / "map.png")
    assert ground.start == pytest.approx((LAT, LON, 300.0))
    assert np.abs(_view(ground, 100.0, 10) - pixels[10:20, 15:25]).max() < 1e-2
    assert np.abs(_view(ground, 300.0, 3) - pixels[:, 5:35].reshape(3, 10, 3, 10, 3).mean((1, 3))).max() < 1e-2
    (tmp_path / "a" / "bounds.json").unlink()
    with pytest.raises(NextsetError, match="does not say where it lies"):
        open_map(tmp_path / "a" / "map.png")
    lines = (aside, 0, 0, -step, west + aside / 2, north - step / 2)
    (tmp_path / "a" / "map.pgw").write_text("\n".join(map(repr, lines)))
    assert np.abs(_view(open_map(tmp_path / "a" / "map.png"), 100.0, 10) - pixels[10:20, 15:25]).max() < 1e-2
    (tmp_path / "a" / "map.pgw").write_text("10\n0\n0\n-10\n500000\n4000000")
    with pytest.raises(NextsetError, match="metres of a projection"):
        open_map(tmp_path / "a" / "map.png")


def test_nothing_of_the_searched_square_is_an_error(folder: Path) -> None:
    ground = open_map(folder)
    ground.start = (0.0, 0.0, 1000.0)
    with pytest.raises(NextsetError, match="shows nothing"):
        _view(ground, 1000.0, 4, 0.0, 0.0)


def test_a_geotiff_is_read_through_windows(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(3).integers(0, 256, (3, 600, 600), dtype=np.uint8)
    place = rasterio.transform.from_origin(500000, 4000000, 1.0, 1.0)  # 1 m a pixel, in UTM
    shape = {"driver": "GTiff", "width": 600, "height": 600, "count": 3, "dtype": "uint8", "crs": "EPSG:32623"}
    with rasterio.open(
        tmp_path / "a.tif", "w", transform=place, tiled=True, blockxsize=64, blockysize=64, **shape
    ) as f:
        f.write(pixels)
    ground = open_map(tmp_path / "a.tif")
    assert ground.native_mpp == pytest.approx(1.0, abs=0.01)
    assert ground.start[2] == pytest.approx(600, abs=6)
    whole = _view(ground, 400.0, 4, *ground.start[:2])  # UTM's metres and the sphere's differ by less than a percent
    assert (
        np.abs(whole - pixels[:, 100:500, 100:500].reshape(3, 4, 100, 4, 100).mean((2, 4)).transpose(1, 2, 0)).max() < 3
    )
    with rasterio.open(tmp_path / "b.tif", "w", **{**shape, "crs": None}) as f:
        f.write(pixels)
    with pytest.raises(NextsetError, match="does not say its projection"):
        open_map(tmp_path / "b.tif")
    with rasterio.open(tmp_path / "c.tif", "w", transform=place, **{**shape, "dtype": "uint16"}) as f:
        f.write(pixels.astype(np.uint16))
    with pytest.raises(NextsetError, match="8 bits a colour"):
        open_map(tmp_path / "c.tif")
    (tmp_path / "d.tif").write_bytes(b"II*\0 no file")
    with pytest.raises(NextsetError, match="no GeoTIFF"):
        open_map(tmp_path / "d.tif")
