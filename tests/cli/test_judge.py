"""`nextset judge`, run as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from nextset.cli.app import app
from nextset.core.errors import NextsetError
from nextset.judges.degradations import blur
from nextset.judges.fidelity import ClassifierConfig
from nextset.judges.instruments import make_instrument, save_instrument
from tests.judges.scenes import coloured, scenes, write


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEXTSET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "judges"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("folders")
    write(base / "real", scenes(300, 1))
    write(base / "made", scenes(280, 2))
    write(base / "soft", blur(scenes(300, 1)))
    write(base / "few", scenes(40, 3))
    write(base / "large", scenes(300, 4, side=24))
    write(base / "mixed", scenes(300, 5))
    Image.new("RGB", (40, 30)).save(base / "mixed" / "00123.png")
    write(base / "broken", scenes(300, 6))
    (base / "broken" / "00200.png").write_bytes((base / "broken" / "00100.png").read_bytes()[:200])
    (base / "empty").mkdir()
    return base


def run(*arguments: object) -> str:
    """Output of a command that must succeed."""
    result = CliRunner().invoke(app, ["judge", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refuse(*arguments: object) -> str:
    """The line with which a command must be refused; `main` prints it and exits with 2."""
    result = CliRunner().invoke(app, ["judge", *map(str, arguments)])
    assert isinstance(result.exception, NextsetError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_a_report_names_what_its_figures_depend_on(folders: Path, cache: Path) -> None:
    text = run(folders / "made", folders / "real")
    for words in ("280 of 280 pictures", "280 of 300 pictures", "crc32", "R = 32, seed 20240607", "floor", "libjpeg"):
        assert words in text
    for judge in ("rfd_z", "rfd", "pca64_fd", "swd", "rpsd_db", "power of A over B"):
        assert judge in text
    assert ", same" in text and "fewer than 2,000" in text and "FID" not in text
    assert len(list(cache.iterdir())) == 2
    assert run(folders / "made", folders / "real") == text


def test_blur_is_seen_and_said(folders: Path) -> None:
    text = run(folders / "soft", folders / "real", "--metrics", "rpsd_db,swd", "--paired")
    assert "softer than B" in text and "psnr" in text and "ssim" in text and "rfd" not in text


def test_json(folders: Path, cache: Path) -> None:
    found = json.loads(run(folders / "made", folders / "real", "--json", "--n", 260, "--seeds", 3, "--no-cache"))
    assert found["a"]["n"] == 260 and len(found["seeds"]) == 3 and not cache.exists()
    assert {figure["judge"] for figure in found["figures"]} == {"rfd_z", "rfd", "pca64_fd", "swd", "rpsd_db"}


def test_pictures_of_any_size(folders: Path) -> None:
    text = run(folders / "mixed", folders / "large", "--size", 12)
    assert "12 x 12 pixels" in text


def test_memorisation_and_its_sheet(folders: Path, tmp_path: Path) -> None:
    text = run(folders / "real", folders / "real", "--metrics", "swd", "--memorisation-sheet", tmp_path / "sheet.png")
    assert "ALARM" in text and "memorisation_copies" in text and "the same pictures" in text
    assert Image.open(tmp_path / "sheet.png").size == (4 * 34 + 2, 4 * 18 + 2)


def test_class_fidelity(tmp_path: Path) -> None:
    made = make_instrument(coloured(128), coloured(60, 1), ClassifierConfig(width=4, epochs=1, batch=32, pad=2))
    path = save_instrument(tmp_path, made)
    pictures = coloured(40, 2)
    assert pictures.labels is not None
    names = [pictures.class_names[label] for label in pictures.labels]
    a = write(tmp_path / "a", pictures.read(np.arange(40)), names)
    text = run(a, a, "--metrics", "class_fidelity", "--classifier", path)
    assert "cf_acc" in text and f"{made.accuracy:.3f} right on 60 real pictures" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none", "real"), "none does not exist"),
        (("empty", "real"), "holds no pictures"),
        (("few", "real"), "rfd_z of 40 pictures"),
        (("large", "real"), "bring both to one size: --size 16"),
        (("mixed", "real"), "00123.png"),
        (("broken", "real"), "00200.png is damaged or cut short"),
        (("made", "real", "--paired"), "pairs need the same pictures"),
        (("made", "real", "--metrics", "psnr"), "say --paired"),
        (("made", "real", "--metrics", "fid"), "there is no judge 'fid'"),
        (("made", "real", "--metrics", "class_fidelity"), "--classifier FILE"),
        (("made", "real", "--classifier", "few"), "holds no classifier"),
        (("made", "real", "--n", "5000"), "n is 5000"),
        (("made", "real", "--size", "2"), "size is 2"),
        (("made", "real", "--seeds", "2"), "seeds is 2"),
        (("made", "real", "--threads", "-1"), "threads is -1"),
    ],
)
def test_bad_input_is_one_line(
    folders: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(folders)
    assert words in refuse(*arguments)


def test_help_has_examples() -> None:
    text = run("--help")
    assert "nextset judge out/generated path/to/real" in text and "--memorisation-sheet" in text
