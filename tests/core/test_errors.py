"""Errors are one line with value, limit and remedy."""

from __future__ import annotations

import math

import pytest

from nextset.core.errors import NextsetError, check_range, nearest


@pytest.mark.parametrize(
    "value, low, high, limit",
    [
        (-1, 0, None, "at least 0"),
        (3, None, 2, "at most 2"),
        (3, 0, 2, "between 0 and 2"),
        (math.nan, 0, 2, "between 0 and 2"),
        (math.nan, None, 2, "at most 2"),
    ],
)
def test_out_of_range(value, low, high, limit):
    with pytest.raises(NextsetError) as error:
        check_range("scale", value, low, high, remedy="1 is usual")
    text = str(error.value)
    assert text == f"scale is {value}, but must be {limit}; 1 is usual" and "\n" not in text


@pytest.mark.parametrize(
    "value, low, high", [(0, 0, None), (2, 0, 2), (0, 0, 2), (-math.inf, None, 2), (5, None, None)]
)
def test_bounds_belong_to_the_range(value, low, high):
    check_range("scale", value, low, high)


def test_an_error_is_a_value_error():
    assert issubclass(NextsetError, ValueError)


def test_nearest_name():
    known = ["red apple", "green apple", "heart"]
    assert nearest("haert", known) == "did you mean 'heart'?"
    assert nearest("HEART", known) == "did you mean 'heart'?", "case does not matter"
    assert nearest("apple", known) == "did you mean 'red apple' or 'green apple'?", "parts of names are found"
    assert nearest("xyzzy", known) == "known: red apple, green apple, heart"
    assert nearest("q", [str(i) for i in range(20)]).endswith(", ..."), "a long list is cut"
    assert nearest("x", []) == "known: "
