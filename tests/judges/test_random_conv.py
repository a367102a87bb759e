"""The random network: weights bit by bit, features against plain numpy, nothing of batches."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.hashing import SEED
from nextset.judges.random_conv import CHANNELS, STRIDES, RandomConv, layer_weights, side_for
from tests.judges.scenes import scenes

# two of these are misprinted in the specification; its parity case has them as they are here
FIRST = {
    1: (0.1691081, -0.2506028, -0.2358239),
    2: (-0.0512727, -0.0181882, 0.0414210),
    3: (-0.0825245, 0.0021611, 0.0454635),
    4: (0.0373428, 0.0831509, 0.0754316),
}


@pytest.mark.parametrize("layer", FIRST)
def test_first_weights(layer: int) -> None:
    weights = layer_weights(SEED, layer)
    assert weights.shape == (CHANNELS[layer], CHANNELS[layer - 1], 3, 3) and weights.dtype == np.float32
    assert weights.ravel()[:3].tolist() == pytest.approx(FIRST[layer], abs=6e-8)


def slow(images: np.ndarray) -> np.ndarray:
    """Features of 16 x 16 pictures in float64: layers of 16, 8, 4 and 2 pixels a side."""
    x = (images / 255 - 0.5) / 0.25
    maps = []
    for layer, stride in enumerate(STRIDES, 1):
        weight, side = layer_weights(SEED, layer).astype(np.float64), x.shape[1]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y = sum(padded[:, i : i + side, j : j + side] @ weight[:, :, i, j].T for i in range(3) for j in range(3))
        x = np.maximum(np.asarray(y)[:, ::stride, ::stride], 0)
        maps.append(x)
    grid = maps[3].transpose(0, 3, 1, 2).reshape(len(x), -1)
    return np.concatenate([maps[1].mean((1, 2)), maps[2].mean((1, 2)), grid], 1)


def test_features_against_plain_numpy() -> None:
    images = scenes(4)
    found = RandomConv(side=16)(images)
    assert found.shape == (4, 256) and found.dtype == np.float64
    assert np.abs(found - slow(images)).max() < 2e-5


def test_neither_batch_nor_order_nor_layout_matters() -> None:
    net, images = RandomConv(), scenes(12, side=24)  # resized to 32
    whole = net(images)
    one_by_one = np.concatenate([net(images[i : i + 1]) for i in range(12)])
    assert np.abs(whole - one_by_one).max() < 1e-5
    assert np.abs(whole[::-1] - net(images[::-1])).max() < 1e-5
    assert np.abs(whole - net(np.asfortranarray(images))).max() < 1e-5


def test_other_seeds_are_other_networks() -> None:
    images = scenes(2)
    assert np.abs(RandomConv(SEED)(images) - RandomConv(SEED + 1)(images)).max() > 0.1


def test_side() -> None:
    assert [side_for(size) for size in ((32, 32), (63, 200), (64, 64), (256, 256))] == [32, 32, 64, 64]
