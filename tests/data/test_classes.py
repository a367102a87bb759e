"""Labels become numbers and names, or one line says why not."""

from __future__ import annotations

import pytest

from nextset.core.errors import NextsetError
from nextset.data.classes import label_of, number


def test_names_are_sorted_and_numbers_are_indices() -> None:
    assert number(["b", "a", "b"], "x") == ([1, 0, 1], ["a", "b"])
    assert number([3, 0, 3], "x") == ([3, 0, 3], ["0", "1", "2", "3"])
    assert number([None, None], "x") == ([0, 0], ["all"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", None, "a"], "set: 1 of 3 pictures have no label"),
        ([1, "a"], r"partly numbers \(1\) and partly names \('a'\)"),
        ([0, -1], "a label is -1"),
        ([0, 10**9], "a label is 1000000000"),
    ],
)
def test_what_does_not_fit_together(labels: list[int | str | None], message: str) -> None:
    with pytest.raises(NextsetError, match=message):
        number(labels, "set")


def test_labels_written_as_text() -> None:
    written = (" 12\n", "cat", "", "-1", "\u0663", "1" * 30)
    assert [label_of(text) for text in written] == [12, "cat", None, "-1", "\u0663", "1" * 30]
