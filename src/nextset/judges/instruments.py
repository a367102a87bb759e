"""Trained classifiers on disk: one file each, named by its content, with what it can do written inside."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from nextset.core.errors import NextsetError, nearest
from nextset.core.keys import load_into
from nextset.judges.fidelity import Classifier, ClassifierConfig, Steps, accuracy, quiet, train_classifier
from nextset.judges.sealed import read_sealed, write_sealed
from nextset.judges.sets import PictureSet, parts

_KIND = "classifier"
_MEMORY = 8 * 2**30


@dataclasses.dataclass(frozen=True)
class Instrument:
    """A classifier with its certificate.

    size: (H, W) of the pictures it learned from, and the only one it judges. accuracy: share of `tested` real pictures,
    not trained on, that it gives their own class. trained_on, tested_on: identities of the two sets. hash: of weights and
    certificate, once it is in a file.
    """

    model: Classifier
    class_names: tuple[str, ...]
    size: tuple[int, int]
    accuracy: float
    tested: int
    trained_on: str
    tested_on: str
    config: ClassifierConfig
    hash: str = ""

    def classes_of(self, labels: np.ndarray, names: list[str]) -> np.ndarray:
        """Labels (N,) into `names` -> its own classes. A name that it does not know is refused."""
        for name in names:
            if name not in self.class_names:
                raise NextsetError(f"class {name!r} is not one of the classifier's: {nearest(name, self.class_names)}")
        return np.array([self.class_names.index(name) for name in names])[labels]


def make_instrument(
    train: PictureSet, test: PictureSet, config: ClassifierConfig, steps: Steps = quiet, *, device: str = "cpu"
) -> Instrument:
    """Train on one set of real pictures, test on the other. Their classes must have the same names, their pictures one
    size."""
    for s in (train, test):
        if s.labels is None or len(s.class_names) < 2:
            raise NextsetError(
                f"{s.name} has no classes; give a folder with a sub-folder for each, or labels in an .npz"
            )
    if train.class_names != test.class_names or train.size != test.size:
        have = (f"{s.name} has {len(s.class_names)} classes at {s.size[1]} x {s.size[0]} pixels" for s in (train, test))
        raise NextsetError(f"{', '.join(have)}; both need the same class names and one size: data.size=32")
    if train.identity == test.identity:
        raise NextsetError(f"{test.name} is what the classifier learns from; its accuracy needs other pictures")
    needed = (len(train) + len(test)) * train.size[0] * train.size[1] * 3
    if needed > _MEMORY:
        raise NextsetError(
            f"the pictures of {train.name} and {test.name} take {needed:,} bytes, but at most {_MEMORY:,} are held in "
            "memory; make them smaller: data.size=64"
        )
    assert train.labels is not None and test.labels is not None
    pixels = _pixels(train), _pixels(test)
    model = train_classifier(pixels[0], train.labels, config, steps, classes=len(train.class_names), device=device)
    share = accuracy(model, pixels[1], test.labels)
    names, size = tuple(train.class_names), train.size
    return Instrument(model, names, size, share, len(test), train.identity, test.identity, config)


def save_instrument(folder: str | Path, instrument: Instrument) -> Path:
    """Write `classifier-<hash>.safetensors` in a folder; equal classifiers give equal files."""
    about = {
        "classes": list(instrument.class_names),
        "size": list(instrument.size),
        "accuracy": instrument.accuracy,
        "tested": instrument.tested,
        "trained_on": instrument.trained_on,
        "tested_on": instrument.tested_on,
        "config": instrument.config.to_dict(),
    }
    return write_sealed(folder, _KIND, instrument.model, about)


def load_instrument(path: str | Path) -> Instrument:
    """Read a classifier: its file, or a folder that holds one. A file whose content is not that of its name is refused."""
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob(f"{_KIND}-*.safetensors"))
        if len(found) != 1:
            have = f"{len(found)} classifiers" if found else "no classifier"
            raise NextsetError(f"{path} holds {have}, but must hold one; give the file, or train one")
        path = found[0]
    try:
        tensors, about, content = read_sealed(path, _KIND)
        config = ClassifierConfig.from_dict(about["config"])
        names = tuple(str(name) for name in about["classes"])
        height, width = (int(side) for side in about["size"])
        known = Instrument(
            Classifier(config.width, len(names)),
            names,
            (height, width),
            float(about["accuracy"]),
            int(about["tested"]),
            str(about["trained_on"]),
            str(about["tested_on"]),
            config,
            content,
        )
    except (TypeError, KeyError, ValueError) as error:
        raise NextsetError(
            f"{path} is no classifier of nextset ({error!r}); train one by a classifier recipe"
        ) from error
    load_into(known.model, tensors, what=str(path))
    known.model.eval()
    return known


def _pixels(pictures: PictureSet) -> np.ndarray:
    return np.concatenate(list(parts(pictures, np.arange(len(pictures)))))
