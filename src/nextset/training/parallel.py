"""Parallel: where a model's weights are when several processes train it, each on its rows of every batch.

Whole    every process has all weights (one process alone, or `ddp`); gradients are averaged
Shards   every process keeps its part of weights, optimiser and mean (`fsdp`, torch's FSDP2); weights are gathered while
         the model's code runs, gradients are averaged and cut

The model does not know. Both speak about gradients after `backward`, not by hooks inside it: a model computes its loss
by whatever methods it likes, several losses a step, and a hook that waits for `forward` would never hear of it. The price
is that messages do not overlap with the backward pass, and that all weights fit into a process while it computes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from nextset.core import processes
from nextset.core.errors import NextsetError


class Whole:
    """All weights in every process. It begins with those of process 0 everywhere."""

    name = "ddp"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._statistics = model.state_dict().keys() & dict(model.named_buffers()).keys()
        processes.follow_first([t.data for t in (*model.parameters(), *model.buffers())])

    def gather(self) -> None:
        """Before the model's code runs: the model's parameters are plain tensors with all weights."""

    def release(self) -> None:
        """Before an optimiser steps: what the model's code did to the weights is kept."""

    def settle(self) -> None:
        """After a step: statistics in buffers are those of process 0 everywhere, as a checkpoint has them."""
        if self._statistics and processes.count() > 1:
            processes.follow_first([b for name, b in self.model.named_buffers() if name in self._statistics])

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        """The model can be used and saved as if there were no other process."""
        yield

    def collect(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """All of these tensors, cut or not, on the CPU of process 0; nothing in the others."""
        first, found = processes.rank() == 0, {}
        for name, tensor in tensors.items():
            full = whole(tensor)
            if first:
                found[name] = full.detach().cpu()
        return found

    def place(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Memory for a saved tensor group/parameter or group/parameter/field: no more than this process keeps of it."""
        return torch.empty(shape, dtype=dtype)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """A state dict of the model into the model; RuntimeError if it is another's."""
        self.release()
        own = self.model.state_dict()
        laid = {name: laid_out_as(own[name], value) if name in own else value for name, value in tensors.items()}
        self.model.load_state_dict(laid)

    def leaves(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        """What a graph that the model has built ends in, for each of its parameters."""
        return list(parameters)

    def own(self, parameter: nn.Parameter) -> nn.Parameter:
        """What an optimiser in this process steps of a parameter: the same memory, and a plain tensor."""
        return parameter

    def joined(self, parameter: nn.Parameter, tensor: Tensor) -> Tensor:
        """A tensor that lies beside `own` as this process' part of one that lies beside the parameter."""
        return tensor

    def part(self, parameter: nn.Parameter, tensor: Tensor) -> Tensor:
        """What lies beside `own` of a tensor, whole or cut, that lies beside the parameter."""
        return tensor

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """The gradients of `own` become those of the mean of the processes' losses, the loss of the whole batch."""
        if processes.count() > 1:
            processes.average([p.grad for p in self._used(parameters) if p.grad is not None])

    def norms(self, each: Tensor) -> Tensor:
        """Norms of gradients from the norms of what this process has of them."""
        return each

    def _used(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those that have a gradient in some process; where this one has none, it is 0."""
        leaves = self.leaves(parameters)
        used = processes.total(torch.tensor([leaf.grad is not None for leaf in leaves], dtype=torch.int32)).tolist()
        for leaf, n in zip(leaves, used, strict=True):
            if n and leaf.grad is None:
                leaf.grad = torch.zeros_like(leaf)
        return [p for p, n in zip(parameters, used, strict=True) if n]


class Shards(Whole):
    """Weights cut along their first dimension by `fully_shard`.

    Its hooks never run: they belong to a shell around the model that nobody calls. What is used of it are the cut
    parameters, `unshard` and `reshard`. Optimisers step plain tensors, for on cut ones torch thinks about every
    operation: half a millisecond for each parameter.
    """

    name = "fsdp"

    def __init__(self, model: nn.Module) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().__init__(model)
        kinds = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
        if len(kinds) > 1:
            raise NextsetError(f"fsdp needs weights of one dtype, but the model has {' and '.join(kinds)}; choose ddp")
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 takes no other memory format
        device = next(model.parameters()).device
        self._shell = cast(Any, nn.Sequential(model))
        fully_shard(self._shell, mesh=init_device_mesh(device.type, (processes.count(),)))
        shards = dict(model.named_parameters())
        self._gathered = True
        self._shell.unshard()
        leaves = dict(model.named_parameters())
        self._leaves: dict[nn.Parameter, nn.Parameter] = {shards[name]: leaves[name] for name in shards}
        self._shards = shards
        self._own = {p: nn.Parameter(local(p.detach()), p.requires_grad) for p in shards.values()}
        self.release()

    def gather(self) -> None:
        if not self._gathered:
            self._shell.unshard()
            self._gathered = True

    def release(self) -> None:
        if self._gathered:
            self._keep()
            self._shell.reshard()
            self._gathered = False

    def settle(self) -> None:
        super().settle()
        if self._gathered:
            self._keep()

    @contextlib.contextmanager
    def plain(self) -> Iterator[None]:
        self.release()
        owners = [module for module in self.model.modules() if any(p is not None for p in module._parameters.values())]
        places = [(m, name, p) for m in owners for name, p in m._parameters.items() if p is not None]
        with torch.no_grad():
            full = {p: nn.Parameter(whole(p), p.requires_grad) for p in dict.fromkeys(p for _, _, p in places)}
        try:
            for module, name, p in places:
                module._parameters[name] = full[p]
            yield
        finally:
            for module, name, p in places:
                module._parameters[name] = p

    def place(self, name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        shard = self._shards.get(name.split("/")[1])
        if shard is None or shard.shape != shape:
            return super().place(name, shape, dtype)
        return torch.empty_like(shard.detach(), dtype=dtype)

    def leaves(self, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
        return [self._leaves[p] for p in parameters]

    def own(self, parameter: nn.Parameter) -> nn.Parameter:
        return self._own[parameter]

    def joined(self, parameter: nn.Parameter, tensor: Tensor) -> Tensor:
        return _like(parameter, tensor) if tensor.shape == self._own[parameter].shape else tensor

    def part(self, parameter: nn.Parameter, tensor: Tensor) -> Tensor:
        return local(laid_out_as(parameter, tensor))

    @torch.no_grad()
    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        n = processes.count()
        shard_of = {self._leaves[p].grad: p for p in self._used(parameters)}
        for bucket in processes.buckets([g for g in shard_of if g is not None]):
            cut = [_cut(gradient, n) for gradient in bucket]
            mine = torch.empty(sum(c.shape[1] for c in cut), dtype=bucket[0].dtype, device=bucket[0].device)
            dist.reduce_scatter(mine, list(torch.cat(cut, 1)))
            parts = mine.div_(n).split([c.shape[1] for c in cut])
            for gradient, part in zip(bucket, parts, strict=True):
                own, leaf = self._own[shard_of[gradient]], self._leaves[shard_of[gradient]]
                new = part[: own.numel()].view(own.shape)
                own.grad = new if own.grad is None else own.grad + new
                leaf.grad = None

    def norms(self, each: Tensor) -> Tensor:
        return processes.total(each.square()).sqrt()

    @torch.no_grad()
    def _keep(self) -> None:
        """Write what the model's code has put into its weights, such as revived codes, into this process' part."""
        n, rank = processes.count(), processes.rank()
        for shard, leaf in self._leaves.items():
            parts = leaf.chunk(n)
            if rank < len(parts):
                self._own[shard].copy_(parts[rank])


def weights_of(model: nn.Module, how: str) -> Whole:
    """The weights of a model by `TrainConfig.parallel`; 'auto' is ddp unless `accelerate launch --use_fsdp` was used."""
    n = processes.count()
    if how == "none" and n > 1:
        raise NextsetError(f"parallel is 'none', but {n} processes were started; start one, or choose ddp or fsdp")
    if how == "auto":
        how = "fsdp" if os.environ.get("ACCELERATE_USE_FSDP") == "true" else "ddp"
    return Shards(model) if how == "fsdp" and n > 1 else Whole(model)


# ---- tensors that may be cut


def local(tensor: Any) -> Tensor:
    """What this process has of a tensor; the same memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Any) -> Tensor:
    """All of a tensor, in every process."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """`value`, whole or cut, as it lies in memory beside `parameter` where it has its shape: cut, and with its strides.
    A copy, unless it is cut already.

    Files hold contiguous tensors, and fused kernels walk parameter, gradient and state side by side in memory without
    a look at strides: next to a channels-last weight, a contiguous state would be read in the wrong order.
    """
    if value.shape != parameter.shape:
        return value.clone()
    if hasattr(value, "to_local"):
        return value
    if hasattr(parameter, "to_local"):
        parts, rank = value.chunk(processes.count()), processes.rank()
        own = parts[rank] if rank < len(parts) else value[:0]
        return _like(parameter, own.to(parameter.device, copy=True))
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _like(shard: Any, own: Tensor) -> Tensor:
    """A cut tensor of a shard's global shape, whose part here is `own`."""
    from torch.distributed.tensor import DTensor

    mesh, placements = shard.device_mesh, shard.placements
    return DTensor.from_local(own, mesh, placements, run_check=False, shape=shard.shape, stride=shard.stride())


def _cut(x: Tensor, n: int) -> Tensor:
    """Rows (n, k): what each process gets of x, cut along its first dimension as torch.chunk does, filled up with 0."""
    longest = -(-x.shape[0] // n)
    flat = x.reshape(x.shape[0], -1)
    return F.pad(flat, (0, 0, 0, longest * n - x.shape[0])).reshape(n, -1)
