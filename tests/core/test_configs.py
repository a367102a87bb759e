"""Configs: checked when made, plain dicts and back."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextset.core.configs import Config
from nextset.core.errors import NextsetError


@dataclasses.dataclass(frozen=True)
class Inner(Config):
    width: int = 8

    def check(self) -> None:
        self.require("width", self.width >= 1, "at least 1")


@dataclasses.dataclass(frozen=True)
class Outer(Config):
    name: str
    inner: Inner = dataclasses.field(default_factory=Inner)
    sides: tuple[int, ...] = (1, 2)
    box: tuple[int, float] = (0, 0.5)
    rate: float = 0.1
    limit: float | None = None
    mode: Literal["a", "b"] = "a"
    flag: bool = False
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    several: tuple[Inner, ...] = ()


@settings(deadline=None)
@given(
    st.integers(1, 99), st.lists(st.integers(-5, 5)), st.floats(allow_nan=False, allow_infinity=False),
    st.none() | st.floats(allow_nan=False, allow_infinity=False), st.sampled_from("ab"), st.booleans(),
)  # fmt: skip
def test_round_trip_through_json(width, sides, rate, limit, mode, flag):
    config = Outer("x", Inner(width), tuple(sides), rate=rate, limit=limit, mode=mode, flag=flag, several=(Inner(3),))
    again = Outer.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and isinstance(again.sides, tuple) and isinstance(again.inner, Inner)
    assert all(isinstance(c, Inner) for c in again.several)


def test_values_are_made_what_the_field_says():
    config = Outer("x", inner={"width": 3}, sides=[4, 5], rate=1, limit=2)
    assert config.inner == Inner(3) and config.sides == (4, 5)
    assert isinstance(config.rate, float) and isinstance(config.limit, float)


@pytest.mark.parametrize(
    "values, text",
    [
        ({"name": 3}, "Outer.name is 3, but must be of type str"),
        ({"name": "x", "rate": "fast"}, "Outer.rate is 'fast', but must be of type float"),
        ({"name": "x", "rate": True}, "Outer.rate is True"),
        ({"name": "x", "sides": [1, "2"]}, "Outer.sides is"),
        ({"name": "x", "sides": [1, True]}, "Outer.sides is"),
        ({"name": "x", "sides": 3}, "Outer.sides is 3"),
        ({"name": "x", "box": [1]}, "Outer.box is"),
        ({"name": "x", "mode": "c"}, "Outer.mode is 'c', but must be of type .*Literal"),
        ({"name": "x", "flag": 1}, "Outer.flag is 1"),
        ({"name": "x", "inner": {"width": 0}}, "Inner.width is 0, but must be at least 1"),
        ({"name": "x", "inner": 3}, "Outer.inner is 3"),
        ({"name": "x", "options": []}, "Outer.options is"),
        ({"name": "x", "sids": [1]}, "Outer has no field 'sids': did you mean 'sides'?"),
        ({"name": "x", "inner": {"widht": 3}}, "Inner has no field 'widht': did you mean 'width'?"),
        ({}, "Outer needs a value for 'name'"),
    ],
)
def test_misfits_name_field_value_and_limit(values, text):
    with pytest.raises(NextsetError, match=text.replace("?", r"\?")) as error:
        Outer.from_dict(values)
    assert "\n" not in str(error.value)


def test_configs_are_frozen_and_replaced_with_checks():
    config = Outer("x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rate = 2.0  # type: ignore[misc]
    assert config.replace(rate=2, inner={"width": 4}) == Outer("x", Inner(4), rate=2.0)
    assert config.rate == 0.1
    with pytest.raises(NextsetError, match="no field 'ratte'"):
        config.replace(ratte=1)
    with pytest.raises(NextsetError, match="at least 1"):
        Inner().replace(width=-1)
