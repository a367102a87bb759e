"""The catalogue as a page of the documentation: `python -m nextset.hub.catalogue_page > docs/systems/index.md`."""

from __future__ import annotations

from nextset.hub.catalogue import AXES, list_systems

_TITLES = {
    "scale": "Next scale",
    "token": "Next token and relatives",
    "hybrid": "Between families",
    "other": "Beyond pictures",
    "pixel": "Next pixel",
}


def page() -> str:
    """Markdown with one table a family, made from the records."""
    everything = list_systems()
    systems = [r for r in everything if not r.is_base]
    lines = [
        "# Systems",
        "",
        f"{len(systems)} published systems, and {len(everything) - len(systems)} bases that others stand on. "
        f"{sum(r.state == 'available' for r in everything)} available today. This page is made from the catalogue's records; "
        "`nextset systems` and `nextset describe SLUG` show the same in a terminal.",
    ]
    for family in AXES["family"]:
        members = [r for r in everything if r.axes.family == family]
        if not members:
            continue
        lines += [
            "",
            f"## {_TITLES[family]}",
            "",
            "| system | state | role | stands on | what it changes | paper |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        for r in members:
            name = f"[{r.slug}]({r.doc.removeprefix('systems/')})" if r.doc else r.slug
            paper = f"[{r.arxiv}](https://arxiv.org/abs/{r.arxiv})" if r.arxiv else r.title
            role = ", ".join(r.axes.role) + (" (base)" if r.is_base else "")
            lines.append(f"| {name} | {r.state} | {role} | {', '.join(r.base)} | {r.changes} | {paper} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
