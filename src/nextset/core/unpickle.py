"""Reading `.pth` and `.pt` files of other people: no code is run, nothing is allocated that the file does not hold.

A file is looked at in three layers before its tensors are used: the zip (nothing may unpack to more than the file
holds), the pickle (only names on a list may be called), and each tensor (its shape may not claim more than its storage).
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextset.core.errors import NextsetError

_STORAGES = tuple(
    f"torch.{kind}Storage"
    for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
)
ALLOWED = frozenset((
    "collections.OrderedDict", "collections.defaultdict", "argparse.Namespace", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "torch.Size", "torch.device", "torch.serialization._get_layout", "torch.float16", "torch.bfloat16", "torch.float32", "torch.float64",
    "torch.int64", "torch.int32", "torch.int16", "torch.int8", "torch.uint8", "torch.bool", "__builtin__.set", "builtins.set", *_STORAGES,
))  # fmt: skip
_PICKLE_LIMIT = 256 * 2**20


def read_torch(path: str | Path, *, limit: int = 64 * 2**30) -> Any:
    """The content of a file written by `torch.save`, memory-mapped on the CPU.

    limit: bytes of the file at most. Raises `NextsetError` for files that are cut short, call anything, or claim more
    than they hold.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > limit:
            raise NextsetError(
                f"{path} has {size:,} bytes, but at most {limit:,} are read; raise the limit if it is the right file"
            )
        for name in _calls(path, size):
            if name not in ALLOWED:
                what = "sparse tensors" if "sparse" in name else f"code ({name})"
                raise NextsetError(f"{path} contains {what} and was not opened; get the weights as .safetensors")
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise NextsetError(f"{path} does not exist; check the path") from error
    except NextsetError:
        raise
    except (
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        MemoryError,
        NotImplementedError,
    ) as error:
        first = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise NextsetError(f"{path} cannot be read as a PyTorch file ({first}); download it again") from error
    for name, tensor in tensors(content):
        _check(path, name, tensor)
    return content


def _calls(path: Path, size: int) -> Iterator[str]:
    """Names that the pickle would call, read without running it."""
    if not zipfile.is_zipfile(path):
        raise NextsetError(
            f"{path} is no zip archive: it is cut short, or older than PyTorch 1.6; download it again, or save it with a newer PyTorch"
        )
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
            raise NextsetError(
                f"{path} unpacks to more than it holds and was not opened; get the weights as .safetensors"
            )
        pickles = [e for e in entries if e.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > _PICKLE_LIMIT:
            raise NextsetError(f"{path} is no file of torch.save; download it again")
        program = archive.read(pickles[0])
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)
        elif opcode.name in ("EXT1", "EXT2", "EXT4"):
            yield f"copyreg extension {argument}"


def _check(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise NextsetError(
            f"{path}: {name} is a {tensor.layout} tensor, but only dense ones are read; get the weights as .safetensors"
        )
    claimed = tensor.numel() * tensor.element_size()
    held = tensor.untyped_storage().nbytes()
    if claimed > held:
        raise NextsetError(
            f"{path}: {name} claims {claimed:,} bytes but holds {held:,}; the file is damaged or hostile"
        )


def tensors(content: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested dicts and lists, with its dotted name."""
    if depth > 16:
        raise NextsetError("the file is nested more than 16 levels deep and was not read")
    if isinstance(content, Tensor):
        yield prefix, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from tensors(value, f"{prefix}.{key}" if prefix else str(key), depth + 1)
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from tensors(value, f"{prefix}.{i}" if prefix else str(i), depth + 1)


def flatten(content: Any) -> dict[str, Tensor]:
    """A flat state dict; names of wrappers become prefixes (`trainer.`, `model.`)."""
    return dict(tensors(content))
