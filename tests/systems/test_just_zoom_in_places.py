"""What the zooming model and its baseline share: examples, scores, temperature; the baseline's loss and gallery; costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.city import City
from nextset.data.images import from_uint8, to_uint8
from nextset.data.places import PlaceOptions, open_places
from nextset.hub import pretrained
from nextset.nn.encoders import EncoderConfig
from nextset.systems.just_zoom_in import Cells, JustZoomIn, JustZoomInConfig, geometry
from nextset.systems.just_zoom_in.cost import cost
from nextset.systems.just_zoom_in.examples import Examples, actions_of, numbers_of, score
from nextset.systems.just_zoom_in.retrieval import Retrieval, RetrievalConfig, smoothed

SIZES = {"pixels": 8, "grid": 2, "steps": 2}
ENCODER = EncoderConfig(kind="conv", width=16, channels=(8,), cells=2)
CITY = {"train": 40, "val": 12, "side": 320, "cities": [1, 2]}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXTSET_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = open_places(PlaceOptions.from_dict({**CITY, "size": 8, "gps_noise": 3.0, "augment": True}))
    return Examples(*found, **SIZES)


def zoom() -> JustZoomIn:
    torch.manual_seed(0)
    return JustZoomIn(JustZoomInConfig(encoder=ENCODER, depth=1, heads=2, dropout=0.0, **SIZES)).eval()


def retrieval(**changes: object) -> Retrieval:
    torch.manual_seed(0)
    return Retrieval(RetrievalConfig.from_dict({"encoder": ENCODER, **SIZES, **changes})).eval()


def test_numbers_and_actions_are_one_tree() -> None:
    actions = torch.randint(16, (50, 3), generator=torch.Generator().manual_seed(0))
    numbers = numbers_of(actions, 4)
    assert numbers[:, 0].eq(0).all()
    assert torch.equal(actions_of(numbers[:, -1], 3, 4), actions)
    assert torch.equal(actions_of(numbers[:, 2], 2, 4), actions[:, :2])


def test_a_batch_shows_each_photo_its_own_way(examples: Examples) -> None:
    examples.train.augment = False
    rows = torch.tensor([3, 25, 39])
    batch = examples.batch(rows, rows + 100, Noise(0))
    views = batch["views"][batch["view_index"]]
    for i, row in enumerate(rows.tolist()):
        ground = examples.train.grounds[int(examples.train.ground[row])]
        lat, lon = examples.train.lat[row], examples.train.lon[row]
        assert torch.equal(batch["actions"][i], geometry.label(lat, lon, ground.start, 2, 2))
        path = geometry.follow(ground.start, batch["actions"][i], 2)
        own = ground.view(*(v[:2] for v in path), 8)
        assert torch.equal(views[i], from_uint8(to_uint8(own)))
        assert geometry.distance(path[0][-1], path[1][-1], lat, lon) <= 320 / 4 / 2**0.5 + 0.01
    assert torch.equal(batch["index"], rows + 100)
    examples.train.augment = True


def test_sequences_of_another_length_are_refused(examples: Examples) -> None:
    with pytest.raises(NextsetError, match=r"3 cells, but the model makes 2 decisions; set model.steps=3"):
        Examples(dataclasses.replace(examples.train, decisions=3), examples.test, **SIZES)


def test_only_the_first_view_is_never_changed(examples: Examples) -> None:
    rows = torch.arange(40)
    views = [examples.batch(rows, rows + n, Noise(0)) for n in (0, 1000)]
    shown = [b["views"][b["view_index"]] for b in views]
    assert torch.equal(shown[0][:, 0], shown[1][:, 0]) and not torch.equal(shown[0][:, 1], shown[1][:, 1])
    again = examples.batch(rows, rows, Noise(0))
    assert torch.equal(again["views"], views[0]["views"]) and torch.equal(again["photos"], views[0]["photos"])


def test_a_locator_that_knows_the_truth_is_always_right(examples: Examples) -> None:
    test = examples.test
    order = iter([(test.ground == k).nonzero()[:, 0] for k in (0, 1)])

    def locate(photos: torch.Tensor, ground: City) -> Cells:
        rows = next(order)
        actions = geometry.label(test.true_lat[rows], test.true_lon[rows], ground.start, 2, 2)[:, None]
        return Cells(torch.stack(geometry.follow(ground.start, actions, 2), -1), actions, torch.zeros(len(rows), 1))

    found = score(locate, test, 2, 2)  # type: ignore[arg-type]
    assert found.all.exact == 1 and found.all.recall[100.0][0] == 1 and found.calibration.ece == 0


@pytest.mark.parametrize("make", [zoom, retrieval])
def test_both_are_scored_and_settled_by_the_same_code(examples: Examples, make: object) -> None:
    model = make()  # type: ignore[operator]
    own = Examples(examples.train, examples.test, **SIZES, context=1.0 if isinstance(model, Retrieval) else None)
    found = own.judged(model.locate, limit=6)
    assert found.all.n == 6 and found.all.exact <= found.all.recall[100.0][0]
    settled = own.settled(model)
    assert 0.05 <= settled["defaults"]["temperature"] <= 20
    assert settled["fitted_on"] == 6 and {"before", "after"} <= set(settled)
    assert own.shown(model.locate, 2).dim() == 3


def test_the_baseline_learns(examples: Examples) -> None:
    model, own = retrieval(), Examples(examples.train, examples.test, **SIZES, context=2.0)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for step in range(12):
        update = next(model.train().updates(own.batch(torch.arange(40), torch.arange(40), Noise(0)), step, Noise(0)))
        optimiser.zero_grad()
        update.loss.backward()
        optimiser.step()
        losses.append(update.loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_photos_of_one_cell_are_no_negatives() -> None:
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    masked = logits.clone()
    masked[0, 1] = masked[1, 0] = -torch.inf
    loss, ce = smoothed(masked, 0.1)
    slow_ce, slow_loss = [], []
    for i in range(4):
        open_ = [j for j in range(4) if {i, j} != {0, 1}]
        law = logits[i, open_].log_softmax(0)
        slow_ce.append(-law[open_.index(i)])
        slow_loss.append(-0.9 * law[open_.index(i)] - 0.1 * law.mean())
    assert float(ce) == pytest.approx(float(torch.stack(slow_ce).mean()), abs=1e-6)
    assert float(loss) == pytest.approx(float(torch.stack(slow_loss).mean()), abs=1e-6)
    plain, _ = smoothed(logits, 0.1)
    target = torch.nn.functional.cross_entropy(logits, torch.arange(4), label_smoothing=0.1)
    assert float(plain) == pytest.approx(float(target), abs=1e-6)


def test_retrieval_names_the_nearest_cells_and_keeps_its_gallery() -> None:
    model, city = retrieval(), City(1, 320)
    photos = torch.rand(3, 3, 8, 16) * 2 - 1
    cells = model.locate(photos, city, beams=16)
    assert cells.logp.exp().sum(1) == pytest.approx(torch.ones(3), abs=1e-5)
    assert bool((cells.logp.diff(dim=1) <= 0).all())
    best = (model.encode_photos(photos) @ model.gallery(city).T).argmax(1)
    assert torch.equal(numbers_of(cells.actions[:, 0], 2)[:, -1], best)
    assert model.gallery_bytes == 16 * 16 * 4
    assert bool((cells.side == 80).all()) and bool(geometry.inside(cells.lat, cells.lon, city.start).all())
    model.train()
    assert model.gallery_bytes == 0  # its weights may change
    with pytest.raises(NextsetError, match="leave out steps"):
        model.locate(photos, city, steps=1)


def test_the_baseline_is_saved_and_loaded_by_its_name(tmp_path: Path) -> None:
    model, city = retrieval(context=2.0), City(1, 320)
    pretrained.save(tmp_path / "model", model, defaults={"temperature": 2.0})
    loaded = pretrained.load(tmp_path / "model").model
    assert isinstance(loaded, Retrieval) and loaded.config == model.config
    photos = torch.rand(2, 3, 8, 16) * 2 - 1
    assert torch.equal(loaded.locate(photos, city).actions, model.locate(photos, city).actions)
    with pytest.raises(NextsetError, match="no model 'retreival'"):
        pretrained.system_class("just_zoom_in/retreival")


def test_costs_of_searching_and_of_retrieval() -> None:
    sheet = cost(10240, 40, width=768)
    assert (sheet.steps, sheet.images, sheet.positions) == (4, 6, 8)
    assert sheet.gallery == 4**8 and sheet.gallery_bytes == 65536 * 768 * 4
    assert sheet.retrieval_images == 2 + 65536
    steps = [cost(2560 * k, 40).steps for k in (1, 2, 4, 8)]  # 1, 4, 16 and 64 times the area
    assert steps == [3, 4, 4, 5]
    assert [cost(2560 * k, 40).gallery for k in (1, 2, 4, 8)] == [4096, 16384, 65536, 262144]
    with pytest.raises(NextsetError, match="part of the map"):
        cost(100, 400)


def test_a_random_policy_is_as_good_as_the_area_says() -> None:
    """Sheet, Miniature claim (e): a guess comes within 100 m as often as that is of the area, but for the edge."""
    city = City(0, 2560)
    draw = torch.Generator().manual_seed(0)
    actions = torch.randint(16, (40000, 3), generator=draw)
    lat, lon, _ = (v[:, -1] for v in geometry.follow(city.start, actions, 4))
    x, y = (torch.rand(40000, generator=draw).double() * 2560 for _ in range(2))
    near = (geometry.distance(lat, lon, *city.degrees(x, y)) <= 100).double().mean()
    assert float(near) == pytest.approx(city.share_within, rel=0.2)
