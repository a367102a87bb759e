"""Shards: the tensors of a checkpoint that no process has whole. Each writes its parts, and reads those that it needs.

torch.distributed.checkpoint moves the parts, so any number of processes reads what any other number wrote. The files
are safetensors; a part's place in its tensor stands in their header. When a checkpoint is complete is the business of
`checkpoints`. All functions must be called by all processes.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from nextset.core import processes
from nextset.core.errors import NextsetError
from nextset.training.parallel import local

# (group/name, shape, dtype) -> the tensor that is filled: cut where this process wants no more than its part.
Place = Callable[[str, torch.Size, torch.dtype], Tensor]


def write(folder: Path, groups: dict[str, dict[str, Tensor]]) -> None:
    """Write named groups of tensors, cut or the same in all processes, as shard-*.safetensors into an empty folder.

    OSError, in all processes, if one of them cannot write; NextsetError if one does not see the folder.
    """
    seeing = int(processes.total(torch.tensor(int(folder.is_dir()))))
    if seeing < processes.count():
        raise NextsetError(
            f"{processes.count() - seeing} of {processes.count()} processes do not see {folder}; train in a folder that "
            f"all machines share, or set checkpoint=whole"
        )
    flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    dcp = _dcp()
    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _failures():
        dcp.save(_unshared(flat), storage_writer=writer)


def read(folder: Path, groups: Iterable[str], place: Place | None = None) -> dict[str, dict[str, Tensor]]:
    """What `write` wrote. groups: their names, for an empty one has no files. place: where it goes; None: whole
    tensors on the CPU."""
    dcp = _dcp()
    reader = dcp.HuggingFaceStorageReader(str(folder))
    place = place or (lambda name, shape, dtype: torch.empty(shape, dtype=dtype))
    saved = reader.read_metadata().state_dict_metadata
    flat = {name: place(name, data.size, data.properties.dtype) for name, data in saved.items()}
    try:
        with _failures():
            dcp.load(flat, storage_reader=reader)
    except OSError as error:
        raise NextsetError(f"{folder} cannot be read: {error.strerror}; resume from another checkpoint") from error
    found: dict[str, dict[str, Tensor]] = {group: {} for group in groups}
    for name, tensor in flat.items():
        group, rest = name.split("/", 1)
        found[group][rest] = tensor
    return found


def _dcp() -> ModuleType:
    """torch.distributed.checkpoint, which takes more than a second to import."""
    import torch.distributed.checkpoint as dcp

    if not hasattr(dcp, "HuggingFaceStorageWriter"):
        raise NextsetError(
            f"torch {torch.__version__} cannot write safetensors in shards; install a newer one, or set checkpoint=whole"
        )
    return dcp


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors; tied ones are copied, for the format refuses tensors that share memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        address = local(tensor).untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What failed in one process is an OSError in all. That one process alone has no others is no news."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            rank, (reason, _) = next(iter(error.failures.items()))
            code, text = (reason.errno, reason.strerror) if isinstance(reason, OSError) else (None, repr(reason))
            raise OSError(code, f"{text} (process {rank})") from error
