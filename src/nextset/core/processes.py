"""Processes: which of several processes this is, and the few things that they do together.

A launcher (`torchrun`, `accelerate launch`) starts the same program several times and says so in the environment. Each
function has its form for one process alone, where it does nothing, so nobody has to ask how many there are. Those that
speak to the others must be called by all of them in the same order.

It knows no model and no trainer.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nextset.core.errors import NextsetError

T = TypeVar("T")

# How long the others wait for one that is at work alone: on a data set's codes, on pictures, on a slow disk.
PATIENCE = timedelta(hours=2)
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_BUCKET = 2**23  # numbers in one message


def join() -> None:
    """Meet the other processes of a launch. One process alone, and one that has joined already, goes on at once."""
    several = all(name in os.environ for name in _LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1
    if not several or dist.is_initialized():
        return
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(device())
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    atexit.register(_leave)


def count() -> int:
    """How many processes have joined; 1 without a launcher."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def device() -> torch.device:
    """What this process computes on: its own GPU of this machine, or the CPU where there is none."""
    place, found = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found and place >= found:
        raise NextsetError(
            f"this machine has {found} GPUs, but process {place + 1} was started; start one for each GPU"
        )
    return torch.device("cuda", place) if found else torch.device("cpu")


# ---- numbers


def total(x: Tensor) -> Tensor:
    """The sum of x over the processes: a statistic that counts the rows of the whole batch."""
    if count() > 1:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
    return x


def mean(x: Tensor) -> Tensor:
    """The mean of x over the processes, which have equally many rows of a batch."""
    return total(x) / count() if count() > 1 else x


def rows(x: Tensor) -> Tensor:
    """The rows (dimension 0) of all processes in the order of the whole batch; without gradients."""
    if count() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(count())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def most(*numbers: float) -> list[float]:
    """The largest of each number over the processes: how they agree on the time and on signals."""
    if count() == 1:
        return list(numbers)
    agreed = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return agreed.tolist()


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    if count() > 1:
        for bucket in buckets(tensors):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.all_reduce(flat)
            _unpack(flat.div_(count()), bucket)


def follow_first(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by that of process 0."""
    if count() > 1:
        for bucket in buckets(tensors):
            flat = torch.cat([t.reshape(-1) for t in bucket])
            dist.broadcast(flat, 0)
            _unpack(flat, bucket)


def buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one kind and place together, in lists of about 32 MB: a message costs time, however small it is."""
    found: dict[tuple[torch.dtype, torch.device], list[list[Tensor]]] = {}
    room: dict[tuple[torch.dtype, torch.device], int] = {}
    for tensor in tensors:
        kind = (tensor.dtype, tensor.device)
        room[kind] = room.get(kind, 0) - tensor.numel()
        if room[kind] < 0:
            found.setdefault(kind, []).append([])
            room[kind] = _BUCKET - tensor.numel()
        found[kind][-1].append(tensor)
    return [bucket for lists in found.values() for bucket in lists]


# ---- deeds


def by_first(action: Callable[[], T]) -> T:
    """What process 0 alone does while the others wait: writing files. All return its result, which must be picklable,
    or raise its NextsetError."""
    if count() == 1:
        return action()
    outcome: list[Any] = [None, None]
    failure: BaseException | None = None
    if rank() == 0:
        try:
            outcome[0] = action()
        except NextsetError as error:
            outcome[1], failure = str(error), error
        except BaseException as error:
            outcome[1], failure = f"process 0 failed: {error!r}", error
    dist.broadcast_object_list(outcome, 0)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise NextsetError(outcome[1])
    return outcome[0]


def unlike_first(value: Any) -> int:
    """How many processes have another value (picklable) than process 0."""
    return int(total(torch.tensor(int(value != by_first(lambda: value)))))


def _unpack(flat: Tensor, bucket: list[Tensor]) -> None:
    with torch.no_grad():
        parts = flat.split([t.numel() for t in bucket])
        torch._foreach_copy_(bucket, [part.view(t.shape) for part, t in zip(parts, bucket, strict=True)])


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
