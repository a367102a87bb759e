"""`nextset report` as a person runs it."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextset.cli.app import app, main
from nextset.core.errors import NextsetError
from tests.training.recorded import write_run

pytest.importorskip("matplotlib")


def report(*arguments: object) -> None:
    CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)


def test_a_page_stands_in_the_folder_of_its_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", last=100)
    report(run)
    assert "<h1>run</h1>" in (run / "report.html").read_text()


def test_several_runs_and_a_place(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, last=100) for name in "ab"]
    report(*runs, "-o", tmp_path / "out" / "page.html")
    assert "<h1>a and b</h1>" in (tmp_path / "out" / "page.html").read_text()
    with pytest.raises(NextsetError, match="say where: -o page"):
        report(*runs)


def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["nextset", "report", str(tmp_path)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit, match="2"):
        main()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "give the folder of a training run" in said
    assert not list(tmp_path.iterdir())
