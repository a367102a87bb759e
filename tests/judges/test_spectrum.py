"""Power by radius of frequency."""

from __future__ import annotations

import numpy as np
import pytest

from nextset.judges.degradations import add_noise, blur, mirror
from nextset.judges.spectrum import decibels, radial_power, rpsd_db
from tests.judges.scenes import scenes


def wave(cycles: int, along: int, height: int = 16, width: int = 16) -> np.ndarray:
    """One grey picture of a cosine: `cycles` a height (along 0) or a width (along 1), amplitude 100."""
    length = (height, width)[along]
    line = 128 + 100 * np.cos(2 * np.pi * cycles * np.arange(length) / length)
    grey = np.broadcast_to(line[:, None] if along == 0 else line, (height, width))
    return np.repeat(np.round(grey).astype(np.uint8)[None, ..., None], 3, 3)


def bins(radius: int, side: int = 16) -> int:
    f = np.fft.fftfreq(side) * side
    return int((np.floor(np.hypot(f[:, None], f) + 0.5) == radius).sum())


@pytest.mark.parametrize("along", [0, 1])
def test_a_wave_has_its_power_at_its_radius(along: int) -> None:
    power = radial_power(wave(3, along))[0]
    assert power.shape == (8,) and power.argmax() == 2
    # two peaks of (amplitude / 2)^2, shared by all bins of the radius
    assert power[2] == pytest.approx(2 * (100 / 255 / 2) ** 2 / bins(3), rel=0.01)  # 8 bits
    assert np.delete(power, 2).max() < 0.01 * power[2]


def test_in_a_picture_that_is_not_square_radius_counts_cycles_a_height() -> None:
    assert radial_power(wave(4, 1, 16, 32))[0].argmax() == 1  # 4 cycles in 32 pixels are 2 in 16
    assert radial_power(wave(4, 0, 16, 32))[0].argmax() == 3
    assert radial_power(scenes(2, side=12)[:, :, :7]).shape == (2, 6)


def test_flat_pictures_have_none_and_brightness_does_not_count() -> None:
    assert radial_power(np.full((1, 8, 8, 3), 200, np.uint8)).max() < 1e-20
    images = scenes(5) // 2
    assert np.allclose(radial_power(images), radial_power(images + 100))


def test_contrast_is_six_decibels() -> None:
    images = scenes(20) // 2
    a, b = radial_power(images * 2).mean(0), radial_power(images).mean(0)
    assert rpsd_db(a, b) == pytest.approx(20 * np.log10(2), rel=1e-6)


def test_blur_is_a_weak_tail_noise_a_strong_one_and_flips_are_not_seen() -> None:
    images = scenes(50)
    real, soft, noisy, flipped = (
        radial_power(x).mean(0) for x in (images, blur(images), add_noise(images), mirror(images))
    )
    assert decibels(soft, real)[-2:].max() < -3 and decibels(noisy, real)[-2:].min() > 0.3
    assert rpsd_db(flipped, real) < 1e-9
