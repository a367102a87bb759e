"""Configs: one frozen dataclass per component, checked when it is made.

A config knows no file and no component; it turns into a plain dict and back. Unknown fields are refused with the
nearest known name, so that a typo in a recipe or a `config.json` is found before anything is allocated.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Self

from nextset.core.errors import NextsetError, nearest


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of all configs. Subclasses are frozen dataclasses; `check` is called at construction."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _coerce(getattr(self, field.name), hints[field.name])
            if value is _MISFIT:
                raise NextsetError(
                    f"{type(self).__name__}.{field.name} is {getattr(self, field.name)!r}, "
                    f"but must be of type {_type_name(hints[field.name])}"
                )
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raise `NextsetError` through `require` where values do not fit together."""

    def require(self, field: str, ok: bool, limit: str) -> None:
        """Refuse the value of `field` unless `ok`; `limit` says what is allowed."""
        if not ok:
            raise NextsetError(f"{type(self).__name__}.{field} is {getattr(self, field)!r}, but must be {limit}")

    def to_dict(self) -> dict[str, Any]:
        """A plain dict (tuples become lists) that JSON and TOML can hold."""
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config of a dict; unknown and missing fields are refused by name."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                raise NextsetError(f"{cls.__name__} has no field {name!r}: {nearest(name, fields)}")
        for name, field in fields.items():
            no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if no_default and name not in values:
                raise NextsetError(f"{cls.__name__} needs a value for {name!r}")
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed (and checked again)."""
        return type(self).from_dict({**{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}, **changes})


_MISFIT = object()


def _coerce(value: Any, hint: Any) -> Any:
    """`value` as `hint` wants it (list -> tuple, int -> float, dict -> Config), or `_MISFIT`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((v for v in (_coerce(value, a) for a in args) if v is not _MISFIT), _MISFIT)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return _MISFIT
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        items = [_coerce(v, k) for v, k in zip(value, kinds, strict=False)]
        return _MISFIT if len(kinds) != len(value) or _MISFIT in items else tuple(items)
    if origin is typing.Literal:
        return value if value in args else _MISFIT
    if origin is dict:
        return value if isinstance(value, dict) else _MISFIT
    if hint is Any:
        return value
    if hint is None or hint is type(None):
        return None if value is None else _MISFIT
    if isinstance(hint, type) and issubclass(hint, Config) and isinstance(value, dict):
        return hint.from_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool):
        return _MISFIT
    return value if isinstance(value, hint) else _MISFIT


def _type_name(hint: Any) -> str:
    named = typing.get_origin(hint) is None and hasattr(hint, "__name__")
    return str(hint.__name__) if named else str(hint).replace("typing.", "")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value
