"""Weights in one or several files as one mapping, of which one file is open at a time; and writing them in such files.

Names, shapes and dtypes are known without reading a value, so that a model is described, checked and built on the meta
device first, and then filled file by file: nothing is held but the model and the file that is open. What the names mean
is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.files import read_json, read_safetensors, write_json, write_safetensors
from nextset.core.unpickle import flatten, read_torch

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
SHARD_BYTES = 5 * 10**9  # a file of more is written in shards: what model hubs ask for
_NUMBERED = re.compile(r"(.*)-(\d{3,})-of-(\d{3,})(\.\w+)")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """A flat state dict of a `.safetensors`, `.pth`, `.pt`, `.ckpt` or `.bin` file; nested wrappers become dotted names.

    Values are mapped from the file and read when they are used.
    """
    path = Path(path)
    if not path.is_file():
        raise NextsetError(f"{path} does not exist; check the path")
    return read_safetensors(path) if path.suffix == ".safetensors" else flatten(read_torch(path))


class _LastFile:
    """The file that was read last."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.state: dict[str, Tensor] = {}

    def read(self, path: Path) -> dict[str, Tensor]:
        if path != self.path:
            self.close()
            self.state, self.path = read_state(path), path
        return self.state

    def close(self) -> None:
        self.state, self.path = {}, None


class Weights(Mapping[str, Tensor]):
    """Named tensors of several files. Looking a name up opens its file and closes the one before; names go file by file.

    A tensor that is looked up keeps its file mapped for as long as it is used.
    """

    def __init__(
        self, places: Mapping[str, tuple[Path, str]], outline: Mapping[str, Tensor], last: _LastFile | None = None
    ) -> None:
        """places: file of each name, and its name there. outline: the same tensors on the meta device."""
        self._places, self._outline, self._last = dict(places), dict(outline), last or _LastFile()

    @classmethod
    def of(cls, paths: Sequence[str | Path]) -> Weights:
        """The weights of these files together; a name that two of them have is an error."""
        places: dict[str, tuple[Path, str]] = {}
        outline: dict[str, Tensor] = {}
        for path in map(Path, paths):
            for name, tensor in read_state(path).items():
                if name in places:
                    raise NextsetError(f"{name!r} is both in {places[name][0]} and in {path}; give one of them")
                places[name], outline[name] = (path, name), tensor.to("meta")
        return cls(places, outline)

    def __getitem__(self, name: str) -> Tensor:
        path, stored = self._places[name]
        return self._last.read(path)[stored]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    @property
    def outline(self) -> Mapping[str, Tensor]:
        """The same names with tensors of the meta device: shapes and dtypes, no values."""
        return self._outline

    def select(self, names: Mapping[str, str]) -> Weights:
        """Some of the weights under other names: {new: old}."""
        places = {new: self._places[old] for new, old in names.items()}
        return Weights(places, {new: self._outline[old] for new, old in names.items()}, self._last)

    def join(self, other: Weights) -> Weights:
        """Both together; where both have a name, the other's."""
        return Weights(self._places | other._places, self._outline | other._outline, self._last)

    def by_file(self) -> Iterator[dict[str, Tensor]]:
        """The tensors of each file; it is closed when the next is opened."""
        files: dict[Path, dict[str, str]] = {}
        for name, (path, stored) in self._places.items():
            files.setdefault(path, {})[name] = stored
        for path, names in files.items():
            state = self._last.read(path)
            part = {name: state[stored] for name, stored in names.items()}
            self._last.close()
            del state
            yield part
            del part


def select(state: Mapping[str, Tensor], names: Mapping[str, str]) -> Mapping[str, Tensor]:
    """Some weights under other names, {new: old}; of `Weights`, without reading them."""
    return state.select(names) if isinstance(state, Weights) else {new: state[old] for new, old in names.items()}


def join(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Both together; where both have a name, the second's."""
    if isinstance(first, Weights) and isinstance(second, Weights):
        return first.join(second)
    return {**first, **second}


def outline(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Shapes and dtypes, on the meta device where values would have to be read."""
    return state.outline if isinstance(state, Weights) else state


def by_file(state: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
    """The state file by file; a plain one is one part."""
    yield from state.by_file() if isinstance(state, Weights) else [state]


# ---- which files belong together


def weight_files(folder: str | Path, name: str = "model") -> list[Path]:
    """The files of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` lists."""
    index = Path(folder) / f"{name}.safetensors.index.json"
    return indexed(index) if index.is_file() else [Path(folder) / f"{name}.safetensors"]


def indexed(index: str | Path) -> list[Path]:
    """The shards that an index lists (`{"weight_map": {weight: file}}`), beside it."""
    index = Path(index)
    content = read_json(index)
    listed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise NextsetError(f"{index} lists no shards under weight_map; download it again")
    files = sorted(set(listed.values()))
    for file in files:
        if Path(file).name != file or Path(file).suffix not in SUFFIXES:
            raise NextsetError(
                f"{index} lists {file[:80]!r}, which is no weight file of its own folder; download it again"
            )
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise NextsetError(
            f"{index.parent} lacks {len(missing)} of {len(files)} shards, first {missing[0]}; download them too"
        )
    return [index.parent / file for file in files]


def groups(paths: Sequence[str | Path]) -> list[list[Path]]:
    """Files and folders as groups of files that hold one state dict each: the shards of an index, numbered ones
    (`name-00001-of-00008.bin`), else each file alone. A folder stands for the weight files that lie in it."""
    found: list[list[Path]] = []
    numbered: dict[tuple[Path, str, str, str], list[Path]] = {}
    known: set[Path] = set()

    def add(files: list[Path]) -> None:
        found.append(files)
        known.update(files)

    for path in map(Path, paths):
        if path.is_dir():
            for index in sorted(path.glob("*.index.json")):
                add(indexed(index))
            inside = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
            if not inside:
                raise NextsetError(f"{path} holds no weights ({', '.join(SUFFIXES)}); give the folder that does")
        elif path.name.endswith(".index.json"):
            inside = []
            add(indexed(path))
        else:
            inside = [path]
        for file in inside:
            if file in known:
                continue
            known.add(file)
            match = _NUMBERED.fullmatch(file.name)
            if match is None:
                found.append([file])
                continue
            key = (file.parent, match[1], match[3], match[4])
            if key not in numbered:
                numbered[key] = []
                found.append(numbered[key])
            numbered[key].append(file)
    for (folder, stem, count, _), shards in numbered.items():
        if len(shards) != int(count):
            raise NextsetError(
                f"{len(shards)} of the {int(count)} shards {folder / stem}-*-of-{count} are there; give the others too"
            )
    return found


# ---- writing


def write_weights(
    folder: str | Path,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    limit: int = SHARD_BYTES,
    name: str = "model",
) -> list[Path]:
    """Write `model.safetensors`, or shards of at most `limit` bytes of weights with an index; returns the files.

    dtype: of floating-point weights, which are cast one at a time as they are written; None = as they are. A weight that
    is larger than the limit has a shard of its own.
    """
    folder = Path(folder)
    shards: list[list[str]] = [[]]
    sizes = [0]
    for weight, tensor in state.items():
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        size = tensor.numel() * kind.itemsize
        if shards[-1] and sizes[-1] + size > limit:
            shards.append([])
            sizes.append(0)
        shards[-1].append(weight)
        sizes[-1] += size
    files = [f"{name}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [f"{name}.safetensors"]
    for file, names in zip(files, shards, strict=True):
        write_safetensors(folder / file, {n: state[n] for n in names}, {"format": "pt"}, dtype=dtype)
    if len(shards) > 1:
        listed = {n: file for file, names in zip(files, shards, strict=True) for n in names}
        write_json(
            folder / f"{name}.safetensors.index.json", {"metadata": {"total_size": sum(sizes)}, "weight_map": listed}
        )
    return [folder / file for file in files]
