"""Grids are thinned out and made smaller until they fit; a broken one is left out."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from nextset.training.run_samples import choose


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, Path]]:
    folder = tmp_path_factory.mktemp("samples")
    picture = Image.effect_noise((300, 200), 120).convert("RGB")
    paths = [(100 * i, folder / f"{i}.png") for i in range(21)]
    for _, path in paths:
        picture.save(path)
    return paths


def test_first_last_and_some_between(samples: list[tuple[int, Path]]) -> None:
    assert [s.step for s in choose(samples, 5, 10**7)] == [0, 500, 1000, 1500, 2000]
    assert [s.step for s in choose(samples[:2], 8, 10**7)] == [0, 100]
    assert [s.step for s in choose(samples[:1], 8, 10**7)] == [0] and choose([], 8, 10**7) == []


def test_they_are_pictures_of_the_size_that_is_said(samples: list[tuple[int, Path]]) -> None:
    sample = choose(samples, 2, 10**7)[0]
    head, data = sample.uri.split(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (sample.width, sample.height) == (300, 200)


def test_they_shrink_to_the_limit(samples: list[tuple[int, Path]]) -> None:
    found = choose(samples, 4, 24_000)
    assert sum(len(s.uri) for s in found) <= 24_000 and all(30 < s.width < 300 for s in found)


def test_a_broken_one_is_left_out(tmp_path: Path, samples: list[tuple[int, Path]]) -> None:
    (tmp_path / "half.png").write_bytes(samples[0][1].read_bytes()[:500])
    assert [s.step for s in choose([*samples[:2], (300, tmp_path / "half.png")], 3, 10**6)] == [0, 100]
