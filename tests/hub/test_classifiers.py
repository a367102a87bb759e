"""A classifier by its recipe, as a person trains it: what is shown, what is written, what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nextset.core.errors import NextsetError
from nextset.hub.workshop import train
from nextset.judges.instruments import load_instrument
from nextset.training.recipes import Recipe, load_recipe
from tests.judges.scenes import coloured


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name, pictures in (("train", coloured(128)), ("test", coloured(50, 1))):
        np.savez(
            folder / f"{name}.npz",
            images=pictures.read(np.arange(len(pictures))),
            labels=pictures.labels,
            classes=pictures.class_names,
        )
    return folder


def recipe(data: Path, *changes: str) -> Recipe:
    small = ["model.width=4", "model.epochs=2", "model.batch=32", "model.pad=2", "data.size=16"]
    sources = [f"data.{key}={data / name}.npz" for key, name in (("source", "train"), ("test", "test"))]
    return load_recipe("classifier-cifar10", [*small, *sources, *changes])


def test_a_classifier_is_trained_shown_and_written(data: Path, tmp_path: Path) -> None:
    seen = io.StringIO()
    result, path = train(recipe(data), tmp_path / "run", console=Console(file=seen, width=200))
    made = load_instrument(path)
    assert result is None and path.parent == tmp_path / "run" and [path] == list(path.parent.iterdir())
    assert (made.config.width, made.config.epochs, made.tested, made.size) == (4, 2, 50, (16, 16))
    for words in ("128 pictures of 2 classes", "epoch 1/2", "s left", f"accuracy {made.accuracy:.4f} on the 50 real"):
        assert words in seen.getvalue()


def test_twice_the_same_is_one_file(data: Path, tmp_path: Path) -> None:
    quiet = Console(file=io.StringIO())
    paths = {train(recipe(data), tmp_path, console=quiet)[1] for _ in range(2)}
    assert len(paths) == 1


def test_a_stop_says_what_is_lost_and_leaves_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nextset.judges.instruments.train_classifier", stopped)
    seen = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        train(recipe(data), tmp_path / "run", console=Console(file=seen, width=200))
    assert "nothing was written" in seen.getvalue() and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model.widht=8"], "did you mean 'width'"),
        (["data.tset=1"], "did you mean 'test'"),
        (["data.test=none.npz"], "none.npz does not exist"),
        (["lr=0.1"], "how it learns stands in [model]"),
        (["sample.n=4"], "how it learns stands in [model]"),
        (["model.epochs=0"], "ClassifierConfig.epochs is 0"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(data: Path, tmp_path: Path, changes: list[str], words: str) -> None:
    with pytest.raises(NextsetError) as caught:
        train(recipe(data, *changes), tmp_path / "run")
    assert words in str(caught.value) and not (tmp_path / "run").exists()


def test_there_is_nothing_to_resume(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="leave out --resume"):
        train(recipe(data), tmp_path, resume=True)
