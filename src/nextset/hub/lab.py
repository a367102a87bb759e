"""The lab in which claims are measured: trains by recipes, samples, judges, and keeps everything by what it was made of.

Each run, code cache and set of pictures lies in a folder under a name that ends in a hash of its recipe and its inputs. So a
claim that was stopped goes on where it was, and one whose recipes changed trains again. It knows no system.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.files import read_json, write_json
from nextset.core.noise import Noise
from nextset.data.arrays import read_arrays, write_arrays
from nextset.data.codes import encode_dataset, load_codes, save_codes, weights_fingerprint
from nextset.data.dataset import EMOJI, SHAPES, open_dataset
from nextset.data.images import to_uint8
from nextset.data.places import CITY
from nextset.engine.run import Run, finish
from nextset.hub import pretrained
from nextset.hub.examples_run import SCORES
from nextset.hub.workshop import train
from nextset.judges.claims import Made, Trained
from nextset.judges.comparison import Options, compare
from nextset.judges.instruments import Instrument, load_instrument
from nextset.judges.report import Report
from nextset.judges.sets import ArraySet, PictureSet
from nextset.judges.sources import open_set
from nextset.training.recipes import Recipe, load_recipe

_BATCH = 250
_TRIAL = 12  # steps that a trial runs; the second half is timed
ENDED = "ended.json"  # of a run: what is known once it is over
TESTBEDS = (EMOJI, SHAPES, CITY)  # those that the library makes itself
# fields of [train] that change no weight
_FREE = {"threads", "log_every", "sample_every", "save_every", "save_minutes", "keep", "parallel", "checkpoint"}


class Workbench:
    """A `nextset.judges.claims.Lab` on a folder.

    data: folder with `train.npz` and `test.npz` (pictures with classes). budget: minutes of training in all, None: the
    recipes' own steps. classifier: a trained one; by default the recipe `classifier_recipe` is run.
    """

    classifier_recipe = "classifier-cifar10"

    def __init__(
        self,
        folder: Path,
        data: Path,
        *,
        budget: float | None = None,
        threads: int = 0,
        classifier: Path | None = None,
        console: Console | None = None,
    ) -> None:
        self.folder, self.budget, self.threads, self._classifier = folder, budget, threads, classifier
        self._files = {held_out: data / name for held_out, name in ((False, "train.npz"), (True, "test.npz"))}
        self.console = console or Console(stderr=True, highlight=False)

    @property
    def _sources(self) -> dict[bool, Path]:
        """The testbed's files, which must be there once they are needed."""
        for path in self._files.values():
            if not path.is_file():
                raise NextsetError(
                    f"{path} does not exist; give a folder that holds train.npz and test.npz: --data DIR"
                )
        return self._files

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    # ---- training

    def recipe(self, name: str, *changes: str) -> Recipe:
        places = [] if load_recipe(name).data.get("source") in TESTBEDS else [f'data.source="{self._sources[False]}"']
        return load_recipe(name, [*places, f"threads={self.threads}", *changes])

    def fit(self, share: float, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        if self.budget is None:
            return recipes
        seconds = [self._seconds_a_step(label, recipe) for label, recipe in recipes.items()]
        steps = max(20, int(60 * self.budget * share / sum(seconds)))
        self.say(f"{steps:,} steps each: {', '.join(recipes)}")
        return {label: with_steps(recipe, steps) for label, recipe in recipes.items()}

    def _seconds_a_step(self, label: str, recipe: Recipe) -> float:
        """Measured once on this machine, so that a claim that goes on trains as many steps as it began with."""
        path = self.folder / "speeds.json"
        known = read_json(path) if path.exists() else {}
        key = self.key_of(with_steps(recipe, _TRIAL))
        if key not in known:
            self.say(f"timing {label} ...")
            few = with_steps(recipe, _TRIAL)
            quiet = few.train.replace(log_every=_TRIAL // 2, sample_every=0, save_minutes=0)
            trial = dataclasses.replace(few, train=quiet)
            with tempfile.TemporaryDirectory() as folder:
                ended, _ = train(trial, Path(folder), console=Console(quiet=True))
            assert ended is not None  # no recipe of a classifier is fitted
            known[key] = recipe.train.batch * recipe.train.accumulate / ended.metrics["images_per_second"]
            write_json(path, known)
        return known[key]

    def train(self, label: str, recipe: Recipe) -> Trained:
        folder = self.folder / f"{label}-{self.key_of(recipe)}"
        ended = folder / ENDED
        if not ended.exists():
            self.say(f"training {label}: {recipe.train.steps:,} steps of {recipe.name}")
            result, _ = train(recipe, folder, resume=(folder / "latest").exists(), console=self.console)
            assert result is not None  # a trainer's
            write_json(ended, {"steps": result.step, "seconds": result.elapsed, "metrics": result.metrics})
        return self._trained(folder)

    def keep(self, trained: Trained, out: Path) -> None:
        """A trained model as a folder that outlives this lab's, see `adopt`."""
        whole = trained.folder.parent
        shutil.copytree(trained.folder, out / "model", dirs_exist_ok=True)
        shutil.copy(whole / ENDED, out / ENDED)

    def adopt(self, label: str, kept: Path) -> Trained:
        """What `keep` wrote, in a run of this lab whose name ends in a hash of its weights."""
        folder = self.folder / f"{label}-{weights_fingerprint(pretrained.load(kept / 'model').model)[:10]}"
        if not (folder / ENDED).exists():
            shutil.copytree(kept, folder, dirs_exist_ok=True)
        return self._trained(folder)

    def _trained(self, folder: Path) -> Trained:
        about = read_json(folder / ENDED)
        model = pretrained.load(folder / "model").model
        scores = folder / SCORES
        tests = tuple(json.loads(line) for line in scores.read_text().splitlines()) if scores.exists() else ()
        return Trained(folder / "model", model, about["steps"], about["seconds"], about["metrics"], tests)

    def codes(self, label: str, tokenizer: Trained, variants: int = 1, held_out: bool = False) -> Path:
        which = "held-out" if held_out else "codes"
        path = self.folder / f"{which}-{label}-{_key([self._place(tokenizer.folder), variants])}.npz"
        if not path.exists():
            size = tokenizer.model.spec.size[0]
            data = open_dataset(self._sources[held_out], size=size, flip=variants > 1)
            with self._bar(f"tokenizing for {label}", variants * len(data)) as advance:
                save_codes(path, encode_dataset(data, tokenizer.model, variants=variants, progress=advance))
        return path

    @torch.no_grad()
    def loss(self, model: Trained, codes: Path) -> float:
        known, total = load_codes(codes), 0.0
        for part in torch.arange(len(known)).split(_BATCH):
            batch = known.batch(part, part, Noise(0))
            total += sum(float(update.loss) for update in model.model.updates(batch, 0, Noise(0))) * len(part)
        return total / len(known)

    # ---- pictures

    def generate(self, model: Trained, n: int, seed: int = 0, **settings: Any) -> Made:
        known = pretrained.load(model.folder).info["class_names"]
        key = _key([self._place(model.folder), n, seed, settings])
        path = self.folder / "pictures" / f"{key}.npz"
        labels = torch.arange(n) % len(known)
        if not path.exists():
            start = time.perf_counter()
            with self._bar(f"generating {n:,} pictures", n) as advance:
                pictures, forwards = pictures_of(model.model, labels, seed, advance, **settings)
            about = np.array([(time.perf_counter() - start) / n, forwards])
            write_arrays(path, {"pictures": pictures, "about": about})
        kept = read_arrays(path, ["pictures", "about"])
        name = f"{model.folder.parent.name}/{key}"
        made = ArraySet(kept["pictures"], labels=labels.numpy(), class_names=known, name=name)
        return Made(made, float(kept["about"][0]), int(kept["about"][1]))

    @torch.no_grad()
    def reconstruct(self, tokenizer: Trained, n: int) -> PictureSet:
        path = self.folder / "pictures" / f"{_key([self._place(tokenizer.folder), n])}.npz"
        if not path.exists():
            size = tokenizer.model.spec.size[0]
            data, made = open_dataset(self._sources[True], size=size), []
            for part in torch.arange(n).split(_BATCH):
                again = tokenizer.model.decode(tokenizer.model.encode(data.images(part)))
                made.append(to_uint8(again.clamp(-1, 1)).permute(0, 2, 3, 1).numpy())
            write_arrays(path, {"pictures": np.concatenate(made)})
        held_out = self.held_out()
        pictures = read_arrays(path, ["pictures"])["pictures"]
        labels = None if held_out.labels is None else held_out.labels[:n]
        return ArraySet(pictures, labels=labels, class_names=held_out.class_names, name="reconstructions")

    @cached_property
    def _sets(self) -> dict[bool, PictureSet]:
        return {held_out: open_set(path) for held_out, path in self._sources.items()}

    def held_out(self) -> PictureSet:
        return self._sets[True]

    # ---- judging

    @cached_property
    def instrument(self) -> Instrument:
        """The classifier of `class_fidelity`."""
        if self._classifier is None:
            places = (f'data.source="{self._sources[False]}"', f'data.test="{self._sources[True]}"')
            recipe = load_recipe(self.classifier_recipe, places)
            folder = self.folder / f"classifier-{self.key_of(recipe)}"
            if not folder.exists():
                train(recipe, folder, console=self.console)
            self._classifier = folder
        return load_instrument(self._classifier)

    def judge(self, pictures: PictureSet, *judges: str, n: int | None = None, reference: int | None = None) -> Report:
        options = Options(n=n, n_reference=reference, cache=self.folder / "judges")
        return compare(
            pictures,
            self._sets[False],
            judges,
            options,
            basis=self._sets[False],
            held_out=self.held_out(),
            instrument=self.instrument if "class_fidelity" in judges else None,
        )

    def paired(self, a: PictureSet, b: PictureSet, *judges: str) -> Report:
        return compare(a, b, judges, Options(n=min(len(a), len(b)), cache=self.folder / "judges"))

    # ---- names

    def key_of(self, recipe: Recipe) -> str:
        """Ten hex digits of everything in a recipe that changes a weight. Pictures count by content and this folder's files
        by their place in it, so that moving either changes nothing."""
        what = {k: v for k, v in recipe.to_dict().items() if k != "name"}
        what["train"] = {k: v for k, v in what["train"].items() if k not in _FREE}
        for name, held_out in (("source", False), ("test", True)):
            if what["data"].get(name, EMOJI) not in TESTBEDS:
                what["data"][name] = self._contents[held_out]
        for name in ("tokenizer", "codes", "start"):
            if name in what["data"]:
                what["data"][name] = self._place(Path(what["data"][name]))
        return _key(what)

    def _place(self, path: Path) -> str:
        """Where something lies in this folder; of a packaged model, the weights of its tokenizer."""
        if str(path) in pretrained.packaged():
            return weights_fingerprint(pretrained.load(path).model.tokenizer)
        return str(path.resolve().relative_to(self.folder.resolve()))

    @cached_property
    def _contents(self) -> dict[bool, str]:
        """sha256 of the testbed's files."""
        digests = {}
        for held_out, path in self._sources.items():
            with path.open("rb") as handle:
                digests[held_out] = hashlib.file_digest(handle, "sha256").hexdigest()
        return digests

    def _bar(self, what: str, total: int) -> _Bar:
        return _Bar(what, total, self.console)


class _Bar:
    """A progress bar with the time left, as a context that gives `advance(done, total)`."""

    def __init__(self, what: str, total: int, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Any:
        self._bar.start()
        return lambda done, total: self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *reason: object) -> None:
        self._bar.stop()


@torch.no_grad()
def pictures_of(
    model: Any, labels: Tensor, seed: int = 0, progress: Callable[[int, int], Any] | None = None, **settings: Any
) -> tuple[np.ndarray, int]:
    """(Pictures (N, H, W, 3) uint8 of the labels (N,), forwards of one batch): picture i of a seed is the same for any N."""
    made, forwards = [], 0
    for part in torch.arange(len(labels)).split(_BATCH):
        run = Run.of(model.job(labels[part], **settings), Noise(seed, "generate"), part)
        made.append(to_uint8(finish(run)).permute(0, 2, 3, 1).numpy())
        forwards = run.forwards
        if progress is not None:
            progress(int(part[-1]) + 1, len(labels))
    return np.concatenate(made), forwards


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with other steps; a warm-up that would not fit is shortened."""
    warmup = min(recipe.train.warmup, steps // 10)
    return dataclasses.replace(recipe, train=recipe.train.replace(steps=steps, warmup=warmup))


def _key(what: Any) -> str:
    """Ten hex digits of what something is made of."""
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:10]
