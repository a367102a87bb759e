"""`nextset city` and `nextset locate`, run as a person runs them, with a tiny model of random weights."""

from __future__ import annotations

import csv
import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image

import nextset
from nextset.core.errors import NextsetWarning
from nextset.data.city import City
from nextset.hub import pretrained
from nextset.nn.encoders import EncoderConfig
from nextset.pipelines import Located, Locator
from nextset.systems.just_zoom_in import JustZoomIn, JustZoomInConfig
from nextset.systems.just_zoom_in.geometry import distance
from tests.cli.running import refuse, run
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = EncoderConfig(kind="conv", width=16, channels=(8,), cells=2)
    network = JustZoomIn(JustZoomInConfig(encoder=encoder, pixels=8, grid=2, steps=2, depth=1, heads=2)).eval()
    return pretrained.save(tmp_path_factory.mktemp("model") / "tiny", network, defaults={"temperature": 2.0})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "city"
    run("city", out, "--seed", 3, "--side", 320, "--photos", 3, "--pixels", 16, "--zoom", 16)
    return out


def test_a_city_is_written_as_people_have_maps(world: Path) -> None:
    about = json.loads((world / "map/tilejson.json").read_text())
    assert about["maxzoom"] == 16 and len(about["bounds"]) == 4
    assert len(list((world / "photos").glob("*.jpg"))) == 3
    assert "exists already" in refuse("city", world)


def test_locate_prints_cells_and_writes_the_path(model: Path, world: Path, tmp_path: Path) -> None:
    photo = world / "photos/0001.jpg"
    said = run("locate", photo, "--map", world / "map", "-m", model, "-k", 3, "--picture", tmp_path / "zoom.png")
    assert "0001.jpg" in said and said.count("56.6 m") == 3  # half the diagonal of 80 m
    assert Image.open(tmp_path / "zoom.png").width > 1000


def test_locate_as_json_and_geojson(model: Path, world: Path) -> None:
    arguments = ("locate", world / "photos", "--map", world / "map", "-m", model, "-k", 4, "--beam", 8)
    found = json.loads(run(*arguments, "--json"))
    assert len(found) == 3
    for each in found:
        p = [cell["probability"] for cell in each["cells"]]
        assert len(p) == 4 and p == sorted(p, reverse=True) and sum(p) <= 1 + 1e-6
        assert each["error_m"] < 500 and len(each["cells"][0]["cell_polygon"]) == 5
    features = json.loads(run(*arguments, "--geojson"))["features"]
    assert len(features) == 12
    for feature in features:
        (ring,) = feature["geometry"]["coordinates"]
        lon, lat = (sum(corner[i] for corner in ring[:4]) / 4 for i in (0, 1))
        assert lat == pytest.approx(feature["properties"]["lat"]) and lon == pytest.approx(feature["properties"]["lon"])
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
        assert area > 0  # counter-clockwise, as RFC 7946 wants the outer ring


def test_locate_writes_a_table_and_a_picture_each(model: Path, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.csv"
    run("locate", world / "photos", "--map", world / "map", "-m", model, "--csv", out, "--picture", tmp_path / "each")
    rows = list(csv.DictReader(out.open()))
    assert [Path(row["path"]).name for row in rows] == ["0000.jpg", "0001.jpg", "0002.jpg"]
    assert len(list((tmp_path / "each").glob("*.png"))) == 3
    assert len(json.loads(rows[0]["sequence"])) == 2


def test_in_python(model: Path, world: Path) -> None:
    pipe = nextset.load(model)
    assert isinstance(pipe, Locator)
    found = pipe(world / "photos/0000.jpg", map=world / "map", k=4)
    assert isinstance(found, Located) and len(found) == 4
    assert sum(cell.probability for cell in pipe(found.photo, map=City(3, 320), k=16)) == pytest.approx(1, abs=1e-4)
    assert [len(cell.actions) for cell in pipe(found.photo, map=City(3, 320), k=2, steps=1)] == [1, 1]
    sure, unsure = (pipe(found.photo, map=City(3, 320), k=1, temperature=t)[0].probability for t in (0.2, 20.0))
    assert sure > found[0].probability > unsure  # the model's own temperature is 2
    again = pipe([world / "photos/0002.jpg", world / "photos/0000.jpg"], map=world / "map", k=4)
    for cell, other in zip(again[1], found, strict=True):  # whatever else is located with it
        assert cell.path == other.path and cell.logp == pytest.approx(other.logp, abs=1e-5)


def test_a_model_is_saved_again_with_its_temperature(model: Path, tmp_path: Path) -> None:
    again = Locator.from_pretrained(Locator.from_pretrained(model).save_pretrained(tmp_path / "again"))
    assert again.defaults == {"temperature": 2.0}


def test_a_hole_in_the_map_is_unknown_ground_and_said(model: Path, world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "map", tmp_path / "map")
    tiles = sorted((tmp_path / "map/16").rglob("*.png"))
    for tile in [*tiles[: len(tiles) // 2], *(tmp_path / "map").glob("1[2345]/*/*.png")]:
        tile.unlink()
    about = json.loads((tmp_path / "map/tilejson.json").read_text())
    (tmp_path / "map/tilejson.json").write_text(json.dumps({**about, "minzoom": 16}))
    with pytest.warns(NextsetWarning, match="unknown ground is grey"):
        found = json.loads(run("locate", world / "photos/0000.jpg", "--map", tmp_path / "map", "-m", model, "--json"))
    assert 0 < found[0]["unknown"][0] < 1


def test_what_cannot_be_located_is_said_in_one_line(model: Path, world: Path, tmp_path: Path) -> None:
    photo, tiles = world / "photos/0000.jpg", world / "map"
    asked = ("locate", photo, "--map", tiles, "-m", model)
    assert "give one with --map" in refuse("locate", photo, "-m", model)
    assert "does not exist" in refuse("locate", tmp_path / "none.jpg", "--map", tiles, "-m", model)
    assert "does not exist" in refuse("locate", photo, "--map", tmp_path / "none", "-m", model)
    assert "lies outside" in refuse(*asked, "--region", "10,10,500")
    assert "LAT,LON,SIDE" in refuse(*asked, "--region", "here")
    assert "pictures are written as" in refuse(*asked, "--picture", tmp_path / "zoom.txt")
    assert "leave out one" in refuse(*asked, "--json", "--geojson")
    assert "give beams=5" in refuse(*asked, "--beam", 2)
    assert "steps" in refuse(*asked, "--steps", 7)
    assert "use `nextset locate`" in refuse("generate", "-m", model, "-n", 1, "-o", tmp_path / "x.png")
    pictures = save_tiny(tmp_path / "pictures")
    assert "locates none" in refuse("locate", photo, "--map", tiles, "-m", pictures)


def test_a_photo_that_lies_about_its_place_is_located_all_the_same(model: Path, world: Path, tmp_path: Path) -> None:
    exif, gps = Image.Exif(), ExifTags.GPS
    lies = {gps.GPSLatitudeRef: "N", gps.GPSLatitude: (200.0, 0.0, 0.0)}
    exif.get_ifd(ExifTags.IFD.GPSInfo).update({**lies, gps.GPSLongitudeRef: "E", gps.GPSLongitude: (4.0, 0.0, 0.0)})
    Image.new("RGB", (32, 16)).save(tmp_path / "lies.jpg", exif=exif)
    with pytest.warns(NextsetWarning, match="latitude 200"):
        run("locate", tmp_path / "lies.jpg", "--map", world / "map", "-m", model)
    exif.get_ifd(ExifTags.IFD.GPSInfo)[gps.GPSLatitude] = (20.0, 0.0, 0.0)
    Image.new("RGB", (32, 16)).save(tmp_path / "far.jpg", exif=exif)
    with pytest.warns(NextsetWarning, match="outside the searched square"):
        run("locate", tmp_path / "far.jpg", "--map", world / "map", "-m", model)


def test_the_packaged_model_finds_photos_of_its_city(tmp_path: Path) -> None:
    """From `nextset city` to a table, without naming a model: other photos than it was trained on, read from files."""
    run("city", tmp_path / "city", "--photos", 40, "--pixels", 64, "--zoom", 16)
    run("locate", tmp_path / "city/photos", "--map", tmp_path / "city/map", "-k", 1, "--csv", tmp_path / "found.csv")
    truth = {row["path"]: row for row in csv.DictReader((tmp_path / "city/photos/photos.csv").open())}
    metres = []
    for row in csv.DictReader((tmp_path / "found.csv").open()):
        place = truth[Path(row["path"]).name]
        there = (float(place[name]) for name in ("latitude", "longitude"))
        here = (float(row[name]) for name in ("latitude", "longitude"))
        metres.append(float(distance(*(torch.tensor(v).double() for v in (*here, *there)))))
    assert len(metres) == 40 and sum(m <= 100 for m in metres) >= 20  # at random: one


def test_a_map_of_another_place_is_warned_of(world: Path) -> None:
    with pytest.warns(
        NextsetWarning, match=r"city-zoom was trained on the ground around 36.0000, -40.0000 \(1,280 m\)"
    ):
        run("locate", world / "photos/0000.jpg", "--map", world / "map")


def test_packaged_models_are_small() -> None:
    for name, folder in pretrained.packaged().items():
        assert sum(path.stat().st_size for path in folder.rglob("*")) <= 25e6, name
    assert sum(path.stat().st_size for path in pretrained.packaged()["city-zoom"].iterdir()) <= 12e6
