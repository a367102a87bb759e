"""`nextset systems` and `nextset describe`: the catalogue in a terminal."""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from nextset.hub import catalogue


def systems(
    family: Annotated[str | None, typer.Option(help="pixel, token, scale, hybrid or other.")] = None,
    task: Annotated[str | None, typer.Option(help="For example class-to-image, editing, video.")] = None,
    role: Annotated[str | None, typer.Option(help="For example generator, tokenizer, cache-policy, search.")] = None,
    base: Annotated[str | None, typer.Option(help="Slug of the system that they stand on.")] = None,
    state: Annotated[str | None, typer.Option(help="available or planned.")] = None,
    search: Annotated[str | None, typer.Option(help="A word of slug, title or description.")] = None,
    tree: Annotated[bool, typer.Option("--tree", help="The taxonomy with counts.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Records as JSON.")] = False,
) -> None:
    """List the systems of the catalogue.

    Examples: nextset systems --state available; nextset systems --family scale --task editing; nextset systems --tree
    """
    records = catalogue.list_systems(state=state, base=base, search=search, family=family, task=task, role=role)
    out = Console()
    if as_json:
        print(json.dumps(catalogue.to_json(records), indent=2, ensure_ascii=False))
    elif tree:
        root = Tree(f"[bold]{len(records)} records[/bold]")
        for axis, words in catalogue.AXES.items():
            counts = Counter(w for r in records for w in r.axes.words(axis))
            branch = root.add(f"[bold]{axis}[/bold]")
            for word in words:
                if counts[word]:
                    branch.add(f"{word}  [dim]{counts[word]}[/dim]")
        out.print(tree_or_nothing(root, len(records)))
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("system", no_wrap=True)
        for title in ("state", "family", "stands on"):
            table.add_column(title, no_wrap=True)
        table.add_column("what it changes")
        for r in records:
            style = "green" if r.state == "available" else "dim"
            table.add_row(
                r.slug,
                f"[{style}]{r.state}[/{style}]",
                r.axes.family,
                ", ".join(r.base) or ("base" if r.is_base else ""),
                r.changes,
            )
        out.print(table if records else "no system matches; loosen a filter")
        if records:
            available = sum(r.state == "available" for r in records)
            out.print(f"[dim]{len(records)} records, {available} available; nextset describe SLUG says more[/dim]")


def tree_or_nothing(tree: Tree, count: int) -> Tree | str:
    """The tree, or a line that says that nothing matched."""
    return tree if count else "no system matches; loosen a filter"


def describe(
    slug: Annotated[str, typer.Argument(help="Slug of a system.")],
    other: Annotated[str | None, typer.Argument(help="Another one, to see how they differ.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The record as JSON.")] = False,
) -> None:
    """Show one system, or how two differ.

    Examples: nextset describe SLUG; nextset describe SLUG OTHER
    """
    record = catalogue.get_record(slug)
    out = Console()
    if other is not None:
        second = catalogue.get_record(other)
        table = Table("axis", record.slug, second.slug, box=None, pad_edge=False, header_style="bold")
        for axis, (a, b) in catalogue.differences(record, second).items():
            table.add_row(axis, ", ".join(a), ", ".join(b))
        out.print(table if table.row_count else f"{slug} and {other} stand at the same place on every axis")
        return
    if as_json:
        print(json.dumps(record.to_dict(), indent=2, ensure_ascii=False))
        return
    out.print(f"[bold]{record.slug}[/bold]  {record.title}")
    out.print(record.changes)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    rows = {
        "state": record.state + (" (a base of others)" if record.is_base else ""),
        "stands on": ", ".join(record.base),
        "carries": ", ".join(r.slug for r in catalogue.list_systems(base=slug)),
        **{axis: ", ".join(record.axes.words(axis)) for axis in catalogue.AXES},
        "can": ", ".join(record.capabilities),
        "paper": record.citation,
        "code": f"{record.repo} @ {record.repo_commit}" if record.repo_commit else record.repo,
        "licences": f"code: {record.code_licence}; weights: {record.weights_licence}",
        "plan": f"{record.plan.family}, {record.plan.steps} forwards an image" if record.plan else "",
        "tokenizer": f"{record.tokenizer.kind}, {record.tokenizer.stride} pixels a cell, {record.tokenizer.tokens_256} tokens at 256 pixels"
        if record.tokenizer
        else "",
        "page": f"docs/{record.doc}" if record.doc else "",
        "try": record.example,
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    out.print(table)
    if record.sizes:
        sizes = Table(
            "size", "parameters", "depth", "width", "pixels", "file", box=None, pad_edge=False, header_style="bold"
        )
        for s in record.sizes:
            sizes.add_row(s.name, f"{s.params:,}", str(s.depth), str(s.width), str(s.pixels), s.file)
        out.print(sizes)
    for number in record.numbers:
        out.print(
            f"{number.metric} {number.value:g}  [dim]{number.setting}; {number.source}{', ' + number.note if number.note else ''}[/dim]"
        )
    for limit in record.limits:
        out.print(f"[yellow]limit[/yellow] {limit}")
