"""The catalogue: one record per system, as data. Nothing here names a system; records are `assets/catalogue/*.toml`.

The axes and their words follow the taxonomy of "Autoregressive Models in Vision: A Survey" (arXiv 2411.05902), extended
where the systems need it. Adding a word is a reviewed change.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from nextset.core.configs import Config
from nextset.core.errors import NextsetError, nearest

AXES: dict[str, tuple[str, ...]] = {
    "family": ("pixel", "token", "scale", "hybrid", "other"),
    "role": ("generator", "tokenizer", "accelerator", "cache-policy", "search", "controller", "editing", "adaptation", "training-method",
             "safety", "representation", "recognition", "benchmark", "taxonomy"),
    "representation": ("pixel", "token-2d", "token-1d", "scale-residual", "scale-flat", "frequency", "entity", "frame", "chunk", "decision",
                       "joint", "character", "feature"),
    "value": ("discrete-vq", "discrete-fsq", "bits", "continuous", "mixed"),
    "order": ("raster", "scale", "diagonal", "random-mask", "sequence-1d", "coarse-then-fine", "temporal", "spatio-temporal",
              "breadth-first", "one-shot"),
    "predicts": ("one", "set", "draft+verify", "all"),
    "head": ("softmax", "bits", "diffusion", "flow", "regression", "pointer", "several"),
    "condition": ("none", "class", "text", "image", "control", "mask", "video", "point-cloud", "multimodal"),
    "task": ("class-to-image", "text-to-image", "super-resolution", "editing", "control", "personalisation", "video", "video-360",
             "forecasting", "3d-rigging", "geo-localisation", "ocr", "understanding", "pre-training", "reconstruction"),
    "trains": ("from-scratch", "fine-tune", "calibrate-only", "none"),
}  # fmt: skip
CAPABILITIES = (
    "generate", "inpaint", "outpaint", "edit", "restore", "reconstruct", "preview", "train", "tokenize", "convert", "video", "cache", "search",
    "locate", "rig", "recognise", "understand", "forecast", "detect", "judge", "describe",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Axes(Config):
    """Where a system stands: one family, one or more words on every other axis (see `AXES`)."""

    family: str
    role: tuple[str, ...]
    representation: tuple[str, ...]
    value: tuple[str, ...]
    order: tuple[str, ...]
    predicts: tuple[str, ...]
    head: tuple[str, ...]
    condition: tuple[str, ...]
    task: tuple[str, ...]
    trains: tuple[str, ...]

    def check(self) -> None:
        for axis, words in AXES.items():
            given = self.words(axis)
            self.require(axis, bool(given), "at least one word")
            for word in given:
                if word not in words:
                    raise NextsetError(f"axis {axis} has no word {word!r}: {nearest(word, words)}")

    def words(self, axis: str) -> tuple[str, ...]:
        """The words on one axis, as a tuple for every axis."""
        value = getattr(self, axis)
        return (value,) if isinstance(value, str) else tuple(value)


@dataclasses.dataclass(frozen=True)
class TokenizerFacts(Config):
    """The released tokenizer: kind, pixels a cell, vocabulary (0 = none), tokens of a 256-pixel image."""

    kind: str
    stride: int
    vocabulary: int = 0
    tokens_256: int = 0


@dataclasses.dataclass(frozen=True)
class PlanFacts(Config):
    """Family of the plan, and forward calls for one released image."""

    family: str
    steps: int


@dataclasses.dataclass(frozen=True)
class Size(Config):
    """One released size."""

    name: str
    params: int
    depth: int = 0
    width: int = 0
    heads: int = 0
    pixels: int = 0
    file: str = ""


@dataclasses.dataclass(frozen=True)
class Number(Config):
    """A figure with everything that is needed to read it; source "reported" (by the authors) or "ours"."""

    metric: str
    value: float
    setting: str
    source: Literal["reported", "ours"]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Record(Config):
    """One system. entry: python path of its class; also: those of other models of its folder, such as a baseline, by name."""

    slug: str
    title: str
    year: int
    arxiv: str
    venue: str
    repo: str
    repo_commit: str
    code_licence: str
    weights_licence: str
    state: Literal["available", "planned"]
    is_base: bool
    base: tuple[str, ...]
    changes: str
    capabilities: tuple[str, ...]
    axes: Axes
    entry: str = ""
    also: dict[str, str] = dataclasses.field(default_factory=dict)
    claim: str = ""
    doc: str = ""
    example: str = ""
    limits: tuple[str, ...] = ()
    tokenizer: TokenizerFacts | None = None
    plan: PlanFacts | None = None
    sizes: tuple[Size, ...] = ()
    numbers: tuple[Number, ...] = ()

    def check(self) -> None:
        for capability in self.capabilities:
            if capability not in CAPABILITIES:
                raise NextsetError(
                    f"{self.slug}: no capability is called {capability!r}: {nearest(capability, CAPABILITIES)}"
                )
        self.require("entry", bool(self.entry) or self.state == "planned", "the python path of an available system")

    @property
    def citation(self) -> str:
        """One line to cite the paper by."""
        where = ", ".join(part for part in (f"arXiv {self.arxiv}" if self.arxiv else "", self.venue) if part)
        return f"{self.title} ({where or self.year})"


@cache
def load_records() -> dict[str, Record]:
    """Every record by slug, checked."""
    folder = Path(str(files("nextset"))) / "assets" / "catalogue"
    records = {}
    for path in sorted(folder.glob("*.toml")):
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        for field, kind in (("sizes", Size), ("numbers", Number)):
            values[field] = tuple(kind.from_dict(v) for v in values.get(field, []))
        record = Record.from_dict(values)
        if record.slug != path.stem:
            raise NextsetError(f"{path} holds the record of {record.slug!r}; name the file after its slug")
        records[record.slug] = record
    for record in records.values():
        for slug in record.base:
            if slug not in records:
                raise NextsetError(f"{record.slug} stands on {slug!r}, which has no record: {nearest(slug, records)}")
    return records


def get_record(slug: str) -> Record:
    """The record of a slug; unknown ones are answered with the nearest."""
    records = load_records()
    if slug not in records:
        raise NextsetError(f"no system is called {slug!r}: {nearest(slug, records)}")
    return records[slug]


def list_systems(
    *, state: str | None = None, base: str | None = None, search: str | None = None, **axes: str | None
) -> list[Record]:
    """Records that match every given filter, bases last. axes: family, role, task, ... with one word each."""
    chosen: Iterable[Record] = load_records().values()
    if state is not None:
        if state not in ("available", "planned"):
            raise NextsetError(f"state is {state!r}, but must be available or planned")
        chosen = [r for r in chosen if r.state == state]
    if base is not None:
        get_record(base)
        chosen = [r for r in chosen if base in r.base]
    for axis, word in axes.items():
        if axis not in AXES:
            raise NextsetError(f"the catalogue has no axis {axis!r}: {nearest(axis, AXES)}")
        if word is not None:
            if word not in AXES[axis]:
                raise NextsetError(f"axis {axis} has no word {word!r}: {nearest(word, AXES[axis])}")
            chosen = [r for r in chosen if word in r.axes.words(axis)]
    if search is not None:
        chosen = [r for r in chosen if search.lower() in f"{r.slug} {r.title} {r.changes}".lower()]
    return sorted(chosen, key=lambda r: (r.is_base, r.state != "available", r.axes.family, r.slug))


def differences(a: Record, b: Record) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Axes on which two systems differ, with the words of each."""
    return {
        axis: (a.axes.words(axis), b.axes.words(axis))
        for axis in AXES
        if set(a.axes.words(axis)) != set(b.axes.words(axis))
    }


def to_json(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Records as plain data."""
    return [r.to_dict() for r in records]
