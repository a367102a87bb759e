"""The claims of VAR's relatives, whole and tiny, in one folder of runs; and the table of all of them.

Pictures are few and a stand-in judges them: the judges are tested in their own room, and a claim with them in `test_lab`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.relatives_table import main, table
from nextset.core.errors import NextsetError
from nextset.core.files import write_json
from nextset.data.arrays import write_arrays
from nextset.hub import lab as lab_module
from nextset.hub.claims import claim_of
from nextset.hub.lab import Workbench
from nextset.judges.claims import Claim
from nextset.judges.report import Figure, Report, Side
from nextset.judges.sets import PictureSet
from nextset.systems.var import baseline
from nextset.training.recipes import Recipe

SLUGS = ("nfig", "flexvar", "m_var", "mvar", "hmar", "sar")
TINY = ("batch=2", "dtype=float32", "log_every=1", "sample_every=0", "steps=5", "warmup=0")
SIZES = {
    "tokenizer": (
        "model.autoencoder.channels=16",
        "model.autoencoder.latent=4",
        "model.objective.perceptual=0",
        "model.vocabulary=32",
    ),
    "generator": ("model.depth=1", "model.width=48", "model.heads=1"),
}
OWN = {"m_var-cifar10": ("model.head_width=48",), "hmar-cifar10-refine": ("model.mask_blocks=1",)}
SCOPE = baseline.Scope(guidance=(0.0, 1.0), part=4, parts=2, headline=8)
# what small models trained for five steps may or may not reach
TRAINED = ("distance", "previews", "loss behind", "parameters")


class Small(Workbench):
    """With recipes whose models are tiny, and a distance that few pictures suffice for."""

    def recipe(self, name: str, *changes: str) -> Recipe:
        kind = "tokenizer" if name.endswith("tokenizer") else "generator"
        return super().recipe(name, *TINY, *SIZES[kind], *OWN.get(name, ()), *changes)

    def judge(self, pictures: PictureSet, *judges: str, n: int | None = None, reference: int | None = None) -> Report:
        return self.paired(pictures, self.held_out(), *judges)

    def paired(self, a: PictureSet, b: PictureSet, *judges: str) -> Report:
        means = [pictures.read(np.arange(len(pictures))).mean((0, 3)) for pictures in (a, b)]
        distance, n = float(np.abs(means[0] - means[1]).mean()), len(a)
        side = Side("", n, n, "")
        figures = [Figure(name, distance, n, n, 0.5) for name in (*judges, "cf_acc")]
        return Report(side, side, (32, 32), 32, (0,), "", "", figures, [])


def small(folder: Path, data: Path, **options: Any) -> Small:
    return Small(folder, data, threads=1, console=Console(quiet=True), **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 + 64 pictures of two classes, 32 pixels a side: smooth blobs, light and dark."""
    folder = tmp_path_factory.mktemp("testbed")
    rng = np.random.default_rng(0)
    for name in ("train.npz", "test.npz"):
        labels = np.arange(64) % 2
        coarse = torch.from_numpy(rng.uniform(0, 128, (64, 3, 4, 4)) + 120 * labels[:, None, None, None])
        images = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear").permute(0, 2, 3, 1)
        arrays: dict[str, np.ndarray] = {
            "images": images.numpy().astype(np.uint8),
            "labels": labels,
            "classes": np.array(["dark", "light"]),
        }
        write_arrays(folder / name, arrays)
    return folder


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Claim], list[str]]]:
    """All six claims, and the labels of everything that was trained for them."""
    folder = tmp_path_factory.mktemp("lab")
    trained: list[str] = []

    def train(recipe: Recipe, place: Path, **options: Any) -> Any:
        trained.append(place.name.rpartition("-")[0])
        return whole(recipe, place, **options)

    whole = lab_module.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab_module, "train", train)
        patch.setattr(baseline, "SCOPE", SCOPE)
        patch.setattr(baseline, "BATCH", 4)
        yield {slug: claim_of(slug)(small(folder, data)) for slug in SLUGS}, trained


def test_what_needs_no_training_holds(measured: tuple[dict[str, Claim], list[str]]) -> None:
    for slug, claim in measured[0].items():
        exact = [f for f in claim.findings if not f.what.startswith(TRAINED)]
        assert len(exact) >= 4, slug
        for finding in exact:
            assert finding.outcome == "holds", (slug, finding)


def test_what_is_trained_has_intervals_and_costs(measured: tuple[dict[str, Claim], list[str]]) -> None:
    costs = ("rfd_z", "rfd_z_floor", "cf_acc", "seconds", "forwards", "kept_bytes", "peak_bytes", "steps", "minutes")
    for slug, claim in measured[0].items():
        distances = [f for f in claim.findings if f.what.startswith("distance")]
        assert distances and all(f.interval and f.interval[0] <= f.interval[1] for f in distances), slug
        rows = {row["arm"]: row for row in claim.tables["headline"]}
        assert baseline.VAR in rows and len(rows) >= 2
        assert all(np.isfinite(row[name]) for row in rows.values() for name in costs)
        assert all(row["peak_bytes"] > row["kept_bytes"] for row in rows.values())
    kept = {row["arm"]: row["kept_bytes"] for claim in measured[0].values() for row in claim.tables["headline"]}
    assert kept["MVAR, from scratch"] == kept["HMAR, refined"] == 0 < kept["M-VAR"]
    assert kept[baseline.VAR] == 2 * 2 * 130 * 48 * 4, "keys and values of two branches"


def test_one_tokenizer_and_one_var_serve_all(measured: tuple[dict[str, Claim], list[str]]) -> None:
    claims, trained = measured
    assert len(trained) == len(set(trained)) == 2 + 2 + 2 + 1 + 2 + 2 + 2
    assert trained[:2] == ["tokenizer-next-scale", "generator-next-scale"]
    rows = [next(r for r in c.tables["headline"] if r["arm"] == baseline.VAR) for c in claims.values()]
    assert all(row == rows[0] for row in rows), "judged on the same pictures"
    steps = {row["arm"]: row["steps"] for claim in claims.values() for row in claim.tables["headline"]}
    assert {steps[arm] for arm in ("VAR", "NFIG", "M-VAR", "HMAR, first stage", "FlexVAR, 6 steps")} == {5}
    assert steps["MVAR, from scratch"] == round(5 * 130 * 6 / 220) and steps["MVAR, from VAR's weights"] == 2
    assert steps["HMAR, refined"] == steps["SAR"] == steps["VAR, going on"] == 1


def test_the_steps_of_what_is_shared_depend_on_no_relative(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a budget too, another claim finds the same tokenizer and VAR."""
    lab = small(tmp_path, data, budget=0.02)
    monkeypatch.setattr(lab, "_seconds_a_step", lambda label, recipe: 0.01)
    monkeypatch.setattr(lab, "train", lambda label, recipe: asked.append((label, recipe.train.steps)))
    monkeypatch.setattr(lab, "codes", lambda *args, **more: tmp_path)
    monkeypatch.setattr(baseline, "on_codes", lambda lab, name, *rest: lab.recipe(name))
    asked: list[tuple[str, int]] = []
    baseline.baseline(lab)
    assert asked == [("tokenizer-next-scale", 24), ("generator-next-scale", 36)]


def test_a_start_counts_by_its_place_in_the_folder(data: Path, tmp_path: Path) -> None:
    keys = set()
    for folder in (tmp_path / "here", tmp_path / "there"):
        lab = small(folder, data)
        keys.add(lab.key_of(lab.recipe("var-cifar10", f'data.tokenizer="{folder}/t"', f'data.start="{folder}/s"')))
    assert len(keys) == 1


# ---- the table


def filed_as(slug: str, claim: Claim) -> dict[str, Any]:
    return {
        "slug": slug,
        "statement": claim.statement,
        "outcome": claim.outcome,
        "budget_minutes": None,
        "machine": {},
        "findings": [finding.to_dict() for finding in claim.findings],
        "tables": claim.tables,
    }


def test_the_table_has_a_row_an_arm_and_var_once(
    measured: tuple[dict[str, Claim], list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [filed_as(slug, claim) for slug, claim in measured[0].items()]
    for record in records:
        write_json(tmp_path / f"{record['slug']}.json", record)
    write_json(tmp_path / "other.json", {**records[0], "slug": "other", "tables": {}})
    main(["--folder", str(tmp_path), "--out", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 1 + 1 + 3 + 1 + 2 + 2 + 2 and sum("| VAR |" in row for row in rows) == 1
    assert all(len(row.split(" | ")) == len(rows[0].split(" | ")) for row in rows)
    assert rows[2].startswith("| shared | VAR |") and "other" not in text
    assert any(row.startswith("| hmar | HMAR, refined |") and "| 12 |" in row for row in rows)
    assert capsys.readouterr().out.strip() == text.strip()


def test_claims_that_did_not_share_a_var_are_told_apart(measured: tuple[dict[str, Claim], list[str]]) -> None:
    one, two = (filed_as(slug, measured[0][slug]) for slug in ("nfig", "m_var"))
    rows = [{**row, "rfd_z": row["rfd_z"] + 1} for row in two["tables"]["headline"]]
    text = table([one, {**two, "tables": {"headline": rows}}])
    assert text.count("| VAR |") == 2 and "| m_var | VAR |" in text


def test_a_folder_without_claims_of_relatives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match=r"holds no claim with a headline that has an arm VAR; measure one"):
        main(["--folder", str(tmp_path)])
