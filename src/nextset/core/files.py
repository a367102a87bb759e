"""Files: atomic writes, and reading that cannot run code, exhaust memory or half-succeed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nextset.core.errors import NextsetError

_HEADER_LIMIT = 32 * 2**20  # of safetensors: a model of 100,000 tensors needs a third of it
_DIMENSIONS = 16
_KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
}  # fmt: skip


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary handle whose content appears at `path` whole, or not at all.

    Written to a temporary file in the same folder, flushed to disk, then renamed. Parent folders are made.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NextsetError(f"{path} was not written: the disk is full; free some space and try again") from error
        raise NextsetError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; folders cannot be synced everywhere."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: str | Path, data: Any) -> None:
    """Write JSON atomically, with sorted structure kept and a final newline."""
    with atomic_write(path) as handle:
        handle.write((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: str | Path, limit: int = 64 * 2**20) -> Any:
    """Read JSON of at most `limit` bytes."""
    path = Path(path)
    try:
        if path.stat().st_size > limit:
            raise NextsetError(
                f"{path} has {path.stat().st_size} bytes, but a JSON file here has at most {limit}; is it the right file?"
            )
        return json.loads(path.read_bytes())
    except NextsetError:
        raise
    except FileNotFoundError as error:
        raise NextsetError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise NextsetError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise NextsetError(f"{path} is not valid JSON ({type(error).__name__}); write or download it again") from error


def write_safetensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write named tensors atomically, one after another, so that no second copy of them all is ever in memory.

    dtype: of floating-point tensors, which are cast as they are written; None = as they are.
    """
    kinds = {n: dtype if dtype is not None and t.is_floating_point() else t.dtype for n, t in tensors.items()}
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    order = sorted(tensors, key=lambda name: (-kinds[name].itemsize, name))  # wide ones first: all lie aligned
    start = 0
    for name in order:
        end = start + tensors[name].numel() * kinds[name].itemsize
        kind, shape = _KINDS[kinds[name]], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            flat = tensors[name].detach().to("cpu", kinds[name]).contiguous().reshape(-1)
            handle.write(flat.view(torch.uint8).numpy().data)


def read_safetensors(path: str | Path, limit: int = 64 * 2**30) -> dict[str, Tensor]:
    """Named tensors of a file of at most `limit` bytes. The format allows no code; sizes are checked before allocation."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limit:
            raise NextsetError(
                f"{path} has {size} bytes, but at most {limit} are read; raise the limit if it is the right file"
            )
        with path.open("rb") as handle:
            _check_header(handle, size)
        return safetensors.torch.load_file(path)
    except NextsetError:
        raise
    except FileNotFoundError as error:
        raise NextsetError(f"{path} does not exist; check the path") from error
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NextsetError(f"{path} is not a whole safetensors file ({error}); write or download it again") from error


def _check_header(handle: IO[bytes], size: int) -> None:
    """Refuse, with ValueError, a header of unreasonable length or dimensions before it reaches the parser: the library
    would allocate for each dimension that is claimed."""
    length = int.from_bytes(handle.read(8), "little")
    if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
        raise ValueError(f"its header claims {length:,} bytes, of {size:,} in all; at most {_HEADER_LIMIT:,} are read")
    header = json.loads(handle.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    for name, entry in header.items():
        shape = entry.get("shape", []) if isinstance(entry, dict) else None
        if not isinstance(shape, list) or len(shape) > _DIMENSIONS:
            raise ValueError(f"{name[:80]!r} has no shape of at most {_DIMENSIONS} dimensions")
        if any(type(n) is not int or not 0 <= n < 2**62 for n in shape):
            raise ValueError(f"{name[:80]!r} has a dimension out of range")
