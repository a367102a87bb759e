"""Nothing in `src/` outside a system's own folder and its catalogue record knows the system, but systems that change it.

Slugs are looked for as whole words, as written, in code, strings and comments. Data may name systems: other records of
the catalogue (their bases) and `assets/defaults.toml` (the default checkpoint). A source may be cited as "sheet `slug`",
because a formula needs one.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "src" / "nextset"
SLUGS = sorted(path.stem for path in (ROOT / "assets" / "catalogue").glob("*.toml"))
TEXT = (".py", ".toml", ".md", ".json")

# Slugs that are also words: English ("survey", "ear", "hack", "mar"), a radar ("sar"). In prose they mean the word;
# where a system is meant, the slug stands in quotes or in a path, and only that is looked for.
ALSO_WORDS = ("ear", "hack", "mar", "sar", "survey")
# A slug that is also a function: `x.var(...)` and `torch.var(...)` are the variance.
VARIANCE = r"(?!(?<=\.var)\()"


def pattern(slug: str) -> re.Pattern[str]:
    """What counts as naming a system. `my_var`, `covar` and `emoji-var` (a checkpoint) do not, `var-emoji` does."""
    if slug in ALSO_WORDS:
        return re.compile(rf"""(?<=["'`/.]){slug}(?=["'`/.:])""")
    return re.compile(rf"(?<![\w-]){slug}(?!\w)" + (VARIANCE if slug == "var" else ""))


def named(slug: str, text: str) -> list[str]:
    """The lines of a text that name a system."""
    return [
        line.strip() for line in text.splitlines() if pattern(slug).search(re.sub(r"[Ss]heets? `\w+`", "sheet", line))
    ]


def built_on(slug: str) -> set[str]:
    """The systems that change this one, or one of those: their folders import from its folder."""
    records = (ROOT / "assets" / "catalogue").glob("*.toml")
    bases = {path.stem: set(tomllib.loads(path.read_text(encoding="utf-8"))["base"]) for path in records}
    found: set[str] = set()
    while new := {s for s, base in bases.items() if base & {slug, *found}} - found:
        found |= new
    return found


def sources(slug: str) -> list[Path]:
    """Every text file of the package but those where the slug is at home, and data about systems."""
    homes = [*(ROOT / "systems" / s for s in (slug, *built_on(slug))), ROOT / "assets", ROOT / "recipes"]
    files = [path for path in ROOT.rglob("*") if path.suffix in TEXT and path.is_file()]
    return sorted(path for path in files if not any(home in path.parents for home in homes))


@pytest.mark.parametrize(
    ("slug", "line", "is_named"),
    [
        ("var", 'if system == "var":', True),
        ("var", "from nextset.systems.var import Var", True),
        ("var", "see nextset train var-emoji", True),
        ("var", "var = values.var(dim=0) + torch.var(x)", True),  # the name on the left
        ("var", "spread = values.var(dim=0) + torch.var(x)", False),
        ("var", "# cosine attention (sheet `var`, Model)", False),
        ("var", "covar, my_var, VAR cuts by rank first", False),
        ("var", "model = 'emoji-var'", False),
        ("hack", "# no hack is needed here", False),
        ("hack", 'POLICIES = {"hack": Hack}', True),
        ("mar", "from nextset.systems.mar.model import Mar", True),
        ("ear", "hear, early, ear-shaped", False),
        ("tts_var", "tts_var(scores)", True),
        ("tts_var", "tts_variance", False),
    ],
)
def test_what_counts_as_naming(slug: str, line: str, is_named: bool) -> None:
    assert bool(named(slug, line)) == is_named


def test_the_records_are_found() -> None:
    assert {*ALSO_WORDS, "var"} <= set(SLUGS)
    assert len(SLUGS) == 59  # 52 systems and 7 bases


@pytest.mark.parametrize("slug", SLUGS)
def test_only_its_own_places_name_a_system(slug: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sources(slug)
        for line in named(slug, path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)
