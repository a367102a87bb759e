"""The bench of MAR's sampling: both implementations agree, parts are scaled by what they stand for, and every field is filled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import mar
from benchmarks.mar import Shape, Sides, agreement, main, measure, measure_whole
from benchmarks.plain_mar import random_state
from nextset.core.errors import NextsetError

SIZES = {"width": 64, "depth": 1, "head_depth": 1, "head_width": 32, "side": 4, "buffer": 4, "classes": 10}
SHAPE = Shape(batch=2, steps=8, inner_steps=12, at=2, inner=3)


@pytest.fixture(scope="module")
def sides() -> Sides:
    return Sides(SHAPE, **SIZES)


def test_both_draw_the_same_tokens(sides: Sides) -> None:
    assert agreement(sides) < 1e-5
    first = sides.theirs(noise=True)
    assert torch.equal(first, sides.theirs(noise=True)) and not torch.equal(first, sides.theirs())
    assert sides.ours().shape == first.shape == (2, 16, 16)


def test_a_changed_weight_is_seen() -> None:
    other = Sides(SHAPE, **SIZES)
    other.plain.state["diffloss.net.res_blocks.0.mlp.0.weight"].mul_(1.5)  # type: ignore[attr-defined]
    assert agreement(other) > 1e-3


def test_timed_steps_lie_in_the_middles_of_equal_parts() -> None:
    assert Shape().places() == [8, 24, 40, 56] and Shape(steps=4, at=4).places() == [0, 1, 2, 3]
    assert Shape(at=1).places() == [32]


def test_parts_stand_for_the_steps_that_were_not_timed(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mar, "timed", lambda call, sides: 1.0)
    found = measure(sides, 2)
    # two of eight steps, three of twelve inner steps: a second each
    assert found["batch_seconds"] == {"ours body": 8, "plain body": 8, "ours head": 32, "plain head": 32, "noise": 8}
    assert found["seconds_an_image"] == {"ours": 20, "plain": 20} and found["head_share"] == {"ours": 0.8, "plain": 0.8}
    assert found["ratio"]["median"] == found["ratio_head"]["median"] == 1 and found["noise_share"] == 0.2


def test_parts_are_those_of_the_whole(sides: Sides) -> None:
    """The calls that are timed feed, draw and know as many rows as the step of a generation does."""
    rows: dict[str, int] = {}
    net, plain_net = sides.model.diffusion.net, sides.plain.net
    hook = net.register_forward_hook(lambda module, given, out: rows.update(ours=len(given[0])))
    sides.plain.net = lambda x, t, c: (rows.update(plain=len(x)), plain_net(x, t, c))[1]  # type: ignore[method-assign]
    try:
        for place, before, after in ((0, 16, 15), (6, 6, 3)):
            calls = sides.parts(place)
            assert [sides.left[place - 1] if place else 16, sides.left[place]] == [before, after]
            with torch.no_grad():
                for name in calls:
                    calls[name]()
            drawn = 2 * 2 * (before - after)  # images and branches
            assert rows == {"ours": max(drawn, 8), "plain": drawn}
    finally:
        hook.remove()
        sides.plain.net = plain_net  # type: ignore[method-assign]


def test_whole_generations_are_timed_too(sides: Sides) -> None:
    found = measure_whole(sides, 1)
    assert found["seconds_an_image"]["ours"] > 0 and len(found["ratio"]["pairs"]) == 1


def test_the_command_files_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mar, "random_state", lambda **sizes: random_state(**{**SIZES, **sizes}))
    out = tmp_path / "mar.json"
    main(["--width", "64", "--depth", "1", "--steps", "4", "--at", "1", "--inner", "2", "--runs", "1", "--out", str(out)])  # fmt: skip
    filed = json.loads(out.read_text())
    row = filed["rows"][0]
    assert row["batch"] == 1 and row["scaled_by"] == {"body": 4, "head": 200} and row["largest_difference"] < 1e-5
    assert filed["machine"]["command"] and "1 of 4 steps were timed with 2 of 100" in " ".join(capsys.readouterr().out.split())  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"), [(["--at", "65"], "at is 65"), (["--inner", "1"], "inner is 1"), (["--runs", "0"], "runs is 0")]
)  # fmt: skip
def test_counts_that_make_no_sense_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match=message):
        main([*arguments, "--out", str(tmp_path / "none.json")])
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match="no CUDA device"):
        main(["--device", "cuda", "--out", str(tmp_path / "none.json")])
