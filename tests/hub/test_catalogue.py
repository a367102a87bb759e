"""The catalogue: whole, in its own words, and answerable."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextset.core.errors import NextsetError
from nextset.hub import catalogue
from nextset.hub.catalogue_page import page

ROOT = Path(__file__).resolve().parents[2]


def test_52_systems_and_7_bases() -> None:
    records = catalogue.load_records().values()
    assert sum(not r.is_base for r in records) == 52
    assert sorted(r.slug for r in records if r.is_base) == [
        "flextok",
        "infinity",
        "janus_pro",
        "llamagen",
        "magi1",
        "mar",
        "self_forcing",
    ]


def test_bases_have_no_cycles() -> None:
    def climb(slug: str, seen: tuple[str, ...]) -> None:
        assert slug not in seen, f"{' -> '.join(seen)} -> {slug}"
        for base in catalogue.get_record(slug).base:
            climb(base, (*seen, slug))

    for slug in catalogue.load_records():
        climb(slug, ())


def test_every_record_says_what_it_changes_in_one_sentence() -> None:
    for record in catalogue.load_records().values():
        assert record.changes.endswith(".") and len(record.changes) < 200, record.slug
        assert 2010 < record.year < 2100


def test_available_systems_can_be_imported() -> None:
    from nextset.hub.pretrained import system_class

    available = catalogue.list_systems(state="available")
    assert available
    for record in available:
        assert system_class(record.slug).slug == record.slug
        assert (ROOT / "docs" / record.doc).exists()


def test_filters() -> None:
    assert all("infinity" in r.base for r in catalogue.list_systems(base="infinity"))
    assert all("editing" in r.axes.task for r in catalogue.list_systems(task="editing"))
    assert [r.slug for r in catalogue.list_systems(search="zoom")] == ["just_zoom_in"]
    assert not catalogue.list_systems(family="pixel")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: catalogue.get_record("vra"), "did you mean 'var'"),
        (lambda: catalogue.list_systems(family="scales"), "did you mean 'scale'"),
        (lambda: catalogue.list_systems(state="done"), "available or planned"),
        (lambda: catalogue.list_systems(base="nothing"), "no system is called"),
        (lambda: catalogue.list_systems(colour="red"), "no axis"),
    ],
)
def test_unknown_words_are_answered_with_the_nearest(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NextsetError, match=message):
        call()


def test_the_page_is_that_of_the_records() -> None:
    assert (ROOT / "docs" / "systems" / "index.md").read_text() == page()
