"""The small classifier: its architecture, what its training is a function of, and what is computed from its answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nextset.core.noise import Noise
from nextset.judges.fidelity import Classifier, ClassifierConfig, Fidelity, accuracy, augment, train_classifier
from tests.judges.scenes import coloured, refused, scenes

SMALL = ClassifierConfig(width=4, epochs=3, batch=32, pad=2)


def trained(config: ClassifierConfig = SMALL) -> Classifier:
    pictures = coloured(256)
    assert pictures.labels is not None
    return train_classifier(pictures.read(np.arange(256)), pictures.labels, config)


def test_architecture() -> None:
    model = Classifier(16, 10)
    shapes = [tuple(p.shape) for name, p in model.named_parameters() if p.ndim == 4]
    assert shapes == [(16, 3, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3)]
    assert model.last.weight.shape == (10, 64)
    assert [m.stride[0] for m in model.modules() if isinstance(m, torch.nn.Conv2d)] == [1, 2, 2, 1]
    assert not any(m.bias is not None for m in model.modules() if isinstance(m, torch.nn.Conv2d))


def test_it_learns_and_twice_the_same() -> None:
    one, two, test = trained(), trained(), coloured(100, 7)
    assert test.labels is not None
    assert accuracy(one, test.read(np.arange(100)), test.labels) > 0.9
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    other = trained(SMALL.replace(seed=1))
    assert not torch.equal(one.last.weight, other.last.weight)


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(SMALL.replace(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_answers_do_not_depend_on_the_batch() -> None:
    model, images = trained(), scenes(40)
    whole = model.predict(images)
    assert (np.concatenate([model.predict(images[i : i + 1]) for i in range(40)]) == whole).all()
    assert model.predict(images[:0]).shape == (0,)


def test_augmentation_is_a_function_of_the_sample() -> None:
    pixels = torch.from_numpy(scenes(8)).permute(0, 3, 1, 2)
    noise, samples = Noise(0, "classifier"), torch.arange(8) + 100
    whole = augment(pixels, SMALL, noise, samples)
    assert torch.equal(augment(pixels[3:5], SMALL, noise, samples[3:5]), whole[3:5])
    assert not torch.equal(augment(pixels, SMALL, noise, samples + 8), whole)
    plain = augment(pixels, SMALL.replace(flip=False, pad=0), noise, samples)
    assert torch.equal(plain, pixels.float())
    # whatever it is, it is a window of the reflected picture, mirrored or not
    around = torch.nn.functional.pad(pixels[0:1].float(), (2,) * 4, mode="reflect")[0]
    windows = [around[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    flipped = torch.nn.functional.pad(pixels[0:1].float().flip(-1), (2,) * 4, mode="reflect")[0]
    windows += [flipped[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
    assert any(torch.equal(whole[0], window) for window in windows)


@pytest.mark.parametrize("field", ["width", "epochs", "batch", "peak", "rise", "momentum", "weight_decay", "pad"])
def test_values_out_of_range_are_refused(field: str) -> None:
    assert f"ClassifierConfig.{field} is" in refused(ClassifierConfig.from_dict, {field: -1})


def test_sets_that_teach_nothing_are_refused() -> None:
    images = scenes(64)
    assert "two classes" in refused(train_classifier, images, np.zeros(64, int), SMALL)
    assert "a batch of 32" in refused(train_classifier, images[:10], np.arange(10) % 2, SMALL)
    assert "below the side" in refused(train_classifier, images, np.arange(64) % 2, SMALL.replace(pad=16))


def test_fidelity_of_known_answers() -> None:
    predicted, wanted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1])
    found = Fidelity.of(predicted, wanted, 0.8, 4)
    assert (found.cf_acc, found.cf_ratio, found.n) == (0.5, 0.625, 4)
    assert found.entropy == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    assert found.most_entropy == pytest.approx(math.log(4))
    without = Fidelity.of(predicted, None, 0.8, 4)
    assert without.cf_acc is None and without.cf_ratio is None and without.entropy == found.entropy
