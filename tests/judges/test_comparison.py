"""Comparing two sets: what each judge sees, what is refused, and what stands beside a figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nextset.judges.comparison import SETS, Options, compare
from nextset.judges.degradations import add_noise, blur, mirror
from nextset.judges.fidelity import ClassifierConfig
from nextset.judges.hashing import SEED
from nextset.judges.instruments import Instrument, load_instrument, make_instrument, save_instrument
from nextset.judges.pixels import box_resize
from nextset.judges.sets import REFERENCE, ArraySet, sample
from nextset.judges.sources import open_set
from tests.judges.scenes import coloured, photographs, refused, scenes, write

A, B = ArraySet(scenes(300, 0), name="A"), ArraySet(scenes(320, 1), name="B")


def values(a: ArraySet, b: ArraySet, judges: tuple[str, ...] = SETS, **options: int) -> dict[str, float]:
    report = compare(a, b, judges, Options(**options))  # type: ignore[arg-type]
    return {figure.judge: figure.value for figure in report.figures}


# ---- what judges see

# what the specification's table says of all 10,000 photographs, changed, against the same ones
TABLE = {
    "rfd_z": {"blur": 18.41, "noise": 1.563, "flip": 0.950, "lost class": 1.480},
    "rfd": {"blur": 0.982, "noise": 0.0319, "flip": 0.0294, "lost class": 0.148},
    "pca64_fd": {"blur": 1.020, "flip": 0.244, "lost class": 0.628},
    "swd": {"blur": 0.02166, "flip": 0.00616},
    "rpsd_db": {"blur": 4.278, "noise": 0.457},
}
BLIND = {"pca64_fd": "noise", "swd": "noise", "rpsd_db": "flip"}
COUNT = 600


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """A few of these photographs. pca64_fd at 16 pixels a side, where it costs little: a quarter of the values, and of the
    distance, which is given times 4."""
    real = photographs(COUNT)
    images = real.read(np.arange(COUNT))
    assert real.labels is not None
    changed = {
        "nothing": images,
        "blur": blur(images),
        "noise": add_noise(images),
        "flip": mirror(images),
        "lost class": images[real.labels != 0],
    }
    options = Options(n_reference=0, cache=tmp_path_factory.mktemp("cache"))

    def small(x: np.ndarray) -> ArraySet:
        return ArraySet(np.floor(box_resize(x, 16) + 0.5).astype(np.uint8))

    found = {}
    for name, x in changed.items():
        large = compare(ArraySet(x), real, ("rfd_z", "rfd", "swd", "rpsd_db"), options)
        tiny = compare(small(x), small(images), ("pca64_fd",), options)
        found[name] = {figure.judge: figure.value for figure in large.figures}
        found[name]["pca64_fd"] = 4 * tiny["pca64_fd"].value
    return found


@pytest.mark.parametrize("judge", SETS)
def test_what_a_judge_sees(seen: dict[str, dict[str, float]], judge: str) -> None:
    assert seen["nothing"][judge] < 1e-6
    for change, value in TABLE[judge].items():
        assert seen[change][judge] > value / 2, change
    if judge in BLIND:
        assert seen[BLIND[judge]][judge] < min(seen[change][judge] for change in TABLE[judge]) / 2


def test_blur_and_noise_are_as_large_as_the_specification_says(seen: dict[str, dict[str, float]]) -> None:
    """Where the number of photographs matters least."""
    for change, judge, tolerance in (
        ("blur", "rfd_z", 0.2),
        ("blur", "rfd", 0.1),
        ("blur", "swd", 0.15),
        ("blur", "rpsd_db", 0.05),
        ("noise", "rpsd_db", 0.1),
    ):
        assert seen[change][judge] == pytest.approx(TABLE[judge][change], rel=tolerance)


def test_pairs() -> None:
    real = photographs(COUNT)
    changed = ArraySet(blur(real.read(np.arange(COUNT))))
    found = values(changed, real, ("psnr", "ssim"))
    assert found["psnr"] == pytest.approx(25.79, abs=0.3) and found["ssim"] == pytest.approx(0.838, abs=0.01)


# ---- what does not matter


def test_the_order_of_the_pictures_does_not_matter() -> None:
    one, two = (
        values(A, B, n=300, n_reference=0),
        values(ArraySet(A.read(np.arange(300)[::-1])), B, n=300, n_reference=0),
    )
    for judge in set(SETS) - {"swd"}:  # which takes the first of the larger set
        assert one[judge] == pytest.approx(two[judge], rel=1e-4)


def test_png_files_are_judged_as_the_arrays_they_were(tmp_path: Path) -> None:
    folder = open_set(write(tmp_path, A.read(np.arange(300))))
    one, two = compare(A, B, SETS), compare(folder, B, SETS)
    assert [figure.value for figure in one.figures] == [figure.value for figure in two.figures]
    assert one.a.crc32 == two.a.crc32


def test_kept_statistics_give_the_same_report(tmp_path: Path) -> None:
    options = Options(cache=tmp_path)
    fresh, kept, none = (compare(A, B, SETS, o).to_dict() for o in (options, options, None))
    assert fresh == kept == none and len(list(tmp_path.iterdir())) == 2  # B as judged, and all of it


def test_grey_pictures_are_judged_as_repeated() -> None:
    grey = A.read(np.arange(300))[..., 0]
    assert values(ArraySet(grey), B) == values(ArraySet(np.stack([grey] * 3, -1)), B)


# ---- what stands beside a figure


def test_a_report_says_what_its_figures_depend_on() -> None:
    report = compare(A, B, SETS, Options(n=280, seeds=3))
    assert (report.a.n, report.a.of, report.b.n, report.b.of) == (280, 300, 280, 320)
    assert report.seeds == (SEED, SEED + 1, SEED + 2) and report.side == 32 and report.size == (16, 16)
    assert "Pillow" in report.decoder and len(report.a.crc32) == 8 and report.basis == "B (320 pictures)"
    assert [(figure.judge, figure.n, figure.n_reference) for figure in report.figures] == [(j, 280, 280) for j in SETS]
    assert all(figure.floor is not None for figure in report.figures)
    assert report["swd"].judge == "swd" and report.curve_db is not None and len(report.curve_db) == 8
    assert json.loads(json.dumps(report.to_dict()))["figures"][0]["judge"] == "rfd_z"


def test_numbers_of_pictures() -> None:
    def numbers(**options: int) -> tuple[int, int]:
        report = compare(A, B, ("swd",), Options(**options))  # type: ignore[arg-type]
        return report.a.n, report.b.n

    assert numbers() == (300, 300)
    assert numbers(n=100) == (100, 100)
    assert numbers(n_reference=0) == (300, 320)
    assert numbers(n=50, n_reference=310) == (50, 310)


def test_samples_of_one_source_are_near_the_floor() -> None:
    for figure in compare(A, B).figures:
        assert figure.floor is not None and 0.5 < figure.value / figure.floor < 2, figure


def test_three_networks_are_averaged() -> None:
    three = values(A, B, ("rfd_z",), seeds=3)["rfd_z"]
    assert three != pytest.approx(values(A, B, ("rfd_z",))["rfd_z"], rel=1e-6)


def test_scale_and_axes_of_another_set() -> None:
    basis = ArraySet(scenes(400, 2) // 2, name="training")
    plain = compare(A, B, ("rfd_z", "rfd", "pca64_fd"))
    based = compare(A, B, ("rfd_z", "rfd", "pca64_fd"), basis=basis)
    assert based.basis == "training (400 pictures)"
    assert based["rfd"].value == pytest.approx(plain["rfd"].value)  # has no scale
    assert based["rfd_z"].value > 1.2 * plain["rfd_z"].value  # half the contrast, half the deviation
    assert based["pca64_fd"].value != pytest.approx(plain["pca64_fd"].value, rel=1e-3)


def test_scale_and_axes_are_those_of_all_of_b() -> None:
    judges = ("rfd_z", "pca64_fd")
    part, whole = (compare(A, B, judges, Options(n=280), basis=basis) for basis in (None, B))
    assert part.to_dict() == whole.to_dict()
    own = compare(A, ArraySet(B.read(sample(B, 280, REFERENCE))), judges, Options(n=280))
    assert part["rfd_z"].value != pytest.approx(own["rfd_z"].value, rel=1e-3)


def notes(a: ArraySet, b: ArraySet, **options: int) -> str:
    return "\n".join(compare(a, b, ("swd",), Options(**options)).notes)  # type: ignore[arg-type]


def test_notes_name_what_spoils_a_figure() -> None:
    assert "fewer than 2,000 pictures a side" in notes(A, B)
    assert "A has 300 pictures here, B 320" in notes(A, B, n_reference=0)
    assert "A has" not in notes(A, B) and "same pictures" in notes(A, A)
    tiny = [ArraySet(np.random.default_rng(k).integers(0, 256, (2000, 8, 8, 3), dtype=np.uint8)) for k in (0, 1)]
    assert notes(*tiny) == ""


def test_a_lost_class_is_noted_and_the_chance_of_a_sample_is_not() -> None:
    rng = np.random.default_rng(0)
    real = ArraySet(A.read(np.arange(300)), labels=rng.integers(0, 10, 300))
    fair = ArraySet(B.read(np.arange(320)), labels=rng.integers(0, 10, 320))
    lost = ArraySet(B.read(np.arange(320)), labels=rng.integers(0, 7, 320), class_names=list("0123456"))
    assert "mixed differently" not in notes(fair, real)
    assert "mixed differently" in notes(lost, real)
    named = ArraySet(B.read(np.arange(320)), labels=np.zeros(320, int), class_names=["run"])
    assert "mixed differently" not in notes(named, real)  # no class in common: sub-folders of another kind


def test_a_reference_of_jpeg_files_is_noted(tmp_path: Path) -> None:
    for i, picture in enumerate(scenes(4)):
        Image.fromarray(picture).save(tmp_path / f"{i}.jpg")
    report = compare(A, open_set(tmp_path), ("swd",))
    assert any("decoded from JPEG" in note for note in report.notes)


def test_features_that_stand_still_in_the_reference_are_named() -> None:
    flat = ArraySet(
        np.full((300, 16, 16, 3), 128, np.uint8) + (np.arange(300) % 2).astype(np.uint8)[:, None, None, None]
    )
    assert "hardly change" in compare(A, flat, ("rfd_z",))["rfd_z"].note
    assert compare(A, flat, ("rfd",))["rfd"].note == ""


# ---- the classifier and the search


@pytest.fixture(scope="module")
def instrument(tmp_path_factory: pytest.TempPathFactory) -> Instrument:
    config = ClassifierConfig(width=4, epochs=2, batch=32, pad=2)
    made = make_instrument(coloured(256), coloured(100, 1), config)
    return load_instrument(save_instrument(tmp_path_factory.mktemp("classifier"), made))


def test_class_fidelity_stands_beside_the_accuracy_of_its_classifier(instrument: Instrument) -> None:
    a = coloured(64, 3)
    report = compare(a, coloured(80, 4), ["class_fidelity"], instrument=instrument)
    assert report["cf_acc"].floor == instrument.accuracy and report["cf_acc"].n_reference == 100
    assert report["cf_ratio"].value == pytest.approx(report["cf_acc"].value / instrument.accuracy)
    for judge in ("cf_acc", "class_entropy"):
        assert f"{instrument.accuracy:.3f} right on 100 real pictures" in report[judge].note
        assert instrument.hash in report[judge].note
    swapped = ArraySet(a.read(np.arange(64)), labels=a.labels, class_names=["red", "plain"])
    other = compare(swapped, a, ["class_fidelity"], instrument=instrument)
    assert other["cf_acc"].value == pytest.approx(1 - report["cf_acc"].value)


def test_without_classes_only_their_mix_is_judged(instrument: Instrument) -> None:
    plain = ArraySet(coloured(64, 3).read(np.arange(0, 64, 2)))
    report = compare(plain, plain, ["class_fidelity"], instrument=instrument)
    assert [figure.judge for figure in report.figures] == ["class_entropy"]
    mixed = compare(coloured(64, 3), plain, ["class_fidelity"], Options(n=64, n_reference=0), instrument=instrument)
    assert report["class_entropy"].value < mixed["class_entropy"].value <= np.log(2)


def test_the_classifiers_own_pictures_are_noted(instrument: Instrument) -> None:
    report = compare(coloured(256), coloured(80, 4), ["class_fidelity"], instrument=instrument)
    assert any("the classifier learned from the pictures of A" in note for note in report.notes)


def test_memorisation_is_in_the_report() -> None:
    copied = ArraySet(np.concatenate([A.read(np.arange(50)), B.read(np.arange(10))]))
    report = compare(copied, B, ["memorisation"], held_out=ArraySet(scenes(100, 5)))
    assert report["memorisation_copies"].value == pytest.approx(10 / 60)
    assert "ALARM" in report["memorisation_near"].note and report.memorisation is not None
    assert "memorisation" not in report.to_dict()


# ---- what is refused


@pytest.mark.parametrize(
    ("judges", "options", "words"),
    [
        (("fid",), Options(), "there is no judge 'fid'"),
        (("rfd",), Options(n=255), "rfd of 255 pictures of A says nothing: it needs at least 256"),
        (("rfd_z",), Options(n_reference=200), "rfd_z of 200 pictures of B"),
        (("swd",), Options(n=301), "n is 301, but must be between 2 and 300; A has 300 pictures"),
        (("swd",), Options(n_reference=1), "n_reference is 1"),
        (("rfd",), Options(seeds=2), "seeds is 2, but must be 1"),
        (("psnr",), Options(), "pairs need the same pictures"),
        (("class_fidelity",), Options(), "needs a classifier"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(judges: tuple[str, ...], options: Options, words: str) -> None:
    assert words in refused(compare, A, B, judges, options)


def test_sets_that_do_not_fit_are_refused(instrument: Instrument) -> None:
    large = ArraySet(scenes(300, side=24), name="large")
    for line in (
        refused(compare, large, B, ("swd",)),
        refused(compare, A, B, ("swd",), basis=large),
        refused(compare, A, B, ("memorisation",), held_out=large),
    ):
        assert "large has 24 x 24 pixels, B 16 x 16 pixels" in line and "--size 16" in line
    assert "at least 2" in refused(compare, ArraySet(scenes(1)), B, ("swd",))
    line = refused(compare, large, large, ("class_fidelity",), instrument=instrument)
    assert "learned from pictures of 16 x 16 pixels, but large has 24 x 24 pixels" in line


def test_pairs_in_another_order_are_refused(tmp_path: Path) -> None:
    images = scenes(4)
    flat = open_set(write(tmp_path / "flat", images))
    sorted_by_class = open_set(write(tmp_path / "classes", images, ["b", "a", "b", "a"]))
    assert "the same file names in another order" in refused(compare, flat, sorted_by_class, ("psnr",))
    assert compare(flat, open_set(write(tmp_path / "again", images)), ("psnr",))["psnr"].value == 100
