"""Optimisers: which parameters decay, AdamW over them, the norm of a gradient and its clipping.

A parameter is known by its name in the model. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nextset.training.parallel import laid_out_as


def decays(name: str, ndim: int, no_decay: Sequence[str] = ()) -> bool:
    """Whether weight decay acts on a parameter: not on vectors, biases, nor names that contain one of `no_decay`."""
    return ndim != 1 and not name.endswith("bias") and not any(part in name for part in no_decay)


def decay_groups(named: Iterable[tuple[str, nn.Parameter]], no_decay: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Optimiser groups {"params", "names", "decay"} of the trainable parameters: those that decay and the others."""
    groups: list[dict[str, Any]] = [{"params": [], "names": [], "decay": decay} for decay in (True, False)]
    for name, parameter in named:
        if parameter.requires_grad:
            group = groups[0 if decays(name, parameter.ndim, no_decay) else 1]
            group["params"].append(parameter)
            group["names"].append(name)
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> torch.optim.AdamW:
    """AdamW over groups of `decay_groups`; `set_rates` gives each group its learning rate and weight decay."""
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, weight_decay=0.0, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """The learning rate of all groups and the weight decay of those that decay."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["weight_decay"] = weight_decay if group["decay"] else 0.0


def clip_gradients(
    parameters: Sequence[nn.Parameter], limit: float = 0.0, norms: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Scale all gradients so that their joint L2 norm is at most `limit` (0 = leave them as they are).

    norms: makes the norms of gradients of those of the parts of them that are here, where they are cut.
    Returns (norm before clipping, scalar; norm of each parameter's gradient (n,), 0 where there is none).
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        zero = torch.zeros((), device=parameters[0].device)
        return zero, zero.expand(len(parameters))
    present = iter(torch._foreach_norm(gradients, 2.0))
    zero = torch.zeros((), device=gradients[0].device)
    each = torch.stack([zero if p.grad is None else next(present).float() for p in parameters])
    each = norms(each) if norms else each
    norm = torch.linalg.vector_norm(each)
    if limit > 0:
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm, each


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as '<parameter>/<field>' -> tensor; parameters that had no step yet are left out."""
    state = optimizer.state_dict()["state"]
    names = _names(optimizer)
    return {f"{names[i]}/{field}": value for i, fields in state.items() for field, value in fields.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took. A name that the optimiser does not have raises KeyError."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {name: i for i, name in enumerate(_names(optimizer))}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, field = key.rsplit("/", 1)
        i = index[name]
        state.setdefault(i, {})[field] = laid_out_as(parameters[i], value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _names(optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the parameters in the order in which `state_dict` numbers them."""
    return [name for group in optimizer.param_groups for name in group["names"]]
