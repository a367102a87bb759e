"""Step checkpoints that are whole or absent: a crash at any moment leaves the newest complete one in charge.

    <folder>/latest                  name of the newest checkpoint
    <folder>/step-00001234/          manifest.json, state.json, <group>.safetensors ...

A checkpoint is written under a temporary name, flushed to disk, renamed, and only then pointed to. Its manifest lists
size and SHA-256 of each file; a file that does not fit is refused. There is no pickle. Of several processes, the first
writes everything; or each writes its parts of the tensors, then the first goes on (`shards`). `save` and `load` must be
called by all. What the tensors mean is the caller's business.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from nextset.core import processes
from nextset.core.errors import NextsetError
from nextset.core.files import atomic_write, read_json, read_safetensors, write_json, write_safetensors
from nextset.training import shards

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was saved after `step` steps: named groups of tensors and a JSON-able state."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    path: Path


def save(
    folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int = 3,
    sharded: bool = False,
) -> Path:  # fmt: skip
    """Write the checkpoint of `step`, keep the newest `keep` up to it (0 = all), and return its folder.

    sharded: the tensors are what each process has of them; else process 0 has them whole and the others' do not count.
    Checkpoints of later steps, of a run that was resumed from an older one, stay until they are written again.
    """
    final = folder / _name(step)
    building = folder / f".{final.name}.part"
    try:
        processes.by_first(lambda: _begin(building))
        if sharded:
            shards.write(building, tensors)
        processes.by_first(lambda: _complete(building, final, step, tensors, state, sharded))
    except BaseException as error:
        if processes.rank() == 0:
            shutil.rmtree(building, ignore_errors=True)
            recover(folder)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise NextsetError(f"{final} was not written: {reason}; the older checkpoints are intact") from error
        raise
    processes.by_first(lambda: _point(final, keep))
    return final


def load(path: Path, place: shards.Place | None = None) -> Checkpoint:
    """Read a checkpoint after checking it against its manifest. path: a `step-...` folder, or a run's: its newest.

    place: where tensors of a sharded checkpoint go, see `shards.read`; by default they are whole, on the CPU.
    """
    chosen, manifest = processes.by_first(lambda: _checked(path))
    if "groups" in manifest:
        tensors = shards.read(chosen, manifest["groups"], place)
    else:
        parts = [Path(name) for name in manifest["files"] if name.endswith(".safetensors")]
        tensors = {part.stem: read_safetensors(chosen / part) for part in parts}
    return Checkpoint(int(manifest["step"]), tensors, read_json(chosen / "state.json"), chosen)


def latest(folder: Path) -> Path | None:
    """The checkpoint that `latest` names, or the newest complete one if that is gone; None when there is none."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        named = folder / (folder / "latest").read_text().strip()
        if named.parent == folder and (named / "manifest.json").exists():
            return named
    return next(reversed(complete(folder)), None)


def complete(folder: Path) -> list[Path]:
    """All checkpoints of a folder that were written to the end, oldest first."""
    return sorted(path.parent for path in folder.glob("step-*/manifest.json"))


def recover(folder: Path) -> None:
    """Put away what a crash left: what was half written or half removed goes, what was to be replaced returns.

    For the run that owns the folder only: a checkpoint that is being written looks like one that never was finished.
    """
    for path in folder.glob(".step-*.old"):
        whole = folder / path.name.removeprefix(".").removesuffix(".old")
        if whole.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(whole)
    for pattern in (".step-*.part", ".step-*.gone"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".latest.*.part"):
        path.unlink(missing_ok=True)


def _begin(building: Path) -> None:
    """An empty folder to write into."""
    building.parent.mkdir(parents=True, exist_ok=True)
    recover(building.parent)
    building.mkdir()


def _complete(
    building: Path, final: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], sharded: bool
) -> None:
    """Write what is missing, list everything in the manifest, and give the folder its name."""
    if not sharded:
        for group, named in tensors.items():
            write_safetensors(building / f"{group}.safetensors", _unshared(named), {"format": "pt"})
    write_json(building / "state.json", state)
    files = {path.name: _fingerprint(path) for path in sorted(building.iterdir())}
    groups = {"groups": sorted(tensors)} if sharded else {}
    write_json(building / "manifest.json", {"format": FORMAT, "step": step, **groups, "files": files})
    _flush(building)
    if final.exists():  # a run that was resumed from an older checkpoint came by here again
        final.rename(final.with_name(f".{final.name}.old"))
    building.rename(final)
    _flush(final.parent)


def _point(final: Path, keep: int) -> None:
    """Make a complete checkpoint the newest, and remove those that are too old."""
    folder = final.parent
    with atomic_write(folder / "latest") as handle:
        handle.write(f"{final.name}\n".encode())
    if keep > 0:
        for path in [p for p in complete(folder) if p.name <= final.name][:-keep]:
            path.rename(folder / f".{path.name}.gone")  # never half there under its own name
    recover(folder)


def _checked(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the checkpoint that is meant, whose files are what its manifest, the second, says."""
    chosen = path if (path / "manifest.json").exists() else latest(path)
    if chosen is None:
        raise NextsetError(f"{path} holds no checkpoint; give a run's folder or one of its step-... folders")
    manifest = read_json(chosen / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise NextsetError(f"{chosen / 'manifest.json'} is not of format {FORMAT}; resume from another checkpoint")
    for name, expected in manifest["files"].items():
        file = chosen / name
        if not file.exists() or _fingerprint(file) != expected:
            raise NextsetError(f"{file} is {'damaged' if file.exists() else 'missing'}; {_remedy(chosen)}")
    return chosen, manifest


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as handle:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _unshared(group: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors; tied ones are copied, for the format refuses tensors that share memory."""
    seen: set[int] = set()
    result = {}
    for name, tensor in group.items():
        tensor = tensor.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


def _remedy(bad: Path) -> str:
    others = [path for path in complete(bad.parent) if path != bad]
    return f"resume from {others[-1]}" if others else "there is no other checkpoint: start again in a new folder"


def _flush(folder: Path) -> None:
    """Make renames inside a folder durable; not every file system can sync folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
