"""The claims of MAR and FlowAR, whole and tiny, on one autoencoder. Pictures are few and a stand-in judges them, as in
`test_relatives_claims`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from nextset.core.noise import Noise
from nextset.heads.diffusion import Diffusion
from nextset.heads.regression import Regression
from nextset.hub.claims import claim_of
from nextset.judges import arms
from nextset.judges.claims import Claim
from nextset.systems.flowar import claim as flowar
from nextset.systems.mar import baseline, ring
from nextset.systems.mar import claim as mar
from nextset.training.recipes import Recipe
from tests.hub.test_relatives_claims import TINY, Small, data  # noqa: F401

SLUGS = ("mar", "flowar")
SIZES = {
    "tokenizer": ("model.autoencoder.channels=16", "model.autoencoder.latent=4", "model.objective.perceptual=0"),
    "generator": ("model.depth=1", "model.width=16", "model.heads=1", "model.head_depth=1", "model.head_width=16"),
}
TRAINED = ("distance", "tokens near a mode")  # what models trained for five steps may or may not reach


class Continuous(Small):
    """With recipes of continuous tokens whose models are tiny."""

    def recipe(self, name: str, *changes: str) -> Recipe:
        kind = "tokenizer" if name.endswith("tokenizer") else "generator"
        return super(Small, self).recipe(name, *TINY, *SIZES[kind], *changes)


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Claim]:  # noqa: F811
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SCOPE", "FEWER"):
            patch.setattr(baseline, name, arms.Scope(guidance=(2.0,), part=4, parts=2, headline=8))
        patch.setattr(mar, "STEPS", 2)
        patch.setattr(mar, "INNER", "2")
        patch.setattr(mar, "RING_STEPS", 2)
        patch.setattr(flowar, "STEPS", 4)
        return {s: claim_of(s)(Continuous(folder, data, threads=1, console=Console(quiet=True))) for s in SLUGS}


def test_what_needs_no_training_holds(measured: dict[str, Claim]) -> None:
    for slug, count in (("mar", 5 + 1 + 2), ("flowar", 7 + 1 + 3)):
        exact = [f for f in measured[slug].findings if not f.what.startswith(TRAINED)]
        assert len(exact) == count, slug
        for finding in exact:
            assert finding.outcome == "holds", finding


def test_arms_differ_in_one_thing(measured: dict[str, Claim]) -> None:
    for slug, names in (("mar", (mar.DIFFUSION, mar.GUESS)), ("flowar", (flowar.SCALES, flowar.ONE, flowar.POOLED))):
        rows = {row["arm"]: row for row in measured[slug].tables["headline"]}
        assert tuple(rows) == names and len({row["steps"] for row in rows.values()}) == 1
        assert all(np.isfinite(row[name]) for row in rows.values() for name in ("rfd_z", "seconds", "minutes"))
    assert {row["arm"]: row["forwards"] for row in measured["flowar"].tables["headline"]}[flowar.ONE] == 1
    distances = [f for claim in measured.values() for f in claim.findings if f.what.startswith("distance")]
    assert [f.threshold.split(" <= ")[1] for f in distances] == [
        f"0.8 {mar.GUESS}", flowar.ONE, f"0.85 {flowar.POOLED}",
    ]  # fmt: skip
    assert all(f.interval and f.interval[0] <= f.interval[1] for f in distances)


# ---- the ring


def test_tokens_lie_near_the_points_of_their_class() -> None:
    classes, found = ring.tokens(Noise(0), torch.arange(2000))
    distance = (found[:, None] - ring.points(classes)).norm(dim=-1)
    assert 0.97 < float((distance.amin(1) < ring.NEAR * ring.SPREAD).float().mean()) < 1
    assert len(distance.argmin(1).unique()) == ring.MODES
    assert torch.allclose(found.mean(0), torch.zeros(2), atol=0.1) and torch.allclose(
        found.var(0), torch.ones(2), atol=0.1
    )
    other = (found[:, None] - ring.points(1 - classes)).norm(dim=-1).amin(1)
    assert float((other < ring.NEAR * ring.SPREAD).float().mean()) < 0.5, "points of the classes lie apart"


def test_a_guess_lies_in_the_middle_and_both_heads_have_the_same_weights() -> None:
    assert ring.near_modes(Regression, 30, 200) == 0.0
    assert 0 <= ring.near_modes(Diffusion, 2, 50) <= 1
    sizes = [sum(p.numel() for p in kind(16, 2, 1, 16).parameters()) for kind in (Diffusion, Regression)]
    assert sizes[0] == sizes[1]
