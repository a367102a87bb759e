"""Each rule speaks where it should and is silent about a healthy run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nextset.training.advice import RULES, advice
from nextset.training.run_record import DATA, read_run
from tests.training.recorded import Row, tokenizer_row, write_run

SICK: dict[str, tuple[Any, str]] = {
    "_not_finite": (lambda s: {"a/loss": None if s == 500 else 1.0 / s}, "a/loss is not finite at step 500 (1 such"),
    "_learns_nothing": (lambda s: {"a/loss": 4.0 - 1e-5 * s}, "a/loss is 3.982 after 2,000 steps and began at 3.999"),
    "_rises": (lambda s: {"a/loss": 1.0 + abs(s - 800) / 800}, "a/loss has risen from 1.062 around step 800 to 2.4"),
    "_reconstructs_badly": (lambda s: {"t/psnr": 19.94}, "t/psnr is 19.9 dB at step 2,000, below 20 dB"),
    "_knows_by_heart": (lambda s: {"g/accuracy": 0.95}, "g/accuracy is 95.0%, above 90 %"),
    "_critic_wins": (lambda s: {"critic/loss": 0.04, "critic/real": 2.0}, "critic/loss is 0.04 over the last quarter"),
    "_collapses": (
        lambda s: {"t/used_0": 0.08, "t/used_1": 0.9},
        "usage of scale 0 is 8.0% of the codes at step 2,000",
    ),
    "_few_codes": (lambda s: {"t/perplexity_3": 4.2}, "scale 3 uses its codes as unevenly as 4.2 of 512"),
    "_revives": (lambda s: {"t/revived": 0.5}, "50 of 512 codes were replaced every 100 steps"),
    "_jumps": (lambda s: {"a/gradient_norm": 30.0 if s == 900 else 1.0}, "a/gradient_norm was 30 around step 900"),
    "_slows_down": (lambda s: {"images_per_second": 90.0 if s < 1200 else 50.0}, "50 images/s over the last quarter"),
}


def say(folder: Path, rule: str) -> list[str]:
    run = read_run(folder)
    return list(next(r for r in RULES if r.find.__name__ == rule).find(run))


@pytest.mark.parametrize("rule", SICK)
def test_a_rule_speaks_of_what_it_is_for(tmp_path: Path, rule: str) -> None:
    row, text = SICK[rule]
    found = say(write_run(tmp_path, row=row, saved=2000), rule)
    assert len(found) == 1 and text in found[0], found
    assert "\n" not in found[0]


def test_every_rule_is_tested() -> None:
    assert {rule.find.__name__ for rule in RULES} == {*SICK, "_data_left_out", "_noted"}


@pytest.mark.parametrize("last", [50, 150, 900, 2000])
def test_a_healthy_run_is_left_alone(tmp_path: Path, last: int) -> None:
    assert not advice(read_run(write_run(tmp_path, last=last, saved=last)))


@pytest.mark.parametrize("rule", ["_collapses", "_few_codes", "_revives", "_learns_nothing", "_reconstructs_badly"])
def test_the_beginning_may_be_bad(tmp_path: Path, rule: str) -> None:
    assert not say(write_run(tmp_path, row=SICK[rule][0], saved=950, last=950), rule)


def test_rules_do_not_repeat_each_other(tmp_path: Path) -> None:
    """A scale that collapsed is not said to be uneven as well."""

    def row(step: int) -> Row:
        return {**tokenizer_row(step), "tokenizer/used_0": 0.01, "tokenizer/perplexity_0": 2.0}

    remarks = advice(read_run(write_run(tmp_path, row=row, saved=2000)))
    assert [remark.about for remark in remarks] == ["codes"] and "collapsing" in remarks[0].text


def test_two_players_have_no_loss_that_must_fall(tmp_path: Path) -> None:
    def row(step: int) -> Row:
        return {"tokenizer/loss": 1.0 + step, "critic/loss": 0.9, "critic/real": 0.1}

    assert not advice(read_run(write_run(tmp_path, row=row, saved=2000)))


@pytest.mark.parametrize(("skipped", "texts"), [(10, ["10 of 110 files were left out", "a note"]), (5, ["a note"])])
def test_data(tmp_path: Path, skipped: int, texts: list[str]) -> None:
    lines = [f"{i}.png is broken" for i in range(skipped)]
    (write_run(tmp_path) / DATA).write_text(json.dumps({"pictures": 100, "skipped": lines, "notes": ["a note"]}))
    remarks = advice(read_run(tmp_path))
    assert {remark.about for remark in remarks} == {"data"} and len(remarks) == len(texts)
    assert all(text in remark.text for text, remark in zip(texts, remarks, strict=True))
