"""The claim of xAR, whole and tiny. Pictures are few and a stand-in judges them, as in `test_relatives_claims`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nextset.hub.claims import claim_of
from nextset.judges import arms
from nextset.judges.claims import Claim
from nextset.systems.xar import claim as xar_claim
from nextset.training.recipes import Recipe
from tests.hub.test_relatives_claims import TINY, Small, data  # noqa: F401

SIZES = {
    "tokenizer": (
        "model.autoencoder.channels=16",
        "model.autoencoder.latent=4",
        "model.autoencoder.stem=8",
        "model.sides=[4]",
        "model.objective.perceptual=0",
    ),
    "generator": ("model.depth=1", "model.width=16", "model.heads=1"),
}


class Continuous(Small):
    """With recipes of continuous tokens whose models are tiny."""

    def recipe(self, name: str, *changes: str) -> Recipe:
        kind = "tokenizer" if name.endswith("tokenizer") else "generator"
        return super(Small, self).recipe(name, *TINY, *SIZES[kind], *changes)


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Claim:  # noqa: F811
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xar_claim, "SCOPE", arms.Scope(guidance=(2.0,), part=4, parts=2, headline=8))
        lab = Continuous(tmp_path_factory.mktemp("lab"), data, threads=1, console=Console(quiet=True))
        return claim_of("xar")(lab)


def test_what_needs_no_training_holds(measured: Claim) -> None:
    exact = [f for f in measured.findings if not f.what.startswith("distance")]
    assert len(exact) == 5 + 1 + 3
    for finding in exact:
        assert finding.outcome == "holds", finding


def test_arms_differ_in_one_thing_and_take_equal_calls(measured: Claim) -> None:
    rows = {row["arm"]: row for row in measured.tables["headline"]}
    assert rows.keys() == {xar_claim.NOISY, xar_claim.CLEAN, xar_claim.TOKENS}
    for name in ("forwards", "parameters", "steps"):
        assert len({row[name] for row in rows.values()}) == 1, name
    assert rows[xar_claim.NOISY]["forwards"] == 3 * 16
    assert all(np.isfinite(row[name]) for row in rows.values() for name in ("rfd_z", "mse", "seconds", "minutes"))
    assert len(measured.tables["guidance"]) == 3
    distances = [f for f in measured.findings if f.what.startswith("distance")]
    assert [f.interval is not None for f in distances] == [True, True]
    assert "0.9" in distances[0].threshold and "twice" in distances[0].note
