"""Does a text-to-image model of emoji draw what it is asked for? Attribute by attribute, and how like real ones it draws.

    nextset bench prompt-fidelity -- --model emoji-infinity --scales-of-guidance 1 2 3 4 6

Prompts are names that the model was trained on (a sample of them), and combinations that were held out of training, four
pictures each. A judge that was trained on real renders says which tone, gender, role, colour and shape it sees, and which
picture of the subgroup. Beside each accuracy stand its 95 % interval, what the judge gets right on real renders and on
the tokenizer's reconstructions of them, and what a constant answer would get. The distance to the renders of the training
set (`rfd_z`, not FID) is measured at every guidance scale.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from torch import Tensor

import nextset
from benchmarks.ab import file_result
from nextset.core.errors import NextsetError
from nextset.core.machine import machine
from nextset.core.noise import Noise
from nextset.data.dataset import open_dataset
from nextset.data.emoji import EmojiSet
from nextset.data.emoji_attributes import held_out
from nextset.data.images import save_png, to_pil
from nextset.judges.attributes import (
    ATTRIBUTES,
    SUBGROUP,
    TOGETHER,
    AttributeJudge,
    Renders,
    load_judge,
    save_judge,
    train_judge,
)
from nextset.judges.comparison import Options, compare
from nextset.judges.sets import ArraySet
from nextset.judges.shares import share

HERE = Path(__file__).parent
TRAINED, HELD = "training names", "held-out combinations"
AIM = 0.85  # of the judge's ceiling, on training names
QUESTIONS = (*ATTRIBUTES, TOGETHER, SUBGROUP)


class Asked(NamedTuple):
    """Prompts of one kind: glyphs int64 (N,), an index into the set for each prompt; a prompt may come several times."""

    glyphs: np.ndarray
    prompts: list[str]


def ask(emoji: EmojiSet, names: int, per_name: int, per_held: int, words: str, seed: int) -> dict[str, Asked]:
    """Prompts of both kinds. emoji: with phrases. names: how many training names, 0 for all. words: "name" for Unicode's
    name, "any" for one of its paraphrases, drawn for each picture."""
    noise = Noise(seed, "prompts")
    kept = np.array([held_out(g) for g in emoji.glyphs])
    trained = np.flatnonzero(~kept)
    some = np.sort(trained[noise.permutation(len(trained)).numpy()[: names or len(trained)]])
    asked = {}
    for kind, glyphs in ((TRAINED, np.repeat(some, per_name)), (HELD, np.repeat(np.flatnonzero(kept), per_held))):
        u = noise.of(kind).uniform(torch.arange(len(glyphs)), torch.zeros(1, dtype=torch.int64))[:, 0].tolist()
        lines = [emoji.captions[g].split("\n") for g in glyphs]
        asked[kind] = Asked(
            glyphs, [ls[int(x * len(ls)) if words == "any" else 0] for ls, x in zip(lines, u, strict=True)]
        )
    return asked


def ceilings(judge: AttributeJudge, emoji: EmojiSet, glyphs: np.ndarray, tokenizer: Any) -> list[dict[str, np.ndarray]]:
    """What the judge gets right on real renders that it never saw in this wear, and on their reconstructions."""
    index = torch.from_numpy(glyphs)
    renders = Renders(emoji, judge.config, Noise(judge.config.seed, "attributes/ceiling"))
    images = [renders(part, at) for part, at in zip(index.split(250), torch.arange(len(index)).split(250), strict=True)]
    found = [judge.right(torch.cat(images), glyphs)]
    if tokenizer is not None:
        with torch.no_grad():
            again = [tokenizer.decode(tokenizer.encode(emoji.images(part))).float().cpu() for part in index.split(50)]
        found.append(judge.right(torch.cat(again), glyphs))
    return found


def rows_of(
    judge: AttributeJudge, glyphs: np.ndarray, right: dict[str, np.ndarray], real: Sequence[dict[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """A row for each question that applies to any of the prompts."""
    chance, rows = judge.chance(glyphs), []
    for question in QUESTIONS:
        found = share(right[question], glyphs)
        if found is None:
            continue
        tops = [float(np.nanmean(r[question])) for r in real]
        rows.append(
            {
                "question": question,
                **dataclasses.asdict(found),
                "ceiling": tops[0],
                "ceiling_of_tokenizer": tops[1] if len(tops) > 1 else None,
                "chance": chance[question],
                "of_ceiling": found.value / tops[0] if tops[0] else math.nan,
            }
        )
    return rows


def measure(
    pipe: Any,
    judge: AttributeJudge,
    emoji: EmojiSet,
    asked: dict[str, Asked],
    guidance: float | None,
    real: dict[str, list[dict[str, np.ndarray]]],
    *,
    seed: int = 0,
    batch: int = 32,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """One guidance scale (None: the model's own): the record, and the pictures of each kind (N, 3, H, W)."""
    settings = {} if guidance is None else {"guidance_scale": guidance}
    record: dict[str, Any] = {"guidance": guidance}
    made: dict[str, Tensor] = {}
    for number, (kind, a) in enumerate(asked.items()):
        made[kind] = pipe(a.prompts, seed=seed + number, batch=batch, **settings).tensors.float().cpu()
        record[kind] = rows_of(judge, a.glyphs, judge.right(made[kind], a.glyphs), real[kind])
    trained = torch.tensor([not held_out(g) for g in emoji.glyphs]).nonzero()[:, 0]
    reference = ArraySet.of_images(emoji.images(trained), name="renders of the training set")
    pictures = ArraySet.of_images(made[TRAINED], name="made of training names")
    figure = compare(pictures, reference, ("rfd_z",), Options(n=len(pictures), n_reference=0))["rfd_z"]
    record["rfd_z"] = {k: getattr(figure, k) for k in ("value", "n", "n_reference", "floor")}
    return record, made


def aims(record: dict[str, Any]) -> list[str]:
    """What was aimed for, and whether it was reached, a line a question."""
    lines = []
    for row in record[TRAINED]:
        word = "reached" if row["of_ceiling"] >= AIM else "missed"
        lines.append(f"{word}: {TRAINED}, {row['question']}: {row['of_ceiling']:.0%} of the ceiling, aim {AIM:.0%}")
    for row in record[HELD]:
        word = "reached" if row["low"] > row["chance"] else "missed"
        lines.append(f"{word}: {HELD}, {row['question']}: at least {row['low']:.0%}, chance {row['chance']:.0%}")
    return lines


def show(console: Console, record: dict[str, Any]) -> None:
    """The tables of one guidance scale."""
    fd = record["rfd_z"]
    floor = "unknown" if fd["floor"] is None else f"{fd['floor']:.3g}"
    console.print(
        f"guidance {record['guidance'] if record['guidance'] is not None else 'of the model'}: rfd_z {fd['value']:.4g}, "
        f"n = {fd['n']:,} against {fd['n_reference']:,}, floor {floor}"
    )
    for kind in (TRAINED, HELD):
        table = Table(
            "question", "n", "prompts", "accuracy", "95 %", "ceiling", "through tokenizer", "chance", "of ceiling"
        )
        table.title = kind
        for r in record[kind]:
            through = "" if r["ceiling_of_tokenizer"] is None else f"{r['ceiling_of_tokenizer']:.1%}"
            values = (f"{r['value']:.1%}", f"{r['low']:.1%} to {r['high']:.1%}", f"{r['ceiling']:.1%}", through)
            counts = (f"{r['n']:,}", f"{r['prompts']:,}")
            table.add_row(r["question"], *counts, *values, f"{r['chance']:.1%}", f"{r['of_ceiling']:.0%}")
        console.print(table)


def plot(records: Sequence[dict[str, Any]], path: Path) -> None:
    """rfd_z, and accuracy of what both kinds have in common, over the guidance scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    left, right = figure.subplots(1, 2)
    at = [r["guidance"] for r in records]
    left.plot(at, [r["rfd_z"]["value"] for r in records], "o-", color="#2f7fd6", label="made of training names")
    if records[0]["rfd_z"]["floor"] is not None:
        left.plot(
            at, [r["rfd_z"]["floor"] for r in records], "--", color="#7a7f87", label="floor: two samples of renders"
        )
    left.set(xlabel="guidance scale", ylabel=f"rfd_z, n = {records[0]['rfd_z']['n']:,}", ylim=(0, None))
    for kind, color in ((TRAINED, "#1a9870"), (HELD, "#d9622b")):
        for question, mark in ((TOGETHER, "o-"), (SUBGROUP, "s:")):
            rows = [next((row for row in r[kind] if row["question"] == question), None) for r in records]
            found = [(g, row) for g, row in zip(at, rows, strict=True) if row]
            x, values = [g for g, _ in found], [row["value"] for _, row in found]
            right.plot(x, values, mark, color=color, label=f"{kind}: {question}")
            right.fill_between(
                x, [r["low"] for _, r in found], [r["high"] for _, r in found], color=color, alpha=0.15, lw=0
            )
    right.set(xlabel="guidance scale", ylabel="accuracy by the judge", ylim=(0, 1))
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def sheet(emoji: EmojiSet, asked: dict[str, Asked], made: dict[str, Tensor], lines: int = 14) -> Image.Image:
    """Held-out prompts on the left, training names on the right: the real render, and beside it up to four made ones."""
    side, gap, label = emoji.size, 4, 230
    wide = label + 5 * (side + gap) + 24
    out = Image.new("RGB", (2 * wide, lines * (side + gap) + 28), "white")
    draw, font = ImageDraw.Draw(out), ImageFont.load_default(12)
    for column, kind in enumerate((HELD, TRAINED)):
        a, x = asked[kind], column * wide + 8
        draw.text((x, 8), f"{kind}: real, then made", fill="black", font=font)
        glyphs = np.unique(a.glyphs)
        for line, glyph in enumerate(glyphs[np.linspace(0, len(glyphs) - 1, min(lines, len(glyphs))).astype(int)]):
            y = 28 + line * (side + gap)
            head, _, tail = emoji.captions[glyph].split("\n")[0].partition(": ")
            draw.text((x, y + side // 2 - 14), f"{head}\n{tail}", fill="black", font=font)
            pictures = [emoji.images(torch.tensor([int(glyph)]))[0], *made[kind][np.flatnonzero(a.glyphs == glyph)[:4]]]
            for i, picture in enumerate(pictures):
                out.paste(to_pil(picture), (x + label + i * (side + gap) + (8 if i else 0), y))
    return out


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench prompt-fidelity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--judge", type=Path, help="a judge's file; one is trained, and kept beside --out, without it")
    parser.add_argument(
        "--scales-of-guidance",
        dest="guidance",
        type=float,
        nargs="+",
        help="scales of guidance; the model's own without it",
    )
    parser.add_argument("--names", type=int, default=600, help="how many training names; 0 for all")
    parser.add_argument("--per-prompt", type=int, default=1, help="pictures of a training name")
    parser.add_argument("--per-held-out", type=int, default=4)
    parser.add_argument("--words", choices=("name", "any"), default="name", help="Unicode's name, or any paraphrase")
    parser.add_argument("--variants", type=int, default=18, help="as in the recipe of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "prompt-fidelity.json")
    parser.add_argument("--pictures", type=Path, default=HERE.parent / "docs" / "images" / "prompt-fidelity")
    options = parser.parse_args(arguments)
    console = Console(highlight=False, soft_wrap=True)
    emoji = open_dataset("emoji", size=64, variants=options.variants, captions="phrases")
    assert isinstance(emoji, EmojiSet)
    pipe: Any = nextset.load(options.model)
    if options.judge:
        judge = load_judge(options.judge)
        if judge.glyphs != emoji.glyphs:
            raise NextsetError(f"{options.judge} learned from another set of emoji; leave out --judge to train one")
    else:
        console.print(f"training a judge on {len(emoji):,} renders")
        judge = train_judge(emoji)
        console.print(f"kept as {save_judge(options.out.parent, judge)}")
    asked = ask(emoji, options.names, options.per_prompt, options.per_held_out, options.words, options.seed)
    real = {kind: ceilings(judge, emoji, a.glyphs, getattr(pipe, "tokenizer", None)) for kind, a in asked.items()}
    command = " ".join(["nextset bench prompt-fidelity --", *arguments])
    result: dict[str, Any] = {"machine": machine(command), "model": options.model, "scales": []}
    for guidance in options.guidance or [None]:
        record, made = measure(pipe, judge, emoji, asked, guidance, real, seed=options.seed, batch=options.batch)
        result["scales"].append({**record, "aims": aims(record)})
        show(console, record)
        console.print("\n".join(aims(record)))
        file_result(options.out, result)
        name = "sheet.png" if guidance is None else f"sheet-{guidance:g}.png"
        console.print(f"drawn in {save_png(sheet(emoji, asked, made), options.pictures / name)}")
    if options.guidance:
        plot(result["scales"], options.pictures / "guidance.png")
    console.print(f"filed in {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
