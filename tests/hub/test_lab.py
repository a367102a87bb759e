"""The lab of claims: trains by recipes, keeps what it made, and files whatever comes out. A whole claim, tiny."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from nextset.cli.app import app
from nextset.core.errors import NextsetError
from nextset.core.files import write_json
from nextset.data.arrays import write_arrays
from nextset.hub.claims import claim_of, filed
from nextset.hub.lab import Workbench
from nextset.judges.fidelity import ClassifierConfig
from nextset.judges.instruments import make_instrument, save_instrument
from nextset.judges.sources import open_set
from nextset.systems.var import baseline
from nextset.systems.var import claim as var_claim
from nextset.training.recipes import Recipe

TINY = ("batch=4", "dtype=float32", "log_every=1", "sample_every=0", "steps=10", "warmup=0")
SIZES = {
    "tokenizer": ("model.autoencoder.channels=16", "model.autoencoder.latent=4", "model.objective.perceptual=0"),
    "generator": ("model.depth=1",),
}


class Small(Workbench):
    """With recipes whose models are tiny."""

    def recipe(self, name: str, *changes: str) -> Recipe:
        kind = "tokenizer" if name.endswith("tokenizer") else "generator"
        return super().recipe(name, *TINY, *SIZES[kind], *changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """520 + 512 pictures of two classes, 32 pixels a side: smooth blobs, light and dark."""
    folder = tmp_path_factory.mktemp("testbed")
    rng = np.random.default_rng(0)
    for name, n in (("train.npz", 520), ("test.npz", 512)):
        labels = np.arange(n) % 2
        small = (
            torch.from_numpy(rng.uniform(0, 255, (n, 3, 4, 4))) * 0.5
            + 120 * torch.from_numpy(labels)[:, None, None, None]
        )
        images = torch.nn.functional.interpolate(small, size=32, mode="bilinear").permute(0, 2, 3, 1)
        write_arrays(
            folder / name,
            {"images": images.numpy().astype(np.uint8), "labels": labels, "classes": np.array(["dark", "light"])},
        )
    return folder


@pytest.fixture(scope="module")
def classifier(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = (open_set(data / name) for name in ("train.npz", "test.npz"))
    return save_instrument(
        tmp_path_factory.mktemp("classifier"),
        make_instrument(*sets, ClassifierConfig(width=4, epochs=1, batch=32, pad=0)),
    )


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim at the smallest numbers of pictures and widths that it can work with; main axes of 3,072 values would
    take most of the time."""
    judges = ("rfd_z", "class_fidelity", "memorisation")
    monkeypatch.setattr(baseline, "SCOPE", baseline.Scope((0.0, 1.0), 256, 2, 512, headline_judges=judges))
    monkeypatch.setattr(var_claim, "WIDTHS", (48, 96, 144))


def small(folder: Path, data: Path, classifier: Path) -> Small:
    return Small(folder, data, threads=1, classifier=classifier, console=Console(quiet=True))


def test_a_whole_claim_is_measured_kept_and_the_same_again(
    few: None, data: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = var_claim.measure(small(tmp_path / "lab", data, classifier))
    by_name = {finding.what: finding for finding in found.findings}
    for what in (
        "rows of memory for a picture",
        "weight 0 against no guidance",
        "all ids given, against the tokenizer alone",
    ):
        assert by_name[what].outcome == "holds", by_name[what]
    assert by_name["forwards for a picture, next scale"].values["found"] == 6
    assert by_name["forwards for a picture, raster"].values["found"] == 64
    distance = by_name["distance of pictures, next scale and raster"]
    assert distance.interval is not None and distance.interval[0] < distance.interval[1]
    assert {len(found.tables[name]) for name in ("reconstruction", "headline")} == {2}
    assert len(found.tables["guidance"]) == 4 and len(found.tables["widths"]) == 3
    assert len(found.tables["reconstruction"][0]["codes_by_scale"]) == 6

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing is trained twice")

    monkeypatch.setattr("nextset.hub.lab.train", refuse)
    again = var_claim.measure(small(tmp_path / "lab", data, classifier))
    assert [f.to_dict() for f in again.findings] == [f.to_dict() for f in found.findings]


def test_steps_fit_the_budget_and_are_equal(data: Path, classifier: Path, tmp_path: Path) -> None:
    lab = Small(tmp_path, data, budget=0.2, threads=1, classifier=classifier, console=Console(quiet=True))
    name = "var-cifar10-tokenizer"
    arms = {"one": lab.recipe(name, "steps=900"), "two": lab.recipe(name, "steps=900", "model.sides=[8]")}
    chosen = lab.fit(0.5, arms)
    steps = {recipe.train.steps for recipe in chosen.values()}
    assert len(steps) == 1 and 20 <= steps.pop() != 900
    assert lab.fit(0.5, arms) == chosen  # measured once
    whole = Workbench(tmp_path / "whole", data, console=Console(quiet=True))
    recipes = {"one": whole.recipe(name)}
    assert whole.fit(0.5, recipes) is recipes


def test_a_testbed_that_is_not_there() -> None:
    with pytest.raises(NextsetError, match=r"nowhere/train.npz does not exist; give a folder that holds train.npz and"):
        Workbench(Path("runs"), Path("nowhere")).recipe("var-cifar10")


def test_a_testbed_that_the_library_builds_needs_no_files() -> None:
    lab = Workbench(Path("runs"), Path("nowhere"))
    assert lab.recipe("infinity-emoji-claim").data["source"] == "emoji"


def test_systems_without_a_claim_say_who_has_one() -> None:
    assert claim_of("var") is var_claim.measure
    with pytest.raises(NextsetError, match=r"the claim of controlar cannot be measured yet; those that can: .*var"):
        claim_of("controlar")


def test_filed_claims_are_printed_with_their_outcome(tmp_path: Path) -> None:
    finding = {
        "what": "distance",
        "metric": "rfd_z",
        "values": {"a": 2.0, "b": 1.0},
        "threshold": "a <= b",
        "outcome": "fails",
    }
    about = {"date": "2026-01-01", "cpu": "c", "threads": 1, "command": "nextset claim x"}
    record = {
        "slug": "x",
        "statement": "a is nearer.",
        "outcome": "fails",
        "budget_minutes": None,
        "machine": about,
        "findings": [finding],
    }
    write_json(tmp_path / "x.json", record)
    result = CliRunner().invoke(app, ["claims", "--folder", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0 and "fails" in result.output and "a <= b" in result.output
    printed = CliRunner().invoke(app, ["claims", "--folder", str(tmp_path), "--json"], catch_exceptions=False).output
    assert json.loads(printed) == [record]
    write_json(tmp_path / "y.json", {"slug": "y"})
    with pytest.raises(NextsetError, match=r"y.json is no filed claim: it lacks 'statement'"):
        filed(tmp_path)
