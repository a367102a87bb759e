"""Recipes: one TOML file per training run.

    kind = "tokenizer"            # or "generator", "classifier", "lora"; the name is the file's
    system = "..."                # whose generator; the others have none
    [model] [data] [sample]       # for the rooms that build these
    [lora]                        # of kind "lora", which has no [model]: data.model is the one that it adds to
    [train]                       # TrainConfig

A recipe is parsed here, nothing more: models and data are built elsewhere, from the plain dicts.
"""

from __future__ import annotations

import copy
import dataclasses
import tomllib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from nextset.core.configs import Config
from nextset.core.errors import NextsetError, nearest
from nextset.training.schedules import check_kind

KINDS = ("tokenizer", "generator", "classifier", "lora")
SECTIONS = ("model", "data", "train", "sample", "lora")


@dataclasses.dataclass(frozen=True)
class TrainConfig(Config):
    """How long, how fast and how carefully.

    steps, batch: updates, and samples of one of its `accumulate` parts: a step sees batch * accumulate samples.
    lr: peak; schedule, warmup (steps), start and end (factors of lr): see `schedules.lr_ratio`. lr_scale: factor of the
    learning rate by parameter group, 1 for those not named. weight_decay goes to weight_decay_end (None = stays).
    clip: global gradient norm, 0 = none. ema: decay of the running mean, 0 = none. dtype: of the forward pass; weights,
    gradients and optimiser stay float32. threads: of the CPU, 0 = torch's choice.
    log_every, sample_every, save_every: steps; 0 = never, though the end is always saved. save_minutes: besides, after
    so many minutes. keep: checkpoints, 0 = all.
    parallel: where the weights are when a launcher starts several processes, which then share every batch: whole in each
    ('ddp'), cut ('fsdp'); 'auto' is ddp, 'none' refuses several. checkpoint: written whole by the first process, or
    'sharded', each process its parts; either kind serves any number of processes.
    time_budget: minutes after which a run ends, 0 = none. schedule_by: 'time' lets the schedules run through by the
    end of the budget, whatever step that is; such a run is not repeatable bit by bit.
    """

    steps: int = 10_000
    batch: int = 64
    accumulate: int = 1
    lr: float = 1e-3
    lr_scale: dict[str, float] = dataclasses.field(default_factory=dict)
    schedule: str = "lin0"
    warmup: int = 100
    start: float = 0.005
    end: float = 0.01
    weight_decay: float = 0.05
    weight_decay_end: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip: float = 2.0
    ema: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    threads: int = 0
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    checkpoint: Literal["whole", "sharded"] = "whole"
    log_every: int = 50
    sample_every: int = 500
    save_every: int = 1000
    save_minutes: float = 10.0
    keep: int = 3
    time_budget: float = 0.0
    schedule_by: Literal["steps", "time"] = "steps"

    def check(self) -> None:
        check_kind(self.schedule)
        for name in ("steps", "batch", "accumulate", "log_every"):
            self.require(name, getattr(self, name) >= 1, "at least 1")
        counts = ("warmup", "threads", "sample_every", "save_every", "save_minutes", "keep", "time_budget")
        for name in (*counts, "clip", "weight_decay"):
            self.require(name, getattr(self, name) >= 0, "at least 0")
        for name in ("lr", "eps"):
            self.require(name, getattr(self, name) > 0, "above 0")
        for name in ("start", "end"):
            self.require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self.require("end", self.end > 0 or self.schedule != "exp", "above 0 for the schedule 'exp'")
        self.require("ema", 0 <= self.ema < 1, "at least 0 and below 1")
        self.require("betas", all(0 <= b < 1 for b in self.betas), "two numbers, at least 0 and below 1")
        self.require("warmup", self.warmup < self.steps, f"below steps ({self.steps})")
        timed = self.schedule_by == "time"
        self.require("schedule_by", not timed or self.time_budget > 0, "'steps' unless time_budget is above 0")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A parsed recipe; `model`, `data`, `sample` and `lora` are whatever their builders understand."""

    name: str
    kind: str
    system: str | None
    model: dict[str, Any]
    data: dict[str, Any]
    train: TrainConfig
    sample: dict[str, Any]
    lora: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A plain dict that JSON can hold; `from_dict` reads it back. What other kinds cannot have is left out."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "lora" or self.kind == "lora"]
        plain = {name: getattr(self, name) for name in names}
        return copy.deepcopy({**plain, "train": self.train.to_dict()})

    @classmethod
    def from_dict(cls, values: dict[str, Any], name: str | None = None) -> Recipe:
        """Check the top level and [train]. name: used where the dict has none."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise NextsetError(f"a recipe has no entry {key!r}: {nearest(key, known)}")
        for section in SECTIONS:
            if not isinstance(values.get(section, {}), dict):
                raise NextsetError(f"{section} is {values[section]!r}, but must be a section [{section}]")
        kind, system = values.get("kind"), values.get("system")
        if kind not in KINDS:
            raise NextsetError(f"kind is {kind!r}, but must be one of {', '.join(KINDS)}; say it in the first lines")
        if system is not None and not isinstance(system, str):
            raise NextsetError(f"system is {system!r}, but must be a name")
        if kind == "generator" and system is None:
            raise NextsetError("a recipe of kind 'generator' needs the name of its system; add system = \"...\"")
        other = "model" if kind == "lora" else "lora"
        if values.get(other):
            raise NextsetError(f"a recipe of kind {kind!r} has no section [{other}]; take it out, or change the kind")
        sections = {section: copy.deepcopy(values.get(section, {})) for section in SECTIONS}
        train = TrainConfig.from_dict(sections.pop("train"))
        return cls(name=str(values.get("name") or name or "recipe"), kind=kind, system=system, train=train, **sections)


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by name (./recipes, then those shipped) or by path, and change values: 'train.lr=1e-4'.

    A value is written as in TOML; a bare word is a string. A field of [train] needs no section: 'steps=100'.
    """
    path, text = _find(str(name_or_path))
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NextsetError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(values, override)
    return Recipe.from_dict(values, name=Path(path).stem)


def list_recipes() -> list[str]:
    """Names of all recipes that `load_recipe` finds by name."""
    entries = [entry.name for folder in _folders() for entry in folder.iterdir()]
    return sorted({name.removesuffix(".toml") for name in entries if name.endswith(".toml")})


def parse_value(text: str) -> Any:
    """A value as TOML writes it: 1e-4, true, [1, 2], "text"; what TOML does not understand is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise NextsetError(f"{override!r} changes nothing; write section.field=value, as in train.steps=100")
    train = [field.name for field in dataclasses.fields(TrainConfig)]
    top = [field.name for field in dataclasses.fields(Recipe)]
    if len(parts) == 1 and parts[0] in train:
        parts = ["train", *parts]
    if parts[0] not in top:
        raise NextsetError(f"a recipe has no entry {parts[0]!r}: {nearest(parts[0], [*top, *train])}")
    place = values
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise NextsetError(f"{override!r} does not fit: {part!r} is a value, not a section")
    place[parts[-1]] = parse_value(text.strip())


def _find(name: str) -> tuple[str, str]:
    """(path as text, content) of a recipe."""
    if name.endswith(".toml") or "/" in name:
        try:
            return name, Path(name).read_text(encoding="utf-8")
        except OSError as error:
            raise NextsetError(f"{name} cannot be read: {error.strerror or error}; check the path") from error
        except UnicodeDecodeError as error:
            raise NextsetError(f"{name} is not UTF-8 text; is it a recipe?") from error
    for folder in _folders():
        entry = folder / f"{name}.toml"
        if entry.is_file():
            return str(entry), entry.read_text(encoding="utf-8")
    known = list_recipes()
    hint = nearest(name, known) if known else "give the path of a .toml file"
    raise NextsetError(f"there is no recipe {name!r}: {hint}")


def _folders() -> Iterable[Any]:
    """Where recipes are found by name: here, in the source tree, in the installed package."""
    package = resources.files("nextset")
    folders = [Path("recipes"), Path(__file__).resolve().parents[3] / "recipes", package / "recipes"]
    return [folder for folder in folders if folder.is_dir()]
