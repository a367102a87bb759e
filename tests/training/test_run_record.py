"""Run folders are read whole, half-finished and damaged; how a run ended is concluded from what it left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nextset.core.errors import NextsetError
from nextset.training import metrics
from nextset.training.run_record import read_run, recipe_lines
from tests.training.recorded import write_run


@pytest.mark.parametrize(
    ("given", "word", "says"),
    [
        ({"saved": 2000, "quiet": 9e5}, "finished", "all 2,000 steps in 3 min"),
        ({"last": 1000, "saved": 500}, "running", "step 1,000 of 2,000"),
        ({"last": 1000, "saved": 1000, "quiet": 9e5}, "stopped", "step 1,000 of 2,000, and saved there"),
        ({"last": 1000, "saved": 500, "quiet": 9e5}, "broke off", "--resume goes on from step 500"),
        ({"last": 1000, "quiet": 9e5}, "broke off", "no checkpoint was written"),
    ],
)
def test_how_it_ended(tmp_path: Path, given: dict, word: str, says: str) -> None:
    ending = read_run(write_run(tmp_path / "run", **given)).ending
    assert ending.word == word and says in ending.line


def test_a_slow_run_goes_on(tmp_path: Path) -> None:
    """Half an hour between lines is no silence."""
    slow = write_run(tmp_path / "run", last=100, quiet=3000, row=lambda step: {"a/loss": 1.0, "elapsed": 36.0 * step})
    assert read_run(slow).ending.word == "running"


def test_the_time_budget_ends_a_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", last=1000, saved=1000, quiet=9e5)
    state = folder / "step-00001000" / "state.json"
    state.write_text(state.read_text().replace('"batch"', '"time_budget": 1, "batch"'))
    assert read_run(folder).ending.line == "step 1,000 of 2,000; the time budget of 1 min was used up"


def test_lines_that_are_no_lines(tmp_path: Path) -> None:
    with (write_run(tmp_path, last=100) / metrics.FILE).open("a") as handle:
        handle.write('{"step": true}\n[1]\n\n{"step": 150, "a/loss": null, "name": "x", "b/big": 1e400}\n')
        handle.write('{"step": 10000000000000000000000, "a/loss": 1}\n')
        handle.write('{"step": 100, "a/again": 7}\n{"step": 200, "a/lo')
    run = read_run(tmp_path)
    assert [row["step"] for row in run.rows] == [50, 100, 150]
    assert run.rows[1] == {"step": 100, "a/again": 7} and run.rows[2] == {"step": 150}
    assert run.not_finite == [(150, "a/loss")] and run.series("a/again") == ([100], [7.0])
    assert run.series("nothing") == ([], [])


def test_families_are_numbers_by_scale(tmp_path: Path) -> None:
    row = {"t/used_10": 1.0, "t/used_2": 1.0, "t/l1": 1.0, "lr_1": 1.0, "t/used_03": 1.0}
    assert read_run(write_run(tmp_path, row=lambda _: row)).families() == {"t/used": [2, 10]}


def test_damaged_files_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path, saved=500)
    newer = folder / "step-00001000"
    newer.mkdir()
    (newer / "manifest.json").write_text("{}")
    (newer / "state.json").write_text("{")
    (folder / "data.json").write_text('{"source": 3, "classes": ["a"], "skipped": "x", "pictures": true}')
    (folder / "step-x").mkdir()
    (folder / "step-x" / "manifest.json").write_text("{}")
    run = read_run(folder)
    assert [saved.step for saved in run.saved] == [500, 1000]
    assert run.steps == 2000 and run.setting("model.vocabulary", int, 0) == 512
    assert run.data and (run.data.source, run.data.pictures, run.data.classes, run.data.skipped) == ("", 0, {}, [])


def test_the_recipe_of_a_published_model(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps({"recipe": {"train": {"steps": 77}}}))
    run = read_run(folder)
    assert run.published and run.steps == 77


def test_settings_have_a_kind(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, saved=10, recipe={"model": {"flag": True, "whole": 3, "text": "x"}}))
    assert run.setting("model.flag", int, 5) == 5 and run.setting("model.whole", float, 0.0) == 3.0
    assert run.setting("model.text.deeper", str, "no") == "no" and run.setting("train.clip", float, 0.0) == 1.0


def test_recipe_lines() -> None:
    lines = recipe_lines({"kind": "generator", "system": None, "model": {"auto": {"latent": 8}, "attention": False}})
    assert lines == {"kind": "generator", "model.auto.latent": "8", "model.attention": "false"}


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="does not exist"):
        read_run(tmp_path / "none")
    (tmp_path / metrics.FILE).write_text('{"step": 1, "a/')
    with pytest.raises(NextsetError, match="no lines yet"):
        read_run(tmp_path)
    (tmp_path / "folder" / metrics.FILE).mkdir(parents=True)
    with pytest.raises(NextsetError, match="cannot be read"):
        read_run(tmp_path / "folder")
