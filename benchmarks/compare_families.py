"""Families of generators on one set: scales, tokens, masked sets and cells; ids and continuous tokens; equal in parameters.

    nextset bench compare-families -- --data cifar10-jpeg --budget 240
    nextset bench compare-families -- --data cifar10-jpeg --budget 60 --only VAR MAR --equal samples
    nextset bench compare-families -- --data cifar10-jpeg --samples 12800 --tokenizers benchmarks/tokenizers
    nextset bench compare-families -- --sizes

The arms are data (`families_arms.py`). `--budget` is minutes of training in all, on this machine: a fifth for the
tokenizers, the rest for the generators, the same minutes for each (`--equal minutes`), or the same pictures seen (`--equal
samples`). `--samples` says instead how many pictures each training sees, on any machine. The smallest size is trained with
every seed, larger ones with the first. All runs are kept under `--runs`: a comparison that was stopped goes on. With
`--samples` and `--tokenizers` it goes on elsewhere, too: tokenizers and the classifier are taken from there, and rows that
were filed from the same recipes on the same tokenizers, judged by the same classifier, stay. What a classifier, sampling and
judging take is not in the budget.

It files a JSON and a table in markdown, row by row. Time is measured last, of all rows in one run. `docs/families.md` says
how to read it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ab import file_result, machine
from benchmarks.families_arms import (
    ARMS,
    PARAMETERS,
    Arm,
    chosen,
    coder_of,
    count,
    generator_of,
    settings_of,
    sized,
    table_of_sizes,
    without,
)
from benchmarks.families_table import sizes_table, tables
from nextset.core.errors import NextsetError, check_range
from nextset.core.files import atomic_write
from nextset.core.noise import Noise
from nextset.data.codes import load_codes, weights_fingerprint
from nextset.engine.footprint import footprint
from nextset.engine.run import Run, finish
from nextset.hub.lab import Workbench, with_steps
from nextset.judges.claims import Trained
from nextset.judges.instruments import save_instrument
from nextset.systems.var.baseline import figures
from nextset.training.recipes import Recipe

TOKENIZERS = 0.2  # share of the budget
MORE = 8  # times as many pictures as a generator are seen by a tokenizer, where pictures are what is said
JUDGES = ("rfd_z", "class_fidelity")
COUNTED = 10  # pictures of which memory and arithmetic are counted
TIMED = 50  # pictures of which time is measured, in one batch
ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class Scope:
    """What is compared. sizes: parameters, ascending; the first is trained with all seeds. equal: "minutes" or "samples".
    pictures: of a figure; tried: of one guidance value. samples: pictures that each training sees, None = what the budget
    allows."""

    sizes: tuple[int, ...] = (PARAMETERS,)
    seeds: tuple[int, ...] = (0, 1, 2)
    equal: str = "minutes"
    pictures: int = 2000
    tried: int = 500
    samples: int | None = None

    def runs(self) -> list[tuple[int, tuple[int, ...]]]:
        """(parameters, seeds) of each size."""
        return [(size, self.seeds if size == self.sizes[0] else self.seeds[:1]) for size in self.sizes]


@dataclasses.dataclass(frozen=True)
class Entry:
    """An arm at a size: its recipe, with its steps, and the seeds that it is trained with. asked: the size, which its
    parameters are near."""

    arm: Arm
    asked: int
    recipe: Recipe
    parameters: int
    seeds: tuple[int, ...]
    label: str

    @property
    def seen(self) -> int:
        """Pictures that one training sees."""
        return self.recipe.train.steps * _batch(self.recipe)


class Tokenizer:
    """A tokenizer's recipe, trained once for all arms that share it, and what it gives back of held-out pictures.

    kept: folder of trained ones by name. One that is there is taken, one that is not is trained and left there, in
    float16: a comparison may go on where the runs of its beginning are lost.
    """

    def __init__(self, lab: Workbench, name: str, share: float, samples: int | None = None, kept: Path | None = None):
        if kept is None:
            self.trained = lab.train(name, _of_length(lab, share, name, lab.recipe(name), samples))
        else:
            if not (kept / name).is_dir():
                recipe = _of_length(lab, share, name, lab.recipe(name, 'sample.store="float16"'), samples)
                lab.keep(lab.train(name, recipe), kept / name)
            self.trained = lab.adopt(name, kept / name)
        self.codes = lab.codes(name, self.trained, variants=2)
        self.name, self.classes = name, len(load_codes(self.codes).class_names)

    def floor(self, lab: Workbench, pictures: int) -> dict[str, Any]:
        """What no generator on its codes can beat."""
        real = lab.held_out()
        again = lab.reconstruct(self.trained, len(real))
        return {
            "tokenizer": self.name,
            "weights": weights_fingerprint(self.trained.model)[:16],
            "parameters": count(self.trained.model),
            "steps": self.trained.steps,
            "minutes": self.trained.seconds / 60,
            **figures(lab.paired(again, real, "psnr", "ssim")),
            **figures(lab.judge(again, *JUDGES, n=pictures)),
        }


def _of_length(lab: Workbench, share: float, label: str, recipe: Recipe, samples: int | None) -> Recipe:
    """The recipe with steps for its share of the budget, or for so many pictures."""
    if samples is None:
        return lab.fit(share, {label: recipe})[label]
    return with_steps(recipe, max(round(samples / _batch(recipe)), 20))


def entries(lab: Workbench, arms: Sequence[Arm], tokenizers: dict[str, Tokenizer], scope: Scope) -> list[Entry]:
    """Every arm at every size, with steps for an equal share of the budget."""
    trainings = len(arms) * sum(len(seeds) for _, seeds in scope.runs())
    found = []
    for size, seeds in scope.runs():
        for arm in arms:
            coder = tokenizers[arm.tokenizer]
            places = (f'data.tokenizer="{coder.trained.folder}"', f'data.codes="{coder.codes}"')
            recipe, number = sized(
                lab.recipe(arm.recipe, *places, *arm.changes), coder.trained.model, size, coder.classes
            )
            label = f"{arm.name.replace(' ', '-')}-{size}"
            recipe = _of_length(lab, (1 - TOKENIZERS) / trainings, label, recipe, scope.samples)
            found.append(Entry(arm, size, recipe, number, seeds, label))
    return found if scope.equal == "minutes" or scope.samples else _same_samples(found)


def _same_samples(found: Sequence[Entry]) -> list[Entry]:
    """The same pictures for every training, in the same time together: the harmonic mean of what each saw."""
    seen = statistics.harmonic_mean([e.seen for e in found], weights=[len(e.seeds) for e in found])
    steps = [max(round(seen / e.seen * e.recipe.train.steps), 20) for e in found]
    return [dataclasses.replace(e, recipe=with_steps(e.recipe, n)) for e, n in zip(found, steps, strict=True)]


def _batch(recipe: Recipe) -> int:
    return recipe.train.batch * recipe.train.accumulate


def seeded(recipe: Recipe, seed: int) -> Recipe:
    return dataclasses.replace(recipe, train=recipe.train.replace(seed=seed))


# ---- figures


def made_of(lab: Workbench, entry: Entry) -> str:
    """All that the figures of a row depend on, but for the scope."""
    return f"{lab.key_of(entry.recipe)} {entry.seeds} {entry.arm.guidance}"


def row_of(lab: Workbench, entry: Entry, scope: Scope, floor: dict[str, Any]) -> dict[str, Any]:
    """An arm at a size: trained with its seeds, its guidance chosen by other pictures of the first, judged and counted."""
    arm, settings = entry.arm, settings_of(entry.recipe)
    trained = {seed: lab.train(entry.label, seeded(entry.recipe, seed)) for seed in entry.seeds}
    first = trained[entry.seeds[0]]

    def judged(model: Trained, n: int, seed: int, guidance: float) -> dict[str, float]:
        made = lab.generate(model, n, seed=seed, guidance_scale=guidance, **settings)
        return {**figures(lab.judge(made.pictures, *JUDGES)), "seconds": made.seconds, "calls": made.forwards}

    tried = [{"guidance": g, **judged(first, scope.tried, 10**6, g)} for g in arm.guidance]
    best = min(tried, key=lambda each: each["rfd_z"])["guidance"]
    seeds = []
    for seed, model in trained.items():
        found = judged(model, scope.pictures, seed, best)
        seeds.append({"seed": seed, "steps": model.steps, "minutes": model.seconds / 60, **found})
    config = entry.recipe.model
    return {
        "arm": arm.name,
        "made_of": made_of(lab, entry),
        "machine": machine(),
        "recipe": entry.recipe.name,
        "changes": list(arm.changes),
        "asked": entry.asked,
        "size": {name: config[name] for name in ("depth", "width", "heads")},
        "parameters": entry.parameters,
        "tokenizer": arm.tokenizer,
        "steps": entry.recipe.train.steps,
        "batch": _batch(entry.recipe),
        "pictures_seen": entry.seen,
        "settings": settings,
        "guidance": best,
        "tried": tried,
        "seeds": seeds,
        "floor_of_tokenizer": {name: floor[name] for name in ("rfd_z", "cf_acc") if name in floor},
        **costs(first.model, {"guidance_scale": best, **settings}),
    }


def costs(model: Any, settings: dict[str, Any]) -> dict[str, float]:
    """Of one picture, of a few that are made together: multiplications and additions, bytes kept between steps and held at
    most. Weights are not in the bytes."""
    labels, noise = torch.arange(COUNTED) % model.config.classes, Noise(0)
    bytes_of = footprint(lambda: model.job(labels, **settings), noise)
    with FlopCounterMode(display=False) as counter:
        finish(Run.of(model.job(labels, **settings), noise))
    return {
        "flops": counter.get_total_flops() / COUNTED,
        "kept_bytes": bytes_of.kept / COUNTED,
        "peak_bytes": bytes_of.peak / COUNTED,
    }


def timed(lab: Workbench, rows: Sequence[dict[str, Any]], classes: int) -> None:
    """Give each row its `ms`, wall time of a picture: all rows in turn, in one run, the least of several. Time does not
    depend on weights: models and tokenizers have their initial ones."""
    of, models = {arm.name: arm for arm in ARMS}, []
    for row in rows:
        arm = of[row["arm"]]
        coder = coder_of(lab.recipe(arm.tokenizer), "cpu")
        recipe, _ = sized(lab.recipe(arm.recipe, *arm.changes), coder, row["asked"], classes)
        model = generator_of(recipe, coder, classes).eval()
        model.attach(coder)
        models.append(model)
        row["ms"] = float("inf")
    labels = torch.arange(TIMED)
    for _ in range(ROUNDS):
        for row, model in zip(rows, models, strict=True):
            start = time.perf_counter()
            with torch.no_grad():
                settings = {"guidance_scale": row["guidance"], **row["settings"]}
                finish(Run.of(model.job(labels % model.config.classes, **settings), Noise(0)))
            row["ms"] = min(row["ms"], 1000 * (time.perf_counter() - start) / TIMED)


def compare(
    lab: Workbench,
    arms: Sequence[Arm],
    scope: Scope,
    result: dict[str, Any],
    out: Path | None = None,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Fill `result` with tokenizers and rows, and file it after each. With `samples`, rows that `out` holds of the same scope
    stay, unless their recipe or tokenizer is another one by now. kept: see `Tokenizer`."""
    names = list(dict.fromkeys(arm.tokenizer for arm in arms))
    samples = scope.samples and MORE * scope.samples
    tokenizers = {name: Tokenizer(lab, name, TOKENIZERS / len(names), samples, kept) for name in names}
    floors = {name: each.floor(lab, scope.pictures) for name, each in tokenizers.items()}
    planned = entries(lab, arms, tokenizers, scope)
    before = _filed(out, scope, floors, result.get("classifier"))
    result |= {"scope": dataclasses.asdict(scope), "timed": TIMED, "tokenizers": [], "rows": []}
    rows = {(row["arm"], row["asked"]): row for row in before.get("rows", ())}
    every = {each["tokenizer"]: each for each in before.get("tokenizers", ())} | floors

    def file() -> None:
        order = [arm.name for arm in ARMS]
        result["rows"] = sorted(rows.values(), key=lambda row: (row["asked"], order.index(row["arm"])))
        result["tokenizers"] = list(every.values())
        if out is not None:
            file_result(out, result)
            with atomic_write(out.with_suffix(".md")) as handle:
                handle.write(tables(result).encode())

    for entry in planned:
        lab.say(
            f"{entry.arm.name}, {entry.parameters:,} parameters: {entry.recipe.train.steps:,} steps, "
            f"{entry.seen:,} pictures, {len(entry.seeds)} seeds"
        )
    for entry in planned:
        place = (entry.arm.name, entry.asked)
        if place in rows and rows[place]["made_of"] == made_of(lab, entry):
            lab.say(f"{entry.arm.name} was filed before")
            continue
        rows[place] = row_of(lab, entry, scope, floors[entry.arm.tokenizer])
        file()
    file()
    timed(lab, result["rows"], next(iter(tokenizers.values())).classes)
    file()
    return result


def _filed(out: Path | None, scope: Scope, floors: dict[str, dict[str, Any]], classifier: str | None) -> dict[str, Any]:
    """What was filed of this scope by this classifier, without rows whose tokenizer has other weights by now. Nothing where
    a budget says how long trainings are: rows of several budgets, or machines, are not of one table."""
    if scope.samples is None or out is None or not out.exists():
        return {}
    before: dict[str, Any] = json.loads(out.read_text())
    if (
        before.get("scope") != json.loads(json.dumps(dataclasses.asdict(scope)))
        or before.get("classifier") != classifier
    ):
        return {}
    known = {each["tokenizer"]: each for each in before["tokenizers"]}
    same = {name for name, each in known.items() if floors.get(name, each)["weights"] == each["weights"]}
    return {
        "rows": [row for row in before["rows"] if row["tokenizer"] in same],
        "tokenizers": [each for name, each in known.items() if name in same],
    }


# ---- the command


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench compare-families", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--budget", type=float, help="minutes of training in all; 240 where --samples says nothing")
    add("--data", type=Path, default=Path("cifar10-jpeg"), help="folder with train.npz and test.npz")
    add("--only", nargs="+", metavar="ARM", help=f"of {'; '.join(arm.name for arm in ARMS)}")
    add("--equal", choices=["minutes", "samples"], default="minutes", help="what every training has as much of")
    add("--samples", type=int, help="pictures that each training sees; instead of a budget")
    add("--tokenizers", type=Path, metavar="DIR", help="trained tokenizers and the classifier: taken from, and left")
    add("--parameters", type=int, nargs="+", default=[PARAMETERS], help="sizes; the smallest gets all seeds")
    add("--seeds", type=int, default=3, help="trainings of each arm at the smallest size")
    add("--pictures", type=int, default=2000, help="of a figure")
    add("--tried", type=int, default=500, help="pictures by which the guidance is chosen")
    add("--classifier", type=Path, help="a trained classifier; by default a small one is trained")
    add("--threads", type=int, default=0)
    add("--runs", type=Path, default=Path("runs") / "families")
    add("--out", type=Path, default=Path(__file__).parent / "results" / "families.json")
    add("--sizes", action="store_true", help="print the arms' sizes, and train nothing")
    options = parser.parse_args(arguments)
    if options.samples is not None:
        if options.budget is not None:
            raise NextsetError("--budget and --samples both say how long trainings are; leave one of them out")
        check_range(
            "samples", options.samples, 1000, 10**9, remedy="it is a number of pictures that each training sees"
        )
        options.equal = "samples"
    elif options.budget is None:
        options.budget = 240.0
    if options.budget is not None:
        check_range("budget", options.budget, 0.1, 100_000)
    check_range("seeds", options.seeds, 1, 10)
    for name in ("pictures", "tried"):
        check_range(name, getattr(options, name), 256, 10_000, remedy="a distance of fewer says nothing")
    for size in options.parameters:
        check_range("parameters", size, 100_000, 10**9)
    arms, missing = chosen(options.only)
    console = Console(stderr=True, highlight=False)
    if missing:
        console.print(f"left out: {without(missing)}", markup=False, soft_wrap=True)
    sizes = tuple(sorted(set(options.parameters)))
    if options.sizes:
        for size in sizes:
            print(sizes_table(table_of_sizes(arms, size)))
        return
    for arm in arms:  # before anything is trained
        if len(arm.guidance) != len(arms[0].guidance):
            raise NextsetError(
                f"{arm.name} tries {len(arm.guidance)} values of guidance, but all arms must try as many"
            )
    if options.threads:
        torch.set_num_threads(options.threads)
    kept = options.tokenizers
    if kept is not None and options.classifier is None and any(kept.glob("classifier-*.safetensors")):
        options.classifier = kept
    lab = Workbench(
        options.runs,
        options.data,
        budget=options.budget,
        threads=options.threads,
        classifier=options.classifier,
        console=console,
    )
    if kept is not None and options.classifier is None:
        save_instrument(kept, lab.instrument)
    scope = Scope(sizes, tuple(range(options.seeds)), options.equal, options.pictures, options.tried, options.samples)
    result: dict[str, Any] = {"machine": machine(), "budget_minutes": options.budget, "missing": missing}
    result["classifier"] = lab.instrument.hash
    compare(lab, arms, scope, result, options.out, kept)
    print(tables(result))
    console.print(f"filed in {options.out} and {options.out.with_suffix('.md').name}", markup=False)
