"""The bench of prompt fidelity with models that are none: one that draws what it is asked for, one that never does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import prompt_fidelity as bench
from nextset.data.emoji_attributes import held_out
from nextset.judges.attributes import ATTRIBUTES, SUBGROUP, TOGETHER, AttributeConfig, AttributeJudge, train_judge
from tests.judges.drawn_emoji import drawn

SEEN = (*ATTRIBUTES, TOGETHER, SUBGROUP)


@dataclass
class Made:
    tensors: Tensor


class Drawer:
    """A pipe that draws the render of each prompt, or, `off` by some places, that of another."""

    def __init__(self, off: int = 0) -> None:
        self.emoji, self.off = drawn(), off
        self.by_line = {line: i for i, c in enumerate(self.emoji.captions) for line in c.split("\n")}
        self.calls: list[dict[str, Any]] = []

    def __call__(self, prompts: list[str], **settings: Any) -> Made:
        self.calls.append(settings)
        index = torch.tensor([self.by_line[p] for p in prompts])
        return Made(self.emoji.images((index + self.off) % len(self.emoji)))


@pytest.fixture(scope="module")
def judge() -> AttributeJudge:
    config = AttributeConfig(width=8, epochs=25, batch=40, peak=0.02, shift=1.0, scale=0.02, wear=0.5)
    return train_judge(drawn(), config)


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances refuse fewer than 256 pictures, and the small set has 80: they are not what is tested here."""

    class Figure:
        value, n, n_reference, floor = 1.0, 80, 80, 0.5

    monkeypatch.setattr(bench, "compare", lambda *a, **k: {"rfd_z": Figure()})


def measured(judge: AttributeJudge, pipe: Drawer, guidance: float | None = None) -> dict[str, Any]:
    emoji = drawn()
    asked = bench.ask(emoji, 0, 1, 4, "any", 0)
    real = {kind: bench.ceilings(judge, emoji, a.glyphs, None) for kind, a in asked.items()}
    record, made = bench.measure(pipe, judge, emoji, asked, guidance, real)
    assert made[bench.HELD].shape[0] == 4 * sum(map(held_out, emoji.glyphs))
    return record


def test_prompts_of_both_kinds() -> None:
    emoji = drawn()
    asked = bench.ask(emoji, 20, 2, 4, "name", 0)
    trained, held = asked[bench.TRAINED], asked[bench.HELD]
    assert len(np.unique(trained.glyphs)) == 20 and len(trained.prompts) == 40
    assert not any(held_out(emoji.glyphs[g]) for g in trained.glyphs) and all(
        held_out(emoji.glyphs[g]) for g in held.glyphs
    )
    assert held.prompts[0] == held.prompts[3] == emoji.captions[held.glyphs[0]].split("\n")[0]
    other = bench.ask(emoji, 20, 2, 4, "any", 0)[bench.HELD]
    assert len(set(other.prompts)) > len(set(held.prompts)) and (other.glyphs == held.glyphs).all()
    assert all(p in emoji.captions[g].split("\n") for p, g in zip(other.prompts, other.glyphs, strict=True))


def test_a_model_that_draws_what_is_asked_reaches_the_ceiling(judge: AttributeJudge) -> None:
    record = measured(judge, Drawer())
    for kind in (bench.TRAINED, bench.HELD):
        assert all(row["of_ceiling"] > 0.95 for row in record[kind])
    assert {row["question"] for row in record[bench.TRAINED]} == set(SEEN)
    few = ("shape", "colour", "gender")  # of so few held-out prompts nothing can be said
    assert all(line.startswith("reached") for line in bench.aims(record) if not any(f"s, {w}:" in line for w in few))
    tone = record[bench.HELD][0]
    assert (
        tone["question"] == "tone"
        and tone["low"] < tone["value"] <= tone["high"] <= 1
        and tone["n"] == 4 * tone["prompts"]
    )


def test_a_model_that_draws_others_is_at_chance(judge: AttributeJudge) -> None:
    record = measured(judge, Drawer(off=9))  # half the tones, another gender, and another role for half of them
    rows = {row["question"]: row for row in record[bench.TRAINED]}
    assert rows[SUBGROUP]["value"] < 0.05 and rows["tone"]["value"] < 0.4 and rows[TOGETHER]["value"] < 0.05
    assert any(line.startswith("missed: held-out") for line in bench.aims(record))


def test_settings_reach_the_model(judge: AttributeJudge) -> None:
    pipe = Drawer()
    measured(judge, pipe, 3.0)
    measured(judge, pipe)
    assert [c.get("guidance_scale") for c in pipe.calls] == [3.0, 3.0, None, None]
    assert pipe.calls[0]["seed"] != pipe.calls[1]["seed"]


def test_tables_plot_and_sheet(judge: AttributeJudge, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from rich.console import Console

    emoji, pipe = drawn(), Drawer()
    asked = bench.ask(emoji, 10, 1, 4, "name", 0)
    real = {kind: bench.ceilings(judge, emoji, a.glyphs, Through()) for kind, a in asked.items()}
    records = [bench.measure(pipe, judge, emoji, asked, g, real) for g in (1.0, 2.0)]
    assert all(row["ceiling_of_tokenizer"] is not None for row in records[0][0][bench.HELD])
    console = Console(record=True, width=160)
    bench.show(console, records[0][0])
    assert "through tokenizer" in console.export_text()
    bench.plot([r for r, _ in records], tmp_path / "a" / "guidance.png")
    assert Image.open(tmp_path / "a" / "guidance.png").width > 500
    page = bench.sheet(emoji, asked, records[0][1])
    assert len(page.getcolors(10**6) or []) > 20


class Through:
    """A tokenizer without loss."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, codes: Tensor) -> Tensor:
        return codes
