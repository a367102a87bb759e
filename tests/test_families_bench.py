"""The bench of families: arms of one size and one budget, a whole comparison that goes on where it was, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from benchmarks import compare_families
from benchmarks.compare_families import Scope, compare, main
from benchmarks.families_arms import ARMS, CLOSE, KL, PARAMETERS, Arm, chosen, coder_of, sized, table_of_sizes
from benchmarks.families_table import tables
from nextset.core.errors import NextsetError
from nextset.core.machine import machine
from nextset.data.arrays import write_arrays
from nextset.hub import lab as lab_module
from nextset.hub.lab import Workbench
from nextset.judges.report import Figure, Report, Side
from nextset.judges.sets import PictureSet
from nextset.training.recipes import Recipe, load_recipe

TINY = ("steps=3", "dtype=float32", "log_every=10", "sample_every=0", "warmup=0")
SIZES = {
    "tokenizer": ("batch=2", "model.autoencoder.channels=16", "model.objective.perceptual=0"),
    "generator": ("model.depth=2", "model.width=24", "model.heads=1"),
}
OWN = {"mar-cifar10": ("batch=4", "model.head_width=16", "sample.steps=2", "sample.inner_steps=2"), "var-cifar10": ("batch=2",)}  # fmt: skip
TWO = tuple(arm for arm in ARMS if arm.name in ("VAR", "MAR"))
SPEEDS = {"VAR": 0.2, "MAR": 0.1}  # seconds a step


class Small(Workbench):
    """With tiny recipes, known speeds, and a distance that few pictures suffice for."""

    def recipe(self, name: str, *changes: str) -> Recipe:
        kind = "tokenizer" if name.endswith("tokenizer") else "generator"
        return super().recipe(name, *TINY, *SIZES[kind], *OWN.get(name, ()), *changes)

    def _seconds_a_step(self, label: str, recipe: Recipe) -> float:
        return SPEEDS.get(label.split("-")[0], 0.1)

    def judge(self, pictures: PictureSet, *judges: str, n: int | None = None, reference: int | None = None) -> Report:
        return self.paired(pictures, self.held_out(), *judges)

    def paired(self, a: PictureSet, b: PictureSet, *judges: str) -> Report:
        means = [pictures.read(np.arange(len(pictures))).mean((0, 3)) for pictures in (a, b)]
        distance, n = float(np.abs(means[0] - means[1]).mean()), len(a)
        side = Side("", n, n, "")
        return Report(
            side, side, (32, 32), 32, (0,), "", "", [Figure(j, distance, n, n, 0.5) for j in (*judges, "cf_acc")], []
        )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 + 16 pictures of two classes."""
    folder = tmp_path_factory.mktemp("testbed")
    rng = np.random.default_rng(0)
    for name in ("train.npz", "test.npz"):
        images = rng.integers(0, 255, (16, 32, 32, 3)).astype(np.uint8)
        write_arrays(folder / name, {"images": images, "labels": np.arange(16) % 2, "classes": np.array(["a", "b"])})
    return folder


def small(folder: Path, data: Path, budget: float | None = None) -> Small:
    return Small(folder, data, budget=budget, threads=1, console=Console(quiet=True))


# ---- the arms


def test_arms_whose_recipes_are_here_have_the_same_number_of_parameters() -> None:
    arms, _ = chosen(None)
    rows = table_of_sizes(arms, PARAMETERS)
    assert {"VAR", "LlamaGen", "MAR"} <= {row["arm"] for row in rows}
    for row in rows:
        assert abs(row["parameters"] / PARAMETERS - 1) <= CLOSE, row
    coders = [row["tokenizer_parameters"] for row in rows]
    assert max(coders) / min(coders) - 1 <= CLOSE


def test_a_size_is_met_or_refused() -> None:
    recipe, coder = load_recipe("mar-cifar10"), coder_of(load_recipe(KL))
    larger, number = sized(recipe, coder, 10_000_000)
    assert abs(number / 10_000_000 - 1) <= CLOSE and larger.model["width"] % (4 * larger.model["heads"]) == 0
    share = larger.model["width"] / recipe.model["width"]
    assert larger.model["head_width"] == pytest.approx(share * recipe.model["head_width"], abs=4), "the head grows too"
    with pytest.raises(NextsetError, match=r"llamagen-cifar10 comes to [\d,]+ parameters at its nearest, but must be"):
        sized(load_recipe("llamagen-cifar10"), coder_of(load_recipe("llamagen-cifar10-tokenizer")), 1_000_000)


def test_a_recipe_that_is_not_there_is_named() -> None:
    arms = (Arm("here", "var-cifar10", "var-cifar10-tokenizer"), Arm("new", "nothing-cifar10", KL))
    left, missing = chosen(None, arms)
    assert [arm.name for arm in left] == ["here"] and missing == {"nothing-cifar10": ["new"]}
    with pytest.raises(NextsetError, match="recipe nothing-cifar10 is not here, which new need") as error:
        chosen(["new"], arms)
    assert "\n" not in str(error.value)
    with pytest.raises(NextsetError, match="no arm is called 'here!'"):
        chosen(["here!"], arms)


def test_every_arm_tries_as_many_values_of_guidance() -> None:
    assert len({len(arm.guidance) for arm in ARMS}) == 1 and len({arm.name for arm in ARMS}) == len(ARMS)


# ---- the comparison


@pytest.mark.parametrize("equal", ["minutes", "samples"])
def test_a_budget_is_equal_in_minutes_or_in_pictures(
    equal: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = small(tmp_path / "lab", data, budget=10)
    monkeypatch.setattr(lab, "train", lambda *a: (_ for _ in ()).throw(AssertionError("plans train nothing")))

    class Known:
        def __init__(self, name: str) -> None:
            self.trained = lab_module.Trained(tmp_path, coder_of(lab.recipe(name)), 1, 1.0, {})
            self.codes, self.classes = tmp_path / "codes.npz", 2

    scope = Scope((30_000, 60_000), (0, 1, 2), equal)
    names = {arm.tokenizer for arm in TWO}
    planned = compare_families.entries(lab, TWO, {n: Known(n) for n in names}, scope)  # type: ignore[misc]
    assert [(e.arm.name, e.seeds) for e in planned] == [("VAR", (0, 1, 2)), ("MAR", (0, 1, 2)), ("VAR", (0,)), ("MAR", (0,))]  # fmt: skip
    assert all(abs(e.parameters / size - 1) <= CLOSE for e, size in zip(planned, (30_000, 30_000, 60_000, 60_000), strict=True))  # fmt: skip
    seconds = [e.recipe.train.steps * SPEEDS[e.arm.name] for e in planned]  # of 600, a fifth for tokenizers: 480
    if equal == "minutes":
        assert seconds == pytest.approx([60] * 4)
    else:
        assert len({e.seen for e in planned}) == 1
        assert sum(s * len(e.seeds) for s, e in zip(seconds, planned, strict=True)) == pytest.approx(480, rel=0.01)


def test_a_whole_comparison_is_filed_and_not_made_twice(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_counted(monkeypatch)
    arms = [arm._replace(guidance=arm.guidance[:2]) for arm in TWO]
    scope = Scope((30_000,), (0, 1), pictures=6, tried=4)

    def measured() -> dict[str, Any]:
        begun: dict[str, Any] = {"machine": machine("test"), "budget_minutes": 0.5, "missing": {"x": ["X"]}}
        return compare(small(tmp_path / "lab", data), arms, scope, begun, tmp_path / "families.json")

    result = measured()
    assert [row["arm"] for row in result["rows"]] == ["VAR", "MAR"] and len(result["tokenizers"]) == 2
    var, mar = result["rows"]
    assert var["seeds"][0]["calls"] == 6 and mar["seeds"][0]["calls"] == 2, "scales, and steps of the recipe"
    assert var["kept_bytes"] > 0 == mar["kept_bytes"] and min(var["flops"], mar["flops"], mar["peak_bytes"]) > 0
    for row in result["rows"]:
        assert [seed["seed"] for seed in row["seeds"]] == [0, 1] and len(row["tried"]) == 2
        assert row["seeds"][0]["rfd_z"] != row["seeds"][1]["rfd_z"], "two seeds are two models"
        assert row["guidance"] == min(row["tried"], key=lambda each: each["rfd_z"])["guidance"]
        assert {"steps", "minutes", "cf_acc", "seconds"} <= row["seeds"][0].keys() and row["ms"] > 0
    filed = json.loads((tmp_path / "families.json").read_text())
    assert filed["rows"] == json.loads(json.dumps(result["rows"]))
    text = (tmp_path / "families.md").read_text()
    assert text == tables(result) and "| VAR |" in text and "| mar-cifar10-tokenizer |" in text
    assert "Left out: X (no recipe x)." in text

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing is trained twice")

    monkeypatch.setattr(lab_module, "train", refuse)
    assert untimed(measured()) == untimed(result)


def few_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("COUNTED", 2), ("TIMED", 2), ("ROUNDS", 1)):
        monkeypatch.setattr(compare_families, name, value)


def untimed(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "ms"} for row in json.loads(json.dumps(result["rows"]))]


def test_a_comparison_by_pictures_goes_on_where_its_runs_are_lost(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One arm in one lab, the other in another: tokenizers are those that were kept, the first row stays as it was filed,
    and it is measured anew where its tokenizer is another."""
    few_counted(monkeypatch)
    arms, trained = [arm._replace(guidance=arm.guidance[:1]) for arm in TWO], list[str]()
    train = lab_module.train

    def counted(recipe: Recipe, *args: Any, **kwargs: Any) -> Any:
        trained.append(recipe.name)
        return train(recipe, *args, **kwargs)

    monkeypatch.setattr(lab_module, "train", counted)
    scope = Scope((30_000,), (0,), "samples", pictures=6, tried=4, samples=40)

    def measured(lab: str, chosen: list[Arm]) -> dict[str, Any]:
        begun: dict[str, Any] = {"machine": machine("test"), "budget_minutes": None}
        return compare(small(tmp_path / lab, data), chosen, scope, begun, tmp_path / "f.json", tmp_path / "kept")

    first = measured("one", arms[:1])
    assert first["rows"][0]["pictures_seen"] == 40 and first["tokenizers"][0]["steps"] == 8 * 40 / 2
    assert trained == ["var-cifar10-tokenizer", "var-cifar10"]
    both = measured("two", arms)
    assert trained[2:] == ["mar-cifar10-tokenizer", "mar-cifar10"], "nothing of the first is trained again"
    assert untimed(both)[:1] == untimed(first) and [row["arm"] for row in both["rows"]] == ["VAR", "MAR"]
    assert "sees 40 pictures" in tables(both)
    file = tmp_path / "kept" / "var-cifar10-tokenizer" / "model" / "model.safetensors"
    stored = load_file(file)
    assert next(iter(stored.values())).dtype == torch.float16
    save_file({name: tensor * 1.01 for name, tensor in stored.items()}, file)
    again = measured("three", arms[:1])
    assert trained[4:] == ["var-cifar10"] and [row["arm"] for row in again["rows"]] == ["VAR", "MAR"]
    assert untimed(again)[0] != untimed(both)[0] and untimed(again)[1] == untimed(both)[1]
    filed, floors = tmp_path / "f.json", {each["tokenizer"]: each for each in again["tokenizers"]}
    assert len(compare_families._filed(filed, scope, floors, None)["rows"]) == 2
    assert not compare_families._filed(filed, scope, floors, "0123"), (
        "figures of another classifier are not of one table"
    )


def test_the_command_refuses_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "families.json"
    for arguments, message in (
        (["--budget", "0"], "budget is 0.0"),
        (["--samples", "10"], "samples is 10.*pictures that each training sees"),
        (["--samples", "2000", "--budget", "5"], "both say how long"),
        (["--pictures", "10"], "pictures is 10.*a distance of fewer says nothing"),
        (["--only", "nobody"], "no arm is called 'nobody'"),
        (["--only", "MAR", "--data", str(tmp_path / "none")], "none/train.npz does not exist"),
    ):
        with pytest.raises(NextsetError, match=message):
            main([*arguments, "--runs", str(tmp_path / "runs"), "--out", str(out)])
    assert not out.parent.exists()
    capsys.readouterr()
    main(["--sizes", "--only", "MAR"])
    printed = capsys.readouterr().out
    assert "| MAR |" in printed and "VAR" not in printed
