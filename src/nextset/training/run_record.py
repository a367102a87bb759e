"""Run record: what the folder of a run tells about it, read without its model, and while it is being written.

Only the metrics must be there. Everything else may be absent, cut short or not what it should be, and is then left out.
Nothing is judged or drawn here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from nextset.core.errors import NextsetError
from nextset.core.files import read_json
from nextset.training import checkpoints, metrics
from nextset.training.report import duration

DATA = "data.json"
# A run whose last line is younger than this many seconds, or than three times the way from line to line, goes on.
_QUIET = 300.0
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Saved:
    """A complete checkpoint: its name, its step, its size on disk."""

    name: str
    step: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class DataRecord:
    """What a run was trained on: pictures of `size` pixels a side, classes with their pictures, how many captions, a line
    for each file that was left out, how many were converted in which way, and what else was noted."""

    source: str
    pictures: int
    size: int
    classes: dict[str, int]
    captions: int
    skipped: list[str]
    converted: dict[str, int]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a run ended, or that it did not, in a word and in a line."""

    word: Literal["finished", "running", "stopped", "broke off"]
    line: str


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """rows: the finite numbers of each logging step, by rising "step". not_finite: (step, name) of all others. recipe:
    sections `model`, `data`, `train`, `sample` and the entries beside them, as far as they were saved. samples: (step, path)
    by rising step. quiet: seconds since the last line was written."""

    folder: Path
    rows: list[dict[str, float]]
    not_finite: list[tuple[int, str]]
    recipe: dict[str, Any]
    data: DataRecord | None
    saved: list[Saved]
    samples: list[tuple[int, Path]]
    published: bool
    quiet: float

    @property
    def step(self) -> int:
        """The step of the last line."""
        return int(self.rows[-1]["step"])

    @property
    def elapsed(self) -> float:
        """Seconds that the run took up to its last line."""
        return self.rows[-1].get("elapsed", 0.0)

    def names(self) -> list[str]:
        """Everything that was logged, but for the axes."""
        return [
            name for name in dict.fromkeys(key for row in self.rows for key in row) if name not in ("step", "elapsed")
        ]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of what was logged under a name; both empty where it was not."""
        found = [(int(row["step"]), row[name]) for row in self.rows if name in row]
        return [step for step, _ in found], [value for _, value in found]

    def families(self) -> dict[str, list[int]]:
        """Numbers that are logged for each scale: "update/part" -> k of all "update/part_k"."""
        found: dict[str, list[int]] = {}
        for name in self.names():
            if match := re.fullmatch(r"(.*/.*)_(0|[1-9][0-9]{0,3})", name):
                found.setdefault(match[1], []).append(int(match[2]))
        return {name: sorted(scales) for name, scales in found.items()}

    def setting(self, path: str, kind: type[_T], default: _T) -> _T:
        """An entry of the recipe such as "train.clip", or the default where it is unknown or of another kind."""
        place: Any = self.recipe
        for part in path.split("."):
            place = place.get(part) if isinstance(place, dict) else None
        return _typed(place, kind, default)

    @property
    def steps(self) -> int:
        """Steps that the run is meant to take; 0 where that is not known."""
        return self.setting("train.steps", int, 0)

    @property
    def ending(self) -> Ending:
        """How the run ended, concluded from what it left."""
        of = f" of {self.steps:,}" if self.steps else ""
        budget = self.setting("train.time_budget", float, 0.0)
        newest = self.saved[-1].step if self.saved else 0
        between = self.elapsed - (self.rows[-2].get("elapsed", 0.0) if len(self.rows) > 1 else 0.0)
        ago = duration(self.quiet)
        if 0 < self.steps <= self.step:
            return Ending("finished", f"all {self.steps:,} steps in {duration(self.elapsed)}")
        if 0 < 60 * budget <= self.elapsed:
            return Ending("finished", f"step {self.step:,}{of}; the time budget of {budget:g} min was used up")
        if self.quiet < max(_QUIET, 3 * between):
            return Ending("running", f"step {self.step:,}{of} after {duration(self.elapsed)}; last line {ago} ago")
        if newest >= self.step:
            return Ending("stopped", f"step {newest:,}{of}, and saved there; --resume goes on")
        remedy = f"--resume goes on from step {newest:,}" if newest else "no checkpoint was written"
        return Ending("broke off", f"after step {self.step:,}{of}; last line {ago} ago; {remedy}")


def read_run(folder: Path, now: float | None = None) -> RunRecord:
    """Read the folder of a run. now: seconds since 1970, the present by default.

    Raises NextsetError if there are no metrics in it, or no line of them yet.
    """
    path = folder / metrics.FILE
    try:
        lines = [line for line in metrics.read(folder) if _is_number(line["step"], 2**53)]
        quiet = max(0.0, (time.time() if now is None else now) - path.stat().st_mtime)
    except OSError as error:
        raise NextsetError(f"{path} cannot be read: {error.strerror or error}; check the path") from error
    if not lines:
        raise NextsetError(f"{path} has no lines yet; wait for the first logging step")
    by_step: dict[int, dict[str, float]] = {}
    not_finite = []
    for line in lines:
        by_step[line["step"]] = {name: float(value) for name, value in line.items() if _is_number(value)}
        not_finite += [(line["step"], name) for name, value in line.items() if value is None]
    return RunRecord(
        folder=folder,
        rows=[by_step[step] for step in sorted(by_step)],
        not_finite=not_finite,
        recipe=_recipe(folder),
        data=_data(folder),
        saved=_saved(folder),
        samples=sorted((int(p.stem[5:]), p) for p in folder.glob("samples/step-*.png") if p.stem[5:].isdecimal()),
        published=(folder / "model" / "config.json").exists(),
        quiet=quiet,
    )


def recipe_lines(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A recipe as "section.field" -> value, nested sections included, in its order."""
    lines: dict[str, str] = {}
    for key, value in recipe.items():
        if isinstance(value, dict):
            lines |= recipe_lines(value, f"{prefix}{key}.")
        elif value is not None:
            lines[f"{prefix}{key}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return lines


def _recipe(folder: Path) -> dict[str, Any]:
    """From the newest checkpoint that can be read, or from the published model."""
    for path in reversed(checkpoints.complete(folder)):
        with contextlib.suppress(NextsetError):
            state = _typed(read_json(path / "state.json"), dict, {})
            recipe = _typed(_typed(state.get("notes"), dict, {}).get("recipe"), dict, {})
            # What the run was resumed with counts, as the trainer saved it.
            return {**recipe, "train": _typed(state.get("config"), dict, {})}
    with contextlib.suppress(NextsetError):
        return _typed(_typed(read_json(folder / "model" / "config.json"), dict, {}).get("recipe"), dict, {})
    return {}


def _data(folder: Path) -> DataRecord | None:
    try:
        found = _typed(read_json(folder / DATA), dict, {})
    except NextsetError:
        return None
    counts = {
        name: {str(key): n for key, n in _typed(found.get(name), dict, {}).items() if isinstance(n, int)}
        for name in ("classes", "converted")
    }
    return DataRecord(
        source=_typed(found.get("source"), str, ""),
        pictures=_typed(found.get("pictures"), int, 0),
        size=_typed(found.get("size"), int, 0),
        captions=_typed(found.get("captions"), int, 0),
        skipped=[str(line) for line in _typed(found.get("skipped"), list, [])],
        notes=[str(line) for line in _typed(found.get("notes"), list, [])],
        **counts,
    )


def _saved(folder: Path) -> list[Saved]:
    found = []
    for path in checkpoints.complete(folder):
        step = path.name.removeprefix("step-")
        with contextlib.suppress(OSError):  # a run that goes on removes its old ones
            if step.isdecimal():
                found.append(Saved(path.name, int(step), sum(file.stat().st_size for file in path.iterdir())))
    return found


def _typed(value: Any, kind: type[_T], default: _T) -> _T:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    return value if isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool) else default


def _is_number(value: Any, limit: float = 1e300) -> bool:
    """Whether it is a finite number that can be counted with, of less than `limit`."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < limit
