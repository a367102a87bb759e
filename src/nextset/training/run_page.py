"""Run page: one training run, or several side by side, as a single HTML file that needs no network and no script.

It arranges what `run_record` read, `run_charts` drew and `advice` found. Names and texts of a run are anybody's, so all
of them are escaped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from statistics import median

from nextset import __version__
from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write
from nextset.training.advice import RULES, Advice, advice
from nextset.training.charts import COLOURS
from nextset.training.report import duration
from nextset.training.run_charts import Metric, Shown, code_cards, last_part, loss_cards, speed_cards
from nextset.training.run_record import DataRecord, RunRecord, read_run, recipe_lines
from nextset.training.run_samples import choose

_SAMPLES = 8  # grids of one run; fewer of each when several are compared
_SAMPLES_SIZE = 3_000_000  # characters of all grids together
_LISTED = 500  # lines of a list that may be long


def write_page(folders: Sequence[Path], out: Path) -> Path:
    """Write the page of runs to `out`, and return it. Raises NextsetError if a folder is no run. Needs matplotlib."""
    if len(folders) > len(COLOURS):
        raise NextsetError(f"{len(folders)} runs were given, but a chart tells {len(COLOURS)} apart; give fewer")
    text = page([read_run(folder) for folder in folders], time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
    with atomic_write(out) as handle:
        handle.write(text.encode(errors="replace"))  # names of files need not be text
    return out


def page(records: Sequence[RunRecord], made: str) -> str:
    """The HTML of runs, one or several. made: when, as text."""
    short = [run.folder.resolve().name for run in records]
    names = short if len(set(short)) == len(short) else [str(run.folder) for run in records]
    runs = [Shown(run, name, colour) for run, name, colour in zip(records, names, COLOURS, strict=False)]
    remarks = [(shown, remark) for shown in runs for remark in advice(shown.run)]
    parts = (
        ("overview", "Overview", _overview(runs, [remark for _, remark in remarks])),
        ("samples", "Samples", _samples(runs)),
        ("losses", "Losses and quality", _grid(loss_cards(runs))),
        ("codes", "Codes by scale", _grid(code_cards(runs))),
        ("speed", "Gradients, learning rate, throughput", _grid(speed_cards(runs))),
        ("data", "Data", _data(runs)),
        ("checkpoints", "Checkpoints", _checkpoints(runs)),
        ("recipe", "Recipe", _recipe(runs)),
    )
    body = ""
    for name, title, content in parts:
        found = [(shown, remark.text) for shown, remark in remarks if remark.about == name]
        lines = [f"{f'{shown.key}: ' if len(runs) > 1 else ''}{escape(text)}" for shown, text in found]
        box = f'<ul class="advice"><li>{"</li><li>".join(lines)}</li></ul>' if lines else ""
        if content or box:
            body += f'<section id="{name}"><h2>{title}</h2>{box}{content}</section>\n'
    style = resources.files("nextset.training").joinpath("run_page.css").read_text(encoding="utf-8")
    title = escape(" and ".join(names))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} - nextset report</title><style>\n{style}</style></head><body>\n"
        f"<header><p>nextset report</p><h1>{title}</h1></header>\n<main>\n{body}</main>\n"
        f"<footer>Made {escape(made)} by nextset {__version__}.</footer>\n</body></html>\n"
    )


def _overview(runs: Sequence[Shown], remarks: Sequence[Advice]) -> str:
    """Facts, one column a run, and what the rules found."""
    facts = [_facts(shown.run) for shown in runs]
    names = dict.fromkeys(name for found in facts for name in found)
    rows = [[escape(name), *(found.get(name, "") for found in facts)] for name in names]
    table = _table(["", *(shown.key for shown in runs)] if len(runs) > 1 else [], rows)
    where = ", ".join(f'<a href="#{about}">{about}</a>' for about in dict.fromkeys(r.about for r in remarks))
    n = len(remarks)
    found = f"<b>{n} remark{'s' if n > 1 else ''}</b>: see {where}." if n else "No rule found anything to remark."
    rules = "".join(f"<li>{escape(rule.says)}</li>" for rule in RULES)
    return (
        f'<div class="facts"><div class="card">{table}</div><div class="card"><p>{found}</p>'
        "<p>Rules see numbers only: look at the samples.</p>"
        f"<details><summary>What is looked at</summary><ul>{rules}</ul></details>"
        "<p>In the charts, what was logged is thin, and its running mean over a 25th of the lines is thick.</p></div></div>"
    )


def _facts(run: RunRecord) -> dict[str, str]:
    """What a person wants to know first; values are HTML."""
    ending = run.ending
    seen = run.step * run.setting("train.batch", int, 0) * run.setting("train.accumulate", int, 1)
    epochs = f", {seen / run.data.pictures:,.1f} epochs" if run.data and run.data.pictures else ""
    speed = run.series("images_per_second")[1]
    facts = {
        "state": f'<span class="state {ending.word.replace(" ", "-")}">{ending.word}</span> {escape(ending.line)}',
        "trained": escape(" ".join(run.setting(name, str, "") for name in ("system", "kind")).strip()),
        "samples seen": f"{seen:,}{epochs}" if seen else "",
        "time": duration(run.elapsed) if run.elapsed else "",
        "throughput": f"{median(speed):.3g} images/s (median)" if speed else "",
        "folder": f"<code>{escape(str(run.folder))}</code>",
    }
    for name in run.names():
        if last_part(name) in ("loss", "psnr", "ce", "accuracy"):
            metric = Metric.of(name)
            facts[name] = f"{metric.written(run.series(name)[1][-1])} {metric.unit}"
    return {name: value for name, value in facts.items() if value}


def _samples(runs: Sequence[Shown]) -> str:
    """A strip of grids for each run. A grid that is the target of a link fills the window."""
    strips = ""
    for r, shown in enumerate(runs):
        chosen = choose(shown.run.samples, max(3, _SAMPLES // len(runs)), _SAMPLES_SIZE // len(runs))
        figures = ""
        for i, sample in enumerate(chosen):
            small = ' class="pixels"' if sample.width < 800 else ""
            before = f'<a class="before" href="#sample-{r}-{i - 1}">&lsaquo;</a>' if i else ""
            after = f'<a class="after" href="#sample-{r}-{i + 1}">&rsaquo;</a>' if i + 1 < len(chosen) else ""
            figures += (
                f'<div class="sample" style="aspect-ratio: {sample.width} / {sample.height * 1.08:.0f}">'
                f'<figure id="sample-{r}-{i}"><a class="close" href="#samples" aria-label="back"></a>'
                f'<a href="#sample-{r}-{i}"><img{small} alt="samples of step {sample.step}" src="{sample.uri}"></a>'
                f"<figcaption>step {sample.step:,}</figcaption>{before}{after}</figure></div>"
            )
        if figures:
            strips += f'{_heading(shown, runs)}<div class="strip">{figures}</div>'
    kinds = {shown.run.setting("kind", str, "") for shown in runs}
    pairs = " Each picture stands left of its reconstruction." if kinds == {"tokenizer"} else ""
    return f"<p>Click to enlarge.{pairs}</p>{strips}" if strips else ""


def _data(runs: Sequence[Shown]) -> str:
    text = ""
    for shown in runs:
        data = shown.run.data
        text += _heading(shown, runs)
        text += _about_data(data) if data else "<p>The folder says nothing about its data: it has no data.json.</p>"
    return text


def _about_data(data: DataRecord) -> str:
    size = f" of {data.size} pixels a side" if data.size else ""
    captions = f", {data.captions:,} captions" if data.captions else ""
    counts = [f"{name}: {n:,}" for name, n in sorted(data.classes.items(), key=lambda item: -item[1])]
    return (
        f"<p>{data.pictures:,} pictures{size} from <code>{escape(data.source)}</code>{captions}.</p>"
        + _folded(f"{len(data.skipped):,} files were left out", data.skipped)
        + _folded(f"{sum(data.converted.values()):,} conversions", [f"{k}: {n:,}" for k, n in data.converted.items()])
        + _folded(f"{len(counts):,} classes, by size", counts)
    )


def _checkpoints(runs: Sequence[Shown]) -> str:
    rows = []
    for shown in runs:
        key = [shown.key] if len(runs) > 1 else []
        for saved in shown.run.saved:
            rows.append([*key, f"<code>{escape(saved.name)}</code>", f"{saved.step:,}", f"{saved.bytes / 1e6:,.1f} MB"])
        if shown.run.published:
            rows.append([*key, "<code>model</code>", "published", ""])
    head = [*(["run"] if len(runs) > 1 else []), "folder", "step", "size"]
    return f'<div class="card fit">{_table(head, rows)}</div>' if rows else "<p>There is none yet.</p>"


def _recipe(runs: Sequence[Shown]) -> str:
    """A table for each section, a column for each run; what differs between runs is marked."""
    lines = [recipe_lines(shown.run.recipe) for shown in runs]
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for found in lines for name in found):
        groups.setdefault(name.split(".")[0] if "." in name else "", []).append(name)
    cards = ""
    for group, names in groups.items():
        rows = []
        for name in names:
            values = [escape(found.get(name, "")) for found in lines]
            if len(set(values)) > 1:
                values = [f"<mark>{value}</mark>" if value else "" for value in values]
            rows.append([f"<code>{escape(name.removeprefix(f'{group}.'))}</code>", *values])
        head = [f"[{escape(group)}]" if group else "", *(shown.key if len(runs) > 1 else "" for shown in runs)]
        cards += f'<div class="card">{_table(head, rows)}</div>'
    return f'<div class="recipe">{cards}</div>' if cards else "<p>Not known: the first checkpoint brings it.</p>"


def _heading(shown: Shown, runs: Sequence[Shown]) -> str:
    return f"<h3>{shown.key}</h3>" if len(runs) > 1 else ""


def _grid(cards: Sequence[str]) -> str:
    return f'<div class="grid">{"".join(cards)}</div>' if cards else ""


def _folded(title: str, lines: Sequence[str]) -> str:
    """A list under a title, open where it is short."""
    if not lines:
        return f"<p>{escape(title)}.</p>"
    items = "".join(f"<li>{escape(line)}</li>" for line in lines[:_LISTED])
    more = f"<li>and {len(lines) - _LISTED:,} more</li>" if len(lines) > _LISTED else ""
    return f"<details{' open' if len(lines) <= 20 else ''}><summary>{escape(title)}</summary><ul>{items}{more}</ul></details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML."""
    top = f"<thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{top}<tbody>{body}</tbody></table>"
