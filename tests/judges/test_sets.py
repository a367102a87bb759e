"""Sets of pictures: what enters, which pictures stand for a set, and in what parts they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextset.data.images import save_png
from nextset.judges.sets import CANDIDATE, REFERENCE, ArraySet, parts, sample
from tests.judges.scenes import refused, scenes


def test_images_of_a_model_become_the_pixels_of_their_png(tmp_path: Path) -> None:
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    pixels = ArraySet.of_images(images).read(np.arange(4))
    for i in range(4):
        assert (np.asarray(Image.open(save_png(images[i], tmp_path / f"{i}.png"))) == pixels[i]).all()
    levels = torch.arange(256) / 127.5 - 1
    assert ArraySet.of_images(levels.reshape(1, 1, 16, 16)).read(np.array([0]))[0, :, :, 0].ravel().tolist() == list(
        range(256)
    )


def test_what_cannot_be_judged_is_refused() -> None:
    images = torch.zeros(2, 3, 8, 8)
    images[1, 0, 0, 0] = float("nan")
    assert "1 NaN of 384 values" in refused(ArraySet.of_images, images)
    assert "judges need uint8" in refused(ArraySet, scenes(2).astype(np.float32))


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, 1], [], "one for each of its 3 pictures"),
        ([0, -1, 1], [], "whole numbers >= 0"),
        ([0.0, 1.0, 1.0], [], "whole numbers >= 0"),
        ([0, 1, 2], ["cat", "dog"], "has a label 2, but only 2 class names"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[float], names: list[str], words: str) -> None:
    assert words in refused(ArraySet, scenes(3), labels=np.array(labels), class_names=names)


def test_classes_are_named_by_digits_when_they_have_no_names() -> None:
    pictures = ArraySet(scenes(3), labels=np.array([0, 2, 1], dtype=np.uint8))
    assert pictures.class_names == ["0", "1", "2"] and pictures.labels is not None
    assert pictures.labels.dtype == np.int64 and pictures.labels.tolist() == [0, 2, 1]


def test_identity_is_that_of_the_pixels() -> None:
    images = scenes(3)
    one = ArraySet(images).identity
    assert one == ArraySet(images.copy(), name="other").identity
    images[1, 2, 3, 0] ^= 1
    assert one != ArraySet(images).identity


def test_a_smaller_sample_begins_the_larger_one() -> None:
    pictures = ArraySet(scenes(50))
    whole = sample(pictures, None, CANDIDATE)
    assert sorted(whole) == list(range(50))
    assert (sample(pictures, 7, CANDIDATE) == whole[:7]).all()
    assert (sample(pictures, 7, REFERENCE) != whole[:7]).any()
    assert "has 50 pictures, but 51" in refused(sample, pictures, 51, CANDIDATE)


def test_parts_come_in_order_and_even_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    images, told = scenes(25), []
    monkeypatch.setattr("nextset.judges.sets._VALUES", 16 * 16 * 3 * 7)
    index = np.arange(25)[::-1]
    found = list(parts(ArraySet(images), index, lambda *step: told.append(step), "reading"))
    assert [len(part) for part in found] == [6, 6, 6, 6, 1] and (np.concatenate(found) == images[::-1]).all()
    assert told[-1] == ("reading", 25, 25)
