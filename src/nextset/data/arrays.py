"""Named arrays in an `.npz` file: written whole or not at all, and read though it may be damaged or hostile.

Sizes are taken from the headers and compared with a limit before anything is allocated, and pickled objects are never
loaded. It knows nothing of what the arrays mean.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from nextset.core.errors import NextsetError, nearest
from nextset.core.files import atomic_write

LIMIT = 16 * 2**30


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays atomically and compressed; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # its stub takes the names for options
    with atomic_write(path) as handle:
        handle.write(buffer.getvalue())


def array_names(path: str | Path) -> list[str]:
    """The names of the arrays in a file."""
    with _open(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_arrays(path: str | Path, names: Iterable[str], limit: int = LIMIT) -> dict[str, np.ndarray]:
    """The arrays of those names; together they may hold at most `limit` bytes."""
    names = list(names)
    with _open(path) as archive:
        known = [name.removesuffix(".npy") for name in archive.namelist()]
        for name in names:
            if name not in known:
                raise NextsetError(f"{path} has no array {name!r} ({nearest(name, known)}); is it the right file?")
        sizes = {name: archive.getinfo(f"{name}.npy").file_size for name in names}
        if sum(sizes.values()) > limit:
            unpacked = sum(sizes.values())
            raise NextsetError(f"{path} unpacks to {unpacked:,} bytes, but at most {limit:,} are read; cut it up")
        try:
            return {name: _read(archive, name, sizes[name]) for name in names}
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:160]
            raise NextsetError(f"{path} is damaged ({reason}); write or download it again") from error


def _open(path: str | Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise NextsetError(f"{path} does not exist; check the path") from error
    except OSError as error:
        raise NextsetError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise NextsetError(f"{path} is not a whole .npz file ({error}); write or download it again") from error


def _read(archive: zipfile.ZipFile, name: str, size: int) -> np.ndarray:
    with archive.open(f"{name}.npy") as handle:
        shape, dtype = _header(handle)
        if dtype.hasobject:
            raise ValueError(f"array {name!r} holds pickled objects, which are never loaded")
        expected = handle.tell() + math.prod(shape) * dtype.itemsize
        if expected != size:
            raise ValueError(f"array {name!r} says {shape} of {dtype}, {expected} bytes, but has {size}")
    with archive.open(f"{name}.npy") as handle:
        return np.lib.format.read_array(handle, allow_pickle=False)


def _header(handle: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(handle)
    if version not in read:
        raise ValueError(f"unknown version {version} of the .npy format")
    shape, _, dtype = read[version](handle)
    return shape, dtype
