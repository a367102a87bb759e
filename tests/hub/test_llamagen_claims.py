"""The claims of LlamaGen and of NAR, whole and tiny, in one folder of runs, as `test_relatives_claims` does for VAR's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nextset.hub import lab as lab_module
from nextset.hub.claims import claim_of
from nextset.judges.claims import Claim, clearly_less
from nextset.systems.llamagen import baseline
from nextset.systems.llamagen import claim as llamagen
from nextset.systems.nar import claim as nar
from nextset.training.recipes import Recipe
from tests.hub.test_relatives_claims import OWN, data, small

__all__ = ["data"]  # the fixture
SLUGS = ("llamagen", "nar")
# what small models trained for five steps may or may not reach
TRAINED = ("codes in use", "squared error", "held-out loss", "time of", "distance of")


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Claim], list[str]]]:
    """Both claims, and the labels of everything that was trained for them."""
    folder, trained = tmp_path_factory.mktemp("lab"), list[str]()
    whole = lab_module.train

    def train(recipe: Recipe, place: Path, **options: Any) -> Any:
        trained.append(place.name.rpartition("-")[0])
        return whole(recipe, place, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lab_module, "train", train)
        patch.setattr(baseline, "SEEDS", (0, 1))
        patch.setattr(baseline, "FEW", 2)
        patch.setitem(OWN, "llamagen-cifar10", ("model.depth=2",))
        patch.setattr(llamagen, "SIZES", {f"D {width}": (width, 2, 1) for width in (48, 32, 16)})
        patch.setattr(nar, "SCOPE", nar.Scope(guidance=(1.0, 2.0), pictures=8, batch=2, rounds=2))
        yield {slug: claim_of(slug)(small(folder, data)) for slug in SLUGS}, trained


def test_what_needs_no_training_holds(measured: tuple[dict[str, Claim], list[str]]) -> None:
    for slug, claim in measured[0].items():
        exact = [f for f in claim.findings if not f.what.startswith(TRAINED)]
        assert len(exact) >= 7, slug
        for finding in exact:
            assert finding.outcome == "holds", (slug, finding)


def test_what_is_trained_is_told_with_its_arms(measured: tuple[dict[str, Claim], list[str]]) -> None:
    claims = measured[0]
    for slug, count in (("llamagen", 5), ("nar", 3)):
        found = [f for f in claims[slug].findings if f.what.startswith(TRAINED)]
        assert len(found) == count and all(np.isfinite(list(f.values.values())).all() for f in found)
        assert all(f.interval and f.interval[0] <= f.interval[1] for f in found if "in use" not in f.what)
    sizes = claims["llamagen"].tables["sizes"]
    assert len(sizes) == 6 and [row["seed"] for row in sizes] == [0, 1] * 3
    assert sizes[0]["parameters"] > sizes[2]["parameters"] > sizes[4]["parameters"]
    arms = {row["arm"]: row for row in claims["nar"].tables["arms"]}
    assert {arm: row["forwards"] for arm, row in arms.items()} == {"NAR": 15, "one head": 15, "LlamaGen": 64}
    assert len(claims["nar"].tables["guidance"]) == 6
    assert all(np.isfinite([row["loss"], row["rfd_z"], row["minutes"]]).all() for row in claims["nar"].tables["arms"])


def test_one_tokenizer_and_one_llamagen_of_each_seed_serve_both(measured: tuple[dict[str, Claim], list[str]]) -> None:
    trained = measured[1]
    assert len(trained) == len(set(trained)) == 2 + 3 * 2 + 2 * 2
    assert sum(label.startswith("generator-next-token") for label in trained) == 2


def test_the_seeds_have_losses_of_their_own(measured: tuple[dict[str, Claim], list[str]]) -> None:
    rows = measured[0]["nar"].tables["arms"]
    assert len({row["loss"] for row in rows}) == len(rows)


def test_the_steps_of_what_is_shared_depend_on_no_relative(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lab = small(tmp_path, data, budget=0.02)
    asked: list[tuple[str, int]] = []
    monkeypatch.setattr(lab, "_seconds_a_step", lambda label, recipe: 0.001)
    monkeypatch.setattr(lab, "train", lambda label, recipe: asked.append((label, recipe.train.steps)))
    monkeypatch.setattr(lab, "codes", lambda *args, **more: tmp_path)
    monkeypatch.setattr(baseline, "on_codes", lambda lab, name, *rest: lab.recipe(name))
    base = baseline.baseline(lab)
    base.raster()
    assert asked == [("tokenizer-next-token", 180), *((f"generator-next-token-{seed}", 108) for seed in baseline.SEEDS)]


@pytest.mark.parametrize(("shift", "outcome"), [(1.0, "holds"), (0.0, "undecided"), (-1.0, "fails")])
def test_clearly_less_asks_for_two_standard_errors(shift: float, outcome: str) -> None:
    gaps = np.array([-0.1, 0.0, 0.1]) + shift
    found = clearly_less("x", "m", ("a", "b"), [(1.0, 1.0 + gap) for gap in gaps])
    error = 0.1 / 3**0.5
    assert found.outcome == outcome and found.interval == pytest.approx((shift - 2 * error, shift + 2 * error))
