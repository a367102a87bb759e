"""Names of weights: from the authors' to ours by a table, with a report of what was left over."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError, NextsetWarning


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """rules: (pattern, replacement) pairs, the first full match wins; a name that no rule matches stays as it is.
    drop: patterns of derived buffers."""

    rules: Sequence[tuple[str, str]]
    drop: Sequence[str] = ()

    def rename(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state under our names, without what is dropped."""
        out: dict[str, Tensor] = {}
        for name, tensor in state.items():
            if any(re.fullmatch(p, name) for p in self.drop):
                continue
            for pattern, replacement in self.rules:
                if re.fullmatch(pattern, name):
                    name = re.sub(f"^(?:{pattern})$", replacement, name)
                    break
            out[name] = tensor
        return out


def load_into(module: nn.Module, state: Mapping[str, Tensor], *, what: str, optional: Sequence[str] = ()) -> None:
    """Give a module, which may lie on the meta device, the weights of a renamed state. Nothing is copied that already
    has the module's dtype; shapes must agree up to axes of length 1. Weights that the module lacks are left out with a
    `NextsetWarning`.

    optional: patterns of names that may be missing (training statistics, a part that was left out on purpose).
    """
    expected = module.state_dict()
    unused = tuple(n for n in state if n not in expected)
    missing = tuple(n for n in expected if n not in state and not any(re.fullmatch(p, n) for p in optional))
    if missing:
        raise NextsetError(
            f"{what} lacks {len(missing)} of {len(expected)} weights, first {missing[0]!r}; is it another model's file, or cut short?"
        )
    fitted = {}
    for name, tensor in state.items():
        if name not in expected:
            continue
        shape = expected[name].shape
        if [s for s in tensor.shape if s != 1] != [s for s in shape if s != 1]:
            raise NextsetError(
                f"{what}: {name} has shape {tuple(tensor.shape)}, but the model needs {tuple(shape)}; the sizes do not fit together"
            )
        fitted[name] = tensor.reshape(shape).to(expected[name].dtype)
    module.load_state_dict(fitted, strict=False, assign=True)
    _materialise(module)
    if unused:
        warnings.warn(
            f"{what} has {len(unused)} weights that the model lacks, first {unused[0]!r}; they were left out",
            NextsetWarning,
            stacklevel=2,
        )


def _materialise(module: nn.Module) -> None:
    """Give zeros to what an optional part left without storage, in a module that was built on the meta device."""
    for child in module.modules():
        for name, tensor in [*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)]:
            if tensor.is_meta:
                zeros = torch.zeros(tensor.shape, dtype=tensor.dtype)
                setattr(child, name, nn.Parameter(zeros) if isinstance(tensor, nn.Parameter) else zeros)
