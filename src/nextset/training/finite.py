"""Finite: finds the first step at which a loss or a gradient is NaN or infinite, and says where, without waiting.

Flags stay on the device until somebody asks. So a step costs a few small kernels, and a run on a GPU learns of the
accident at its next log line, but then still hears which step and which module it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nextset.core.errors import NextsetError


class Finite:
    """Watches the updates of one player.

    names: of its parameters, in the order of the norms that `watch` is given.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self._seen: Tensor | None = None  # whether an accident happened
        # (update, its scalars' names) -> (2, n): what was not finite at the first accident; the step of it
        self._flags: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def watch(self, update: str, labels: tuple[str, ...], scalars: Tensor, norms: Tensor, step: int) -> None:
        """Look at an update's scalars (k,), "loss" and its parts, and the norms (n,) of all gradients of `step`."""
        bad = ~torch.isfinite(torch.cat([scalars, norms.float()]))
        now = torch.stack([bad.long(), torch.full_like(bad, step, dtype=torch.int64)])
        seen = torch.zeros((), dtype=torch.bool, device=norms.device) if self._seen is None else self._seen
        before = self._flags.get((update, labels), torch.zeros_like(now))
        self._flags[update, labels] = torch.where(~seen & bad.any(), now, before)
        self._seen = seen | bad.any()

    def check(self, remedy: str) -> None:
        """Raise `NextsetError` if there was an accident. The host waits here."""
        if self._seen is None or not bool(self._seen):
            return
        for (update, labels), flags in self._flags.items():
            bad, step = flags[0].bool().tolist(), int(flags[1, 0])
            scalars = [label for label, flag in zip(labels, bad, strict=False) if flag]
            gradients = [name for name, flag in zip(self.names, bad[len(labels) :], strict=True) if flag]
            if scalars:
                # The loss is the sum of its parts, so it is named only when no part explains it.
                what = f"{' and '.join([s for s in scalars if s != 'loss'] or scalars)} of {update!r}"
            elif gradients:
                # A gradient that overflows spoils all modules before it: the last one in the model is the source.
                what = f"the gradient of {gradients[-1]!r} ({len(gradients)} of {len(self.names)} parameters)"
            else:
                continue
            raise NextsetError(f"{what} is not finite at step {step}; {remedy}")
