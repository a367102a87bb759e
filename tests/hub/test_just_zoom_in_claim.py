"""The claim of Just Zoom In, tiny: three arms, exact findings, tables that JSON can hold, and verdicts that can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from nextset.data.city import City
from nextset.hub.lab import Workbench
from nextset.judges.claims import Claim
from nextset.judges.places import Errors, Score
from nextset.nn.encoders import EncoderConfig
from nextset.systems.just_zoom_in import JustZoomIn, JustZoomInConfig, claim
from nextset.training.recipes import Recipe

TINY = (
    *("model.pixels=8", "model.grid=4", "model.steps=2", "model.encoder.width=16", "model.encoder.channels=[8]"),
    *("model.encoder.cells=2", "data.side=320", "data.train=64", "data.val=40", "sample.judge=20"),
    *("steps=12", "batch=8", "warmup=1", "log_every=4", "sample_every=4"),
)


class Small(Workbench):
    def recipe(self, name: str, *changes: str) -> Recipe:
        own = ("model.depth=1", "model.heads=2") if name == "just_zoom_in-city" else ()
        return super().recipe(name, *TINY, *own, *changes)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Claim:
    folder = tmp_path_factory.mktemp("claim")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXTSET_CACHE", str(folder / "cache"))
        return claim.measure(Small(folder / "runs", Path("nowhere"), threads=1, console=Console(quiet=True)))


def test_what_must_be_so_at_any_budget_holds(measured: Claim) -> None:
    promised = {f.what: f for f in measured.findings if f.outcome != "informative"}
    trained = {what for what in promised if what.startswith(("found within", "median"))}
    assert len(trained) == 2
    for what in promised.keys() - trained:
        assert promised[what].outcome == "holds", promised[what]
    assert promised["pictures that are encoded for a photo"].values == {"found": 4, "expected": 4}
    assert promised["pictures that are encoded for the first photo, retrieval, 160 m"].values["found"] == 2 + 256


def test_tables_hold_every_arm_on_both_cities(measured: Claim) -> None:
    tables = json.loads(json.dumps(measured.tables))
    arms = [claim.ZOOM, claim.NEAR, claim.WIDE]
    for name in ("own city", "unseen city"):
        assert [row["arm"] for row in tables[name]] == arms
        assert {row["photos_seen"] for row in tables[name]} == {96}
        assert [row["gallery_bytes"] > 0 for row in tables[name]] == [False, True, True]
    assert tables["own city"][0]["median_m"] != tables["unseen city"][0]["median_m"]
    seen = [row["photos_seen"] for row in tables["curve"] if row["arm"] == claim.ZOOM]
    assert seen == [32, 64, 96]
    assert all({"before", "after", "temperature", "unseen city"} <= row.keys() for row in tables["calibration"])
    assert (
        sum(row["n"] for row in tables["landmarks"] if row["arm"] == claim.ZOOM and row["kind"].endswith(" 40 m")) == 40
    )


class Leaky(JustZoomIn):
    """Every decision knows all of them."""

    def teacher_forced(self, photos: torch.Tensor, views: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return super().teacher_forced(photos, views, actions) + actions.float().mean()


@pytest.mark.parametrize(("kind", "leaks"), [(JustZoomIn, False), (Leaky, True)])
def test_a_model_that_sees_the_future_is_found_out(kind: type[JustZoomIn], leaks: bool) -> None:
    encoder = EncoderConfig(kind="conv", width=16, channels=(8,), cells=2)
    model = kind(JustZoomInConfig(encoder=encoder, pixels=8, grid=2, steps=2, depth=1, heads=2)).eval()
    with torch.no_grad():
        change = claim._from_the_future(model, torch.zeros(2, 3, 8, 16), City(0, 320))
    assert (change > 0) == leaks


def answered(metres: torch.Tensor) -> claim.Tested:
    errors = Errors.of(metres, metres <= 20)
    return claim.Tested(Score(errors, {}, 1.0, 1.0, None), metres)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("zoom", "other", "outcomes"),
    [(0.8, 0.5, ["holds", "holds"]), (0.5, 0.8, ["fails", "fails"]), (0.61, 0.6, ["undecided", "undecided"])],
)
def test_the_verdict_is_about_the_better_retrieval(zoom: float, other: float, outcomes: list[str]) -> None:
    def errors(share: float, seed: int) -> torch.Tensor:
        u = torch.rand(1000, generator=torch.Generator().manual_seed(seed))
        return torch.where(u < share, u / share * 100, 100 + 900 * (u - share) / (1 - share))

    found = {
        claim.ZOOM: answered(errors(zoom, 0)),
        claim.NEAR: answered(errors(0.2, 1)),
        claim.WIDE: answered(errors(other, 2)),
    }
    verdicts = [f for f in claim._compared(found, "photos") if f.what.startswith(("found within 100", "median"))]
    assert [f.outcome for f in verdicts] == outcomes
    assert claim.WIDE in verdicts[0].values and claim.NEAR not in verdicts[0].values
