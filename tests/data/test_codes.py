"""Cached codes: what they hold of a data set, and that crops and flips are in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.spec import ImageSpec
from nextset.data.codes import encode_dataset, load_codes, save_codes
from nextset.data.dataset import open_dataset
from tests.data.pictures import encoded, write_files


class Reader(nn.Module):
    """A tokenizer whose codes are the red of the first line: what it was shown can be read off."""

    spec = ImageSpec(downsampling=8, channels=1, vocabulary=256, tokens=16, size=(16, 16))

    def encode(self, images: Tensor) -> Tensor:
        return ((images[:, 0, 0] + 1) * 127.5).round().long()

    def features(self, images: Tensor) -> Tensor:
        return images[:, :2, ::8, ::8]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures whose red is the column, and captions."""
    x = np.broadcast_to(np.arange(36, dtype=np.uint8)[None, :, None], (24, 36, 3))
    files = {f"c{i % 2}/{i}.png": encoded(Image.fromarray(x.copy())) for i in range(5)}
    return write_files(tmp_path / "set", {**files, "c0/0.txt": "\u00e9clair".encode(), "c1/1.txt": b"two\nlines"})


def test_variants_hold_crops_and_flips(folder: Path) -> None:
    data = open_dataset(folder, size=16, crop="random", margin=1.5, flip=True)
    codes = encode_dataset(data, Reader(), variants=9, seed=3, batch=2)
    assert codes.values.shape == (9, 5, 16) and codes.values.dtype == np.int16
    steps = np.diff(codes.values.astype(int), axis=-1)
    assert (codes.values[0] == np.arange(10, 26)).all()  # variant 0 is the middle
    assert (np.abs(steps) == 1).all()
    falling = (steps == -1).all(-1)[1:]
    assert 0.2 < falling.mean() < 0.8  # mirrored
    assert len(set(codes.values[1:].min(-1).ravel().tolist())) > 10  # of 21 places
    again = encode_dataset(data, Reader(), variants=9, seed=3, batch=5)
    assert np.array_equal(again.values, codes.values) and again.fingerprint == codes.fingerprint
    assert not np.array_equal(encode_dataset(data, Reader(), variants=9, seed=4).values, codes.values)


def test_codes_keep_classes_and_captions(folder: Path, tmp_path: Path) -> None:
    data = open_dataset(folder, size=16, crop="centre", margin=1.5)
    codes = encode_dataset(data, Reader())
    save_codes(tmp_path / "codes.npz", codes)
    read = load_codes(tmp_path / "codes.npz")
    assert read.captions == codes.captions == data.captions == ["\u00e9clair", "", "", "two\nlines", ""]
    assert read.class_names == ["c0", "c1"] and torch.equal(read.labels, data.labels)
    assert np.array_equal(read.values, codes.values) and read.fingerprint == codes.fingerprint
    batch = read.batch(torch.tensor([1, 1]), torch.tensor([7, 8]), Noise(0))
    assert batch["codes"].tolist() == [list(range(10, 26))] * 2


def test_codes_without_captions(folder: Path, tmp_path: Path) -> None:
    for sidecar in folder.rglob("*.txt"):
        sidecar.unlink()
    save_codes(tmp_path / "codes.npz", encode_dataset(open_dataset(folder, size=16), Reader()))
    assert load_codes(tmp_path / "codes.npz").captions is None


def test_feature_maps_in_place_of_codes(folder: Path, tmp_path: Path) -> None:
    data = open_dataset(folder, size=16)
    codes = encode_dataset(data, Reader(), features=True)
    assert codes.values.shape == (1, 5, 2, 2, 2) and codes.values.dtype == np.float16 and codes.kind == "features"
    assert codes.fingerprint != encode_dataset(data, Reader()).fingerprint
    save_codes(tmp_path / "features.npz", codes)
    read = load_codes(tmp_path / "features.npz")
    assert read.kind == "features" and np.array_equal(read.values, codes.values)
    batch = read.batch(torch.tensor([1, 3]), torch.tensor([7, 8]), Noise(0))
    assert batch["features"].dtype == torch.float32 and "codes" not in batch and "peers" not in batch
    torch.testing.assert_close(batch["features"], data.images(torch.tensor([1, 3]))[:, :2, ::8, ::8], atol=1e-3, rtol=0)


def test_a_caption_of_several_lines_is_several_captions(folder: Path) -> None:
    codes = encode_dataset(open_dataset(folder, size=16), Reader())
    samples = torch.arange(40)
    drawn = codes.batch(torch.full((40,), 3), samples, Noise(0))["captions"]
    assert set(drawn) == {"two", "lines"}
    part = codes.batch(torch.full((5,), 3), samples[10:15], Noise(0))["captions"]
    assert part == drawn[10:15], "a function of the sample alone"


def test_what_is_no_code_cache(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="make it with `nextset tokenize`"):
        load_codes(tmp_path / "none.npz")
    ids, labels, text = np.zeros((1, 3, 4), np.int16), np.zeros(3, np.int64), np.array(["x"])
    whole = {"ids": ids, "labels": labels, "class_names": text, "fingerprint": np.array("f")}
    for broken in ({"ids": ids[0]}, {"labels": labels[:2]}, {"captions": text, "caption_ends": labels[:1]}):
        np.savez(tmp_path / "a.npz", **{**whole, **broken})  # type: ignore[arg-type]
        with pytest.raises(NextsetError, match="do not fit together"):
            load_codes(tmp_path / "a.npz")
    with pytest.raises(NextsetError, match="variants is 0"):
        encode_dataset(None, Reader(), variants=0)
