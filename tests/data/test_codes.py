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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures whose red is the column, and captions."""
    x = np.broadcast_to(np.arange(36, dtype=np.uint8)[None, :, None], (24, 36, 3))
    files = {f"c{i % 2}/{i}.png": encoded(Image.fromarray(x.copy())) for i in range(5)}
    return write_files(tmp_path / "set", {**files, "c0/0.txt": "\u00e9clair".encode(), "c1/1.txt": b"two\nlines"})


def test_variants_hold_crops_and_flips(folder: Path) -> None:
    data = open_dataset(folder, size=16, crop="random", margin=1.5, flip=True)
    codes = encode_dataset(data, Reader(), variants=9, seed=3, batch=2)
    assert codes.ids.shape == (9, 5, 16) and codes.ids.dtype == np.int16
    steps = np.diff(codes.ids.astype(int), axis=-1)
    assert (codes.ids[0] == np.arange(10, 26)).all()  # variant 0 is the middle
    assert (np.abs(steps) == 1).all()
    falling = (steps == -1).all(-1)[1:]
    assert 0.2 < falling.mean() < 0.8  # mirrored
    assert len(set(codes.ids[1:].min(-1).ravel().tolist())) > 10  # of 21 places
    again = encode_dataset(data, Reader(), variants=9, seed=3, batch=5)
    assert np.array_equal(again.ids, codes.ids) and again.fingerprint == codes.fingerprint
    assert not np.array_equal(encode_dataset(data, Reader(), variants=9, seed=4).ids, codes.ids)


def test_codes_keep_classes_and_captions(folder: Path, tmp_path: Path) -> None:
    data = open_dataset(folder, size=16, crop="centre", margin=1.5)
    codes = encode_dataset(data, Reader())
    save_codes(tmp_path / "codes.npz", codes)
    read = load_codes(tmp_path / "codes.npz")
    assert read.captions == codes.captions == data.captions == ["\u00e9clair", "", "", "two\nlines", ""]
    assert read.class_names == ["c0", "c1"] and torch.equal(read.labels, data.labels)
    assert np.array_equal(read.ids, codes.ids) and read.fingerprint == codes.fingerprint
    batch = read.batch(torch.tensor([1, 1]), torch.tensor([7, 8]), Noise(0))
    assert batch["codes"].tolist() == [list(range(10, 26))] * 2


def test_codes_without_captions(folder: Path, tmp_path: Path) -> None:
    for sidecar in folder.rglob("*.txt"):
        sidecar.unlink()
    save_codes(tmp_path / "codes.npz", encode_dataset(open_dataset(folder, size=16), Reader()))
    assert load_codes(tmp_path / "codes.npz").captions is None


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
