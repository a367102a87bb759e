"""What is said of a licence on load."""

from __future__ import annotations

from pathlib import Path

import pytest

from nextset.core.errors import NextsetWarning
from nextset.hub import pretrained
from nextset.hub.catalogue import get_record, load_records
from nextset.hub.licences import licence_entries
from tests.tiny import tiny_model


def test_permissive_licences_are_written_down_and_not_said() -> None:
    assert licence_entries(get_record("var")) == {"licence": "MIT"}
    assert "licence_notice" not in licence_entries(get_record("mvar"))


def test_a_licence_that_forbids_something_is_said_on_load(tmp_path: Path) -> None:
    record = get_record("hmar")
    folder = pretrained.save(tmp_path / "model", tiny_model(), **licence_entries(record))
    with pytest.warns(NextsetWarning, match="weights of hmar are under 'NVIDIA One-Way Noncommercial License'"):
        loaded = pretrained.load(folder)
    assert loaded.info["licence"] == record.weights_licence


def test_so_is_one_that_nobody_states() -> None:
    assert "all rights reserved" in licence_entries(get_record("m_var"))["licence_notice"]


def test_every_notice_is_one_line() -> None:
    for record in load_records().values():
        assert "\n" not in licence_entries(record).get("licence_notice", "")
