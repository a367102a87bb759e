"""Names of weights: from the authors' to ours by a table, with a report of what was left over; and the weights into a
module, file by file, each cast once as it arrives."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import overload

import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.weights import by_file, outline, select


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """rules: (pattern, replacement) pairs, the first full match wins; a name that no rule matches stays as it is.
    drop: patterns of derived buffers."""

    rules: Sequence[tuple[str, str]]
    drop: Sequence[str] = ()

    def names(self, state: Iterable[str]) -> dict[str, str]:
        """Our name of each weight that is not dropped, with the authors'."""
        out: dict[str, str] = {}
        for name in state:
            if any(re.fullmatch(p, name) for p in self.drop):
                continue
            ours = name
            for pattern, replacement in self.rules:
                if re.fullmatch(pattern, name):
                    ours = re.sub(f"^(?:{pattern})$", replacement, name)
                    break
            out[ours] = name
        return out

    @overload
    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def rename(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]: ...
    def rename(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The state under our names, without what is dropped; no value is read."""
        return select(state, self.names(state))


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    what: str,
    optional: Sequence[str] = (),
    device: torch.device | str | None = None,
) -> None:
    """Give a module, which may lie on the meta device, the weights of a renamed state. Nothing is copied that already
    has the module's dtype and place; shapes must agree up to axes of length 1, and nothing is loaded where one does not.
    Weights that the module lacks are left out with a `NextsetWarning`.

    Of `Weights`, one file is open at a time, and each weight is cast as it arrives: a module that was built on the meta
    device and cast there needs the memory of itself and of one file.

    optional: patterns of names that may be missing (training statistics, a part that was left out on purpose). device:
    where the weights go (None = where they are).
    """
    expected = module.state_dict()
    unused = tuple(n for n in state if n not in expected)
    missing = tuple(n for n in expected if n not in state and not any(re.fullmatch(p, n) for p in optional))
    if missing:
        raise NextsetError(
            f"{what} lacks {len(missing)} of {len(expected)} weights, first {missing[0]!r}; is it another model's file, or cut short?"
        )
    for name, tensor in outline(state).items():
        if name in expected and [s for s in tensor.shape if s != 1] != [s for s in expected[name].shape if s != 1]:
            raise NextsetError(
                f"{what}: {name} has shape {tuple(tensor.shape)}, but the model needs {tuple(expected[name].shape)}; the sizes do not fit together"
            )
    for part in by_file(state):
        fitted = {
            name: tensor.reshape(expected[name].shape).to(device=device, dtype=expected[name].dtype)
            for name, tensor in part.items()
            if name in expected
        }
        module.load_state_dict(fitted, strict=False, assign=True)
    _materialise(module, device)
    if unused:
        warnings.warn(
            f"{what} has {len(unused)} weights that the model lacks, first {unused[0]!r}; they were left out",
            NextsetWarning,
            stacklevel=2,
        )


def _materialise(module: nn.Module, device: torch.device | str | None) -> None:
    """Give zeros to what an optional part left without storage, in a module that was built on the meta device."""
    for child in module.modules():
        for name, tensor in [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]:
            if tensor.is_meta:
                zeros = torch.zeros(tensor.shape, dtype=tensor.dtype, device=device or "cpu")
                setattr(child, name, nn.Parameter(zeros) if isinstance(tensor, nn.Parameter) else zeros)
