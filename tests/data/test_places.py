"""Photos with their places: splits that keep apart, landmarks, augmentation, files with positions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.city import City
from nextset.data.city_files import export_city
from nextset.data.city_photos import landmarks
from nextset.data.city_streets import Shot
from nextset.data.places import PlaceOptions, Places, open_places

SIDE = 640


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTSET_CACHE", str(tmp_path / "cache"))


def _open(**options: object) -> tuple[Places, Places]:
    return open_places(PlaceOptions.from_dict({"size": 8, "train": 60, "val": 20, "side": SIDE, **options}))


def _metres(places: Places) -> np.ndarray:
    city = places.grounds[0]
    assert isinstance(city, City)
    return torch.stack(city.metres(places.true_lat, places.true_lon), 1).numpy()


def test_a_city_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = _open(cities=[3])
    assert train.photos.shape == (60, 3, 8, 16) and len(test) == 20
    monkeypatch.setattr("nextset.data.city_photos.photograph", None)  # would fail if it were called
    again, _ = _open(cities=[3])
    assert again.fingerprint == train.fingerprint
    assert train.fingerprint != test.fingerprint


def test_gap_keeps_five_metres() -> None:
    train, test = _open(split="gap", train=300)
    far = np.linalg.norm(_metres(test)[:, None] - _metres(train)[None], axis=-1)
    assert far.min() >= 5 - 1e-3
    near = np.linalg.norm(_metres(_open(train=300)[1])[:, None] - _metres(train)[None], axis=-1)
    assert near.min() < 5  # or the gap would keep nothing apart


def test_regions_share_no_square() -> None:
    train, test = _open(split="region", side=1280, train=100)
    squares = [{tuple(s) for s in (_metres(p) // 320).astype(int).tolist()} for p in (train, test)]
    assert squares[1] and not squares[0] & squares[1]


def test_cities_are_apart() -> None:
    train, test = _open(split="city", cities=[1, 2], held=[9], side=320)
    assert train.ground.bincount().tolist() == [30, 30] and test.ground.unique().tolist() == [2]
    assert [ground.seed for ground in train.grounds] == [1, 2, 9]  # type: ignore[attr-defined]
    for wrong in ({"split": "city"}, {"held": [4]}, {"split": "city", "held": [0]}):
        with pytest.raises(NextsetError, match="held"):
            _open(**wrong)


def test_gps_noise_moves_what_is_recorded_and_not_what_is_true() -> None:
    clean, noisy = _open()[0], _open(gps_noise=3.0)[0]
    assert torch.equal(clean.true_lat, noisy.true_lat) and torch.equal(clean.lat, clean.true_lat)
    assert np.array_equal(clean.photos, noisy.photos)
    off = 6378137 * torch.deg2rad(noisy.lat - noisy.true_lat)
    assert 1.5 < float(off.std()) < 4.5


def test_landmarks_in_and_out_of_the_crop() -> None:
    city = City(4, SIDE)
    tower = int(np.nonzero(city.painted.tower)[0][0])
    thing = torch.zeros(4, 2, 4, dtype=torch.int32)
    place = torch.full((4, 2, 2, 4), float("nan"))
    for photo, x in ((1, 110.0), (2, 160.0), (3, 300.0)):
        thing[photo, 0] = tower
        place[photo, 0], place[photo, 1] = x, 100.0
    shot = Shot(torch.zeros(4, 3, 2, 4, dtype=torch.uint8), thing, place)
    marks = landmarks(city, shot, np.full(4, 100.0), np.full(4, 100.0))  # in the cell from 80 to 120
    assert marks.tolist() == [[0, 0], [1, 1], [2, 1], [2, 2]]


def test_augmentation_is_addressed_by_the_sample() -> None:
    train = _open(augment=True, size=16)[0]
    rows, samples = torch.tensor([4, 5, 6]), torch.tensor([100, 200, 300])
    whole = train.images(rows, Noise(0), samples)
    assert torch.equal(whole[1:2], train.images(rows[1:2], Noise(0), samples[1:2]))
    assert not torch.equal(whole, train.images(rows)) and whole.abs().max() <= 1
    plain = _open(size=16)[0]
    assert torch.equal(plain.images(rows, Noise(0), samples), plain.images(rows))


def test_photos_of_files_have_the_places_that_they_say(tmp_path: Path) -> None:
    export_city(tmp_path / "city", City(2, 320), photos=8, pixels=16, finest=15)
    options = {"map": str(tmp_path / "city/map"), "val": 3}
    by_table = _open(source=str(tmp_path / "city/photos"), **options)
    assert [len(part) for part in by_table] == [5, 3]
    (tmp_path / "city/photos/photos.csv").rename(tmp_path / "city/other.csv")
    by_exif = _open(source=str(tmp_path / "city/photos"), **options)
    assert torch.allclose(by_exif[0].lat, by_table[0].lat, atol=1e-7)
    assert torch.allclose(by_exif[0].lon, by_table[0].lon, atol=1e-7)
    Image.new("RGB", (8, 4)).save(tmp_path / "city/photos/none.png")
    assert "no position" in _open(source=str(tmp_path / "city/photos"), **options)[0].skipped[0]


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        ("path,lat\n", {}, "no column 'latitude'"),
        ("path,latitude,longitude\n0000.jpg,x,1\n", {}, "line 2: latitude and longitude must be numbers"),
        ("path,latitude,longitude\n0000.jpg,200,1\n", {}, "latitude 200"),
        ("path,latitude,longitude\n0000.jpg,1,1\n", {}, "outside the searched square"),
        (
            "path,latitude,longitude\n0000.jpg,36.0,-39.5\n0001.jpg,1,1\n",
            {"outside": "fail"},
            "1 of 2 photos lie outside",
        ),
        ("path,latitude,longitude\n0000.jpg,36.0,-39.5\n", {}, "set data.val lower"),
        ("path,latitude,longitude\nno.jpg,36.0,-39.5\n", {}, "holds no photo with a position"),
        ("path,latitude,longitude,sequence\n0000.jpg,36.0,-39.5,x\n", {}, "line 2: sequence is 'x'"),
        (
            'path,latitude,longitude,sequence\n0000.jpg,36.0,-39.5,"[1, 2]"\n0001.jpg,36.0,-39.5,[1]\n',
            {},
            "have 1 and 2 cells",
        ),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, lines: str, options: dict, said: str) -> None:
    export_city(tmp_path / "city", City(2, 320), photos=2, pixels=8, finest=14)
    (tmp_path / "city/photos/photos.csv").write_text(lines)
    with pytest.raises(NextsetError, match=said):
        _open(source=str(tmp_path / "city/photos"), map=str(tmp_path / "city/map"), val=1, **options)


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="exists already"):
        export_city(tmp_path, City(2, 320), photos=1)
