"""Just Zoom In's claim in miniature: greedy zooming against contrastive retrieval, after as many photos seen, on other photos
of the streets that were learnt; and both on a city that neither saw. Source: sheet `just_zoom_in`, Miniature claim.

Two things differ from the sheet: the encoders are trained from nothing in every arm, not pre-trained and frozen, and there is
one seed of training. Intervals know the noise of the test photos.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nextset.core.files import read_json
from nextset.core.noise import Noise
from nextset.core.protocols import Ground
from nextset.data.places import PlaceOptions, Places, open_places
from nextset.engine.run import Run, advance, following, look
from nextset.judges.claims import Claim, Finding, Lab, Outcome, Trained, counted, within
from nextset.judges.places import Answer, Score, evaluate
from nextset.judges.shares import wilson
from nextset.systems.just_zoom_in import geometry
from nextset.systems.just_zoom_in.examples import asker, in_parts
from nextset.systems.just_zoom_in.model import JustZoomIn
from nextset.training.recipes import Recipe

STATEMENT = (
    "After as many photos seen, greedy zooming finds at least 3 points more of the photos within 100 m than the better "
    "retrieval, and has a smaller median error."
)
ZOOM, NEAR, WIDE = "zoom", "retrieval, 40 m", "retrieval, 160 m"
RECIPES = {
    ZOOM: ("just_zoom_in-city", ()),
    NEAR: ("retrieval-city", ()),
    WIDE: ("retrieval-city", ("model.context=4.0",)),
}
LABELS = {ZOOM: "zoom", NEAR: "retrieval-40", WIDE: "retrieval-160"}  # in the lab's folder
UNSEEN = 5  # seed of the city that nobody trains on
MARGIN = 0.03  # of the photos
FAR = 100.0  # metres
FEW = 8  # photos of what is counted
DRAWS = 2_000  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Tested:
    """An arm on some photos: its score, and the error of each photo in metres (N,)."""

    score: Score
    metres: Tensor


def measure(lab: Lab) -> Claim:
    """Three models with equal steps on one city; two sets of photos that none of them saw."""
    recipes = lab.fit(1.0, {arm: lab.recipe(name, *changes) for arm, (name, changes) in RECIPES.items()})
    models = {arm: lab.train(LABELS[arm], recipe) for arm, recipe in recipes.items()}
    own = open_places(_options(recipes[ZOOM]))[1]
    unseen = open_places(_options(recipes[ZOOM], cities=(UNSEEN,), train=1))[1]
    found = {arm: tested(model.model, own) for arm, model in models.items()}
    settled = {arm: read_json(model.folder.parent / "settled.json") for arm, model in models.items()}
    abroad = {
        arm: tested(model.model, unseen, settled[arm]["defaults"]["temperature"]) for arm, model in models.items()
    }
    # a map whose gallery no model has kept
    fresh = dataclasses.replace(own, grounds=[copy.copy(ground) for ground in own.grounds])
    findings = [*_exact(models, fresh), *_compared(found, "photos of the streets that were learnt")]
    findings += _informative(abroad, "photos of a city that nobody trained on")
    tables = {
        "own city": [_row(arm, models[arm], recipes[arm], test) for arm, test in found.items()],
        "unseen city": [_row(arm, models[arm], recipes[arm], test) for arm, test in abroad.items()],
        "landmarks": list(_by_landmark(found)),
        "curve": list(_curve(models)),
        "calibration": [{"arm": arm, **_calibration(settled[arm], abroad[arm])} for arm in models],
    }
    return Claim(STATEMENT, findings, tables)


def tested(model: Any, places: Places, temperature: float = 1.0) -> Tested:
    """A model's likeliest cell of each photo; temperature: of the probabilities that it says."""
    c, kept = model.config, list[Answer]()
    ask = asker(functools.partial(model.locate, temperature=temperature), places, c.grid, c.steps)

    def asked(rows: Tensor) -> Answer:
        kept.append(ask(rows))
        return kept[-1]

    score = evaluate(asked, in_parts(places, 64), places.landmarks)
    return Tested(score, torch.cat([answer.metres for answer in kept]))


def _options(recipe: Recipe, **changes: Any) -> PlaceOptions:
    return PlaceOptions.from_dict({**recipe.data, "size": recipe.model["pixels"], **changes})


# ---- what must be so at any budget


@torch.no_grad()
def _exact(models: dict[str, Trained], places: Places) -> Iterator[Finding]:
    model, ground = models[ZOOM].model, places.grounds[0]
    steps, cells = model.config.steps, model.config.actions**model.config.steps
    photos = places.images(torch.arange(FEW))
    yield within("stored keys against recomputation", *_stored_against_recomputed(model, photos, ground))
    yield within("what comes after a decision changes it by", _from_the_future(model, photos, ground), 0.0, "logits")
    pictures, positions = _counted(model, photos[:1], ground)
    yield counted("pictures that are encoded for a photo", pictures, 2 + steps, "pictures")
    yield counted("positions of the decoder until the last decision", positions, 2 * steps, "positions")
    for arm in (NEAR, WIDE):
        pictures, _ = _counted(models[arm].model, photos[:1], ground)
        yield counted(f"pictures that are encoded for the first photo, {arm}", pictures, 2 + cells, "pictures")
    yield _by_chance(places, model.config.grid, steps)


def _stored_against_recomputed(model: JustZoomIn, photos: Tensor, ground: Ground) -> tuple[float, float, str]:
    """Logits of a greedy search with stored keys and values, against one forward over its path."""
    run, stepped = Run.of(model.job(photos, ground), Noise(0)), []
    while (step := following(run)) is not None:
        law: Any = look(run, step, filtered=False)
        stepped.append(law.logits)
        advance(run, step)
    actions = run.codes()
    path = geometry.follow(ground.start, actions, model.config.grid)
    whole = model.teacher_forced(model.encode_photos(photos), _views(model, ground, path), actions)
    gap = float((torch.cat(stepped, 1) - whole).abs().max())
    return gap, 1e-4, "largest difference of logits"


def _from_the_future(model: JustZoomIn, photos: Tensor, ground: Ground) -> float:
    """How much the logits of the first decision change where every later view and action does."""
    c = model.config
    ways = torch.zeros(len(photos), c.steps, dtype=torch.int64), torch.full((len(photos), c.steps), c.actions - 1)
    vectors = model.encode_photos(photos)
    laws = []
    for actions in ways:
        views = _views(model, ground, geometry.follow(ground.start, actions, c.grid))
        laws.append(model.teacher_forced(vectors, views, actions)[:, 0])
    return float((laws[0] - laws[1]).abs().max())


def _views(model: JustZoomIn, ground: Ground, path: Sequence[Tensor]) -> Tensor:
    """Vectors (N, S, D) of what is seen before each decision on paths (N, S + 1)."""
    lat, lon, side = (value[:, :-1].flatten() for value in path)
    shown = ground.view(lat, lon, side, model.config.pixels)
    return model.encode_views(shown).unflatten(0, (len(path[0]), -1))


def _counted(model: Any, photos: Tensor, ground: Ground) -> tuple[int, int]:
    """(pictures that encoders read, positions that the decoder computes) to locate photos."""
    pictures, positions = list[int](), list[int]()
    encoders = [part for part in (model.encoder, model.photo_encoder) if part is not None]
    hooks = [part.register_forward_hook(lambda net, given, out: pictures.append(len(given[0]))) for part in encoders]
    blocks: nn.ModuleList = getattr(model, "blocks", nn.ModuleList())
    hooks += [part.register_forward_hook(lambda net, given, out: positions.append(out.shape[1])) for part in blocks[:1]]
    model.locate(photos, ground)
    for hook in hooks:
        hook.remove()
    return sum(pictures), sum(positions)


def _by_chance(places: Places, grid: int, steps: int) -> Finding:
    """Cells that are drawn at random hold as many photos within 100 m as their share of the area says."""
    side, n = places.grounds[0].start[2], len(places)
    actions = (Noise(0, "chance").uniform(torch.arange(n), torch.arange(steps)) * grid * grid).long()
    lat, lon, _ = (v[:, -1] for v in geometry.follow(places.grounds[0].start, actions, grid))
    hits = float((geometry.distance(lat, lon, places.true_lat, places.true_lon) <= FAR).double().mean())
    share, (low, high) = np.pi * FAR**2 / side**2, wilson(hits, n)
    what, metric = "cells drawn at random, photos within 100 m", f"share of {n:,} photos"
    outcome: Outcome = "holds" if low <= share <= high else "fails"
    return Finding(what, metric, {"found": hits, "share of the area": share}, "about the same", outcome, (low, high))


# ---- what was claimed of trained models


def _compared(found: dict[str, Tested], where: str) -> Iterator[Finding]:
    best = max((NEAR, WIDE), key=lambda arm: found[arm].score.all.recall[FAR][0])
    for arm, test in found.items():
        beyond = test.score.all.exact - test.score.all.recall[40.0][0]
        yield within(f"right cells that are farther than 40 m, {arm}", max(0.0, beyond), 0.0, "share")
    zoom, other = found[ZOOM].metres.numpy(), found[best].metres.numpy()
    gaps = (zoom <= FAR).astype(float) - (other <= FAR)
    mean, error = float(gaps.mean()), float(gaps.std(ddof=1)) / len(gaps) ** 0.5
    low, high = mean - 2 * error, mean + 2 * error
    outcome: Outcome = "holds" if mean >= MARGIN and low > 0 else "fails" if high < MARGIN else "undecided"
    values = {arm: found[arm].score.all.recall[FAR][0] for arm in (ZOOM, best)}
    metric = f"share within 100 m of {len(gaps):,} {where}"
    yield Finding(
        f"found within 100 m, {ZOOM} and {best}", metric, values, f"{ZOOM} >= {best} + {MARGIN:g}, by 2 s.e.", outcome,
        (low, high), f"the interval is 2 standard errors of {ZOOM} - {best} over photos; one training each",
    )  # fmt: skip
    yield _medians(zoom, other, best, where)
    yield from _informative({ZOOM: found[ZOOM], best: found[best]}, where, 40.0)


def _medians(zoom: np.ndarray, other: np.ndarray, best: str, where: str) -> Finding:
    """By a bootstrap over photos."""
    rows = np.random.default_rng(0).integers(0, len(zoom), (DRAWS, len(zoom)))
    gaps = np.median(zoom[rows], 1) - np.median(other[rows], 1)
    low, high = (float(v) for v in np.quantile(gaps, (0.025, 0.975)))
    outcome: Outcome = "holds" if high < 0 else "fails" if low > 0 else "undecided"
    values = {ZOOM: float(np.median(zoom)), best: float(np.median(other))}
    note = f"the interval is of {ZOOM} - {best}, a bootstrap over photos"
    return Finding(
        "median error", f"metres, {len(zoom):,} {where}", values, f"{ZOOM} < {best}", outcome, (low, high), note
    )


def _informative(found: dict[str, Tested], where: str, limit: float = FAR) -> list[Finding]:
    n = next(iter(found.values())).score.all.n
    values = {arm: test.score.all.recall[limit][0] for arm, test in found.items()}
    metric = f"share of {n:,} {where}"
    return [Finding(f"found within {limit:g} m", metric, values, "nothing was promised", "informative")]


# ---- tables


def _row(arm: str, model: Trained, recipe: Recipe, test: Tested) -> dict[str, Any]:
    errors, row = test.score.all, dict[str, Any](arm=arm)
    for limit, (share, low, high) in errors.recall.items():
        row |= {f"within {limit:g} m": share, f"within {limit:g} m, interval": (low, high)}
    gallery = getattr(model.model, "gallery_bytes", 0)
    return {
        **row,
        "median_m": errors.median[0], "median_m, interval": errors.median[1:], "mean_m": errors.mean, "exact": errors.exact,
        "seconds_a_photo": test.score.seconds, "seconds_of_the_first_64": test.score.first_seconds, "gallery_bytes": gallery,
        "photos_seen": model.steps * recipe.train.batch, "minutes": model.seconds / 60,
        "parameters": sum(p.numel() for p in model.model.parameters()),
    }  # fmt: skip


def _by_landmark(found: dict[str, Tested]) -> Iterator[dict[str, Any]]:
    for arm, test in found.items():
        for kind, errors in test.score.by_landmark.items():
            share, low, high = errors.recall[FAR]
            more = {"within 100 m": share, "interval": (low, high), "median_m": errors.median[0]}
            yield {"arm": arm, "kind": kind, "n": errors.n, **more}


def _curve(models: dict[str, Trained]) -> Iterator[dict[str, Any]]:
    """Of each test on the way: training is as fast at every step, so minutes follow from steps."""
    for arm, model in models.items():
        for test in model.tests:
            recall, minutes = test["all"]["recall"], model.seconds / 60 * test["step"] / model.steps
            shares = {f"within {float(limit):g} m": share for limit, (share, *_) in recall.items()}
            yield {
                "arm": arm,
                "photos_seen": test["seen"],
                "minutes": minutes,
                **shares,
                "median_m": test["all"]["median"][0],
            }


def _calibration(settled: dict[str, Any], abroad: Tested) -> dict[str, Any]:
    """Temperature and what it mended, as training settled it; and how true probabilities then are where nobody trained."""
    after = {"after": settled["after"], "unseen city": dataclasses.asdict(abroad.score.calibration)}
    return {"temperature": settled["defaults"]["temperature"], "before": settled["before"], **after}
