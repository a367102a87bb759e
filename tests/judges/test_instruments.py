"""Classifiers in files: named by content, with their certificate, refused when damaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from nextset.judges.fidelity import ClassifierConfig
from nextset.judges.instruments import Instrument, load_instrument, make_instrument, save_instrument
from nextset.judges.sets import ArraySet
from tests.judges.scenes import coloured, refused, scenes

CONFIG = ClassifierConfig(width=4, epochs=2, batch=32, pad=2)


@pytest.fixture(scope="module")
def made() -> Instrument:
    return make_instrument(coloured(128), coloured(60, 1), CONFIG)


def test_a_file_gives_back_everything(made: Instrument, tmp_path: Path) -> None:
    path = save_instrument(tmp_path, made)
    for found in (load_instrument(path), load_instrument(tmp_path)):
        assert path.name == f"classifier-{found.hash}.safetensors"
        assert (found.model.predict(scenes(30, 5)) == made.model.predict(scenes(30, 5))).all()
        for field in ("class_names", "size", "accuracy", "tested", "trained_on", "tested_on", "config"):
            assert getattr(found, field) == getattr(made, field)
    assert made.size == (16, 16) and made.class_names == ("plain", "red") and made.tested == 60
    assert made.trained_on == coloured(128).identity


def test_equal_classifiers_are_one_file(made: Instrument, tmp_path: Path) -> None:
    again = make_instrument(coloured(128), coloured(60, 1), CONFIG)
    assert save_instrument(tmp_path, made) == save_instrument(tmp_path, again)
    assert save_instrument(tmp_path, dataclasses.replace(made, accuracy=1.0)).exists()
    assert len(list(tmp_path.iterdir())) == 2
    assert "holds 2 classifiers, but must hold one" in refused(load_instrument, tmp_path)


def test_the_accuracy_is_that_on_the_test_pictures(made: Instrument) -> None:
    test = coloured(60, 1)
    assert made.accuracy == (made.model.predict(test.read(np.arange(60))) == test.labels).mean()


def test_damage_is_found(made: Instrument, tmp_path: Path) -> None:
    path = save_instrument(tmp_path, made)
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert "was changed: its content has the hash" in refused(load_instrument, path)
    path.write_bytes(data[:-5])
    assert "not a whole safetensors file" in refused(load_instrument, path)
    path.write_bytes(data)
    assert load_instrument(path).accuracy == made.accuracy


def test_what_is_no_classifier_is_refused(made: Instrument, tmp_path: Path) -> None:
    assert "holds no classifier" in refused(load_instrument, tmp_path)
    assert "does not exist" in refused(load_instrument, tmp_path / "none.safetensors")
    weights = load_file(save_instrument(tmp_path, made))
    save_file(weights, tmp_path / "other.safetensors")
    assert "is no classifier of nextset" in refused(load_instrument, tmp_path / "other.safetensors")
    save_file(weights, tmp_path / "other.safetensors", {"classifier": "{}"})
    assert "is no classifier of nextset" in refused(load_instrument, tmp_path / "other.safetensors")


def test_classes_are_matched_by_name(made: Instrument) -> None:
    assert made.classes_of(np.array([0, 1, 0]), ["red", "plain"]).tolist() == [1, 0, 1]
    assert "did you mean 'red'?" in refused(made.classes_of, np.array([0]), ["Red"])


def test_sets_that_make_no_instrument_are_refused() -> None:
    train = coloured(128)
    assert "has no classes" in refused(make_instrument, ArraySet(scenes(50)), train, CONFIG)
    assert "needs other pictures" in refused(make_instrument, train, train, CONFIG)
    assert "one size" in refused(make_instrument, train, coloured(60, 1, side=24), CONFIG)
    renamed = ArraySet(scenes(60, 1), labels=np.arange(60) % 2, class_names=["plain", "blue"])
    assert "the same class names" in refused(make_instrument, train, renamed, CONFIG)
