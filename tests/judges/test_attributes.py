"""The judge of attributes: it learns a small set, says what does not apply, knows chance, and keeps itself in a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from nextset.core.noise import Noise
from nextset.judges.attributes import (
    ATTRIBUTES,
    SUBGROUP,
    TOGETHER,
    AttributeConfig,
    AttributeJudge,
    Renders,
    load_judge,
    save_judge,
    train_judge,
)
from nextset.judges.wear import Wear
from tests.judges.drawn_emoji import drawn
from tests.judges.scenes import refused

CONFIG = AttributeConfig(width=8, epochs=25, batch=40, peak=0.02, shift=1.0, scale=0.02, wear=0.5)


@pytest.fixture(scope="module")
def judge() -> AttributeJudge:
    return train_judge(drawn(), CONFIG)


def test_it_reads_renders_that_it_never_saw(judge: AttributeJudge) -> None:
    asked = np.tile(np.arange(80), 3)
    images = Renders(drawn(), CONFIG, Noise(1, "other"))(torch.from_numpy(asked), torch.arange(240))
    right = judge.right(images, asked)
    assert all(np.nanmean(right[name]) > 0.9 for name in (*ATTRIBUTES, TOGETHER))
    assert right[SUBGROUP].mean() > 0.85


def test_other_pictures_are_wrong(judge: AttributeJudge) -> None:
    """A picture with another tone, but the same gender and role: only the tone and what holds it are wrong."""
    emoji = drawn()
    asked = np.array([i for i, g in enumerate(emoji.glyphs) if g.tones == ("dark",)])
    right = judge.right(emoji.images(torch.from_numpy(asked - 3)), asked)  # three tones lighter
    assert np.nanmean(right["tone"]) < 0.1 and right[SUBGROUP].mean() < 0.1 and np.nanmean(right[TOGETHER]) < 0.1
    assert np.nanmean(right["gender"]) > 0.9 and np.nanmean(right["role"]) > 0.9


def test_questions_that_do_not_apply(judge: AttributeJudge) -> None:
    right = judge.right(torch.zeros(80, 3, 16, 16), np.arange(80))
    assert (~np.isnan(right["tone"])).sum() == (~np.isnan(right["role"])).sum() == 72
    assert (~np.isnan(right["colour"])).sum() == 8 and np.isnan(right["shape"][:72]).all()
    assert not np.isnan(right[SUBGROUP]).any() and not np.isnan(right[TOGETHER]).any()


def test_chance_is_that_of_a_constant_answer(judge: AttributeJudge) -> None:
    chance = judge.chance(np.arange(80))
    assert chance["tone"] == pytest.approx(1 / 6) and chance["gender"] == pytest.approx(1 / 3)
    assert chance["shape"] == 0.5 and chance["colour"] == 0.25
    assert chance[TOGETHER] == pytest.approx(1 / 80)
    assert chance[SUBGROUP] == pytest.approx((72 / 72 + 8 / 4) / 80)
    assert judge.chance(np.array([0, 0, 0, 1]))["tone"] == 0.75
    assert np.isnan(judge.chance(np.arange(72))["colour"])


def test_pictures_that_are_the_same_are_one(judge: AttributeJudge) -> None:
    emoji = drawn()
    emoji.rgba = emoji.rgba.copy()
    emoji.rgba[1] = emoji.rgba[0]
    twins = train_judge(emoji, CONFIG.replace(epochs=1)).twins
    assert twins[:3].tolist() == [0, 0, 2] and len(np.unique(twins)) == 79


def test_training_is_a_function_of_the_seed() -> None:
    config = CONFIG.replace(epochs=1)
    torch.manual_seed(1)
    a = train_judge(drawn(), config)
    torch.manual_seed(2)
    b = train_judge(drawn(), config)
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))
    c = train_judge(drawn(), config.replace(seed=1))
    assert not torch.equal(next(c.model.parameters()), next(a.model.parameters()))


def test_a_file_gives_back_everything(judge: AttributeJudge, tmp_path: Path) -> None:
    path = save_judge(tmp_path, judge)
    found = load_judge(path)
    images = drawn().images(torch.arange(80))
    for name, right in judge.right(images, np.arange(80)).items():
        assert np.array_equal(right, found.right(images, np.arange(80))[name], equal_nan=True)
    assert found.glyphs == judge.glyphs and found.config == judge.config
    assert save_judge(tmp_path, found) == path
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "was changed: its content has the hash" in refused(load_judge, path)
    (tmp_path / "other.safetensors").write_bytes(b"")
    assert refused(load_judge, tmp_path / "other.safetensors")


def test_what_is_refused(judge: AttributeJudge) -> None:
    assert "must be (2, 3, 16, 16)" in refused(judge.right, torch.zeros(2, 3, 8, 8), np.arange(2))
    small = dataclasses.replace(drawn(), rgba=drawn().rgba[:, :14, :14])
    assert "multiple of 4" in refused(train_judge, small, CONFIG)
    assert "at least 90" in refused(train_judge, drawn(), CONFIG.replace(batch=90))


def test_wear_is_a_function_of_the_sample() -> None:
    images = drawn(32).images(torch.arange(80))
    wear, samples = Wear(Noise(0, "wear")), torch.arange(80)
    whole = wear(images, samples)
    assert whole.shape == images.shape and whole.abs().max() <= 1
    assert torch.allclose(wear(images[7:9], samples[7:9]), whole[7:9], atol=1e-6)
    assert not torch.equal(wear(images, samples + 80), whole)
    assert torch.equal(Wear(Noise(0, "wear"), 0)(images, samples), images)
    weak, strong = ((Wear(Noise(0, "wear"), s)(images, samples) - images).square().mean() for s in (0.3, 1.5))
    assert 0 < weak < strong
