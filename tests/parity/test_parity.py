"""One test per parity case, found by itself; cases that were never seen before run as they are."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from nextset.hub.catalogue import list_systems
from tests.parity.cases import ROOT, compare, folders, read

FOLDERS = folders()


def state_of(slug: str) -> str:
    """The catalogue's word on a system; slugs without a record (the judges) are planned until something handles them."""
    states = {record.slug: record.state for record in list_systems()}  # a broken record must fail, not skip everything
    return states.get(slug, "available" if handlers_of(slug) else "planned")


def handlers_of(slug: str) -> dict:
    try:
        return importlib.import_module(f"tests.parity.handlers_{slug}").HANDLERS
    except ModuleNotFoundError:
        return {}


@pytest.mark.skipif(bool(FOLDERS), reason="cases were found")
def test_cases_are_there() -> None:
    pytest.skip(f"no parity cases under {ROOT}; set NEXTSET_PARITY to their folder")


@pytest.mark.parametrize("folder", FOLDERS, ids=[f"{f.parent.name}-{f.name}" for f in FOLDERS])
def test_case(folder: Path) -> None:
    slug = folder.parent.name
    if state_of(slug) == "planned":
        pytest.skip(f"{slug} is planned, not available")
    case = read(folder)
    kind = case.config["kind"]
    handlers = handlers_of(slug)
    assert kind in handlers, f"{slug} is available, but nothing handles its cases of kind {kind!r}"
    torch.manual_seed(0)
    with torch.no_grad():
        compare(case, handlers[kind](case))
