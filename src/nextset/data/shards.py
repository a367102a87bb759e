"""WebDataset shards: `.tar` files in which the members of one base name are one sample.

A sample has a picture, and perhaps `.txt` (its caption), `.cls` (its label) and `.json` (`caption` or `text`, `label`).
Shards are local files, read by the standard library in their order. Nothing is unpickled, and what a header claims is
compared with a limit before it is read.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nextset.core.errors import NextsetError
from nextset.data.captions import MAX_CAPTION, caption_of, read_row
from nextset.data.classes import label_of
from nextset.data.decode import MAX_BYTES
from nextset.data.folder import ENDINGS
from nextset.data.framing import PictureOptions
from nextset.data.images import read_image
from nextset.data.pictures import MEMORY, Gathering, Pictures, Progress

MAX_SHARDS = 100_000
_HEADER_LIMIT = 2**16  # of extended headers, which tarfile reads whole
_JSON_LIMIT = 2**20
_TEXTS = {"txt": MAX_CAPTION, "cls": 1024, "json": _JSON_LIMIT}
_KINDS = tuple(ending.removeprefix(".") for ending in ENDINGS)


def read_shards(
    source: str | Path,
    size: int,
    options: PictureOptions | None = None,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Pictures:
    """The samples of a shard, of a folder of shards, or of a pattern such as `data-{0000..0003}.tar` or `*.tar`, held in
    memory; shard after shard, in the order of their members. Damaged shards and pictures are skipped and listed.

    Labels are whole numbers (indices) or names, for all samples or for none. limit: the first samples are read.
    """
    options = options or PictureOptions()
    gathering = Gathering(str(source), size, options, memory=memory, progress=progress)
    samples = (sample for path in find_shards(source) for sample in _samples(path, gathering))
    for sample in itertools.islice(samples, options.limit or None):
        try:
            data, label, caption = _read(sample)
        except NextsetError as error:
            gathering.skip(str(error))
        else:
            gathering.read(functools.partial(read_image, data, name=sample.name), label, caption)
    if options.limit and next(samples, None) is not None:
        gathering.notes.append(f"limit: the first {options.limit:,} samples were read")
    return gathering.finish()


def find_shards(source: str | Path) -> list[Path]:
    """The shards of a file, a folder or a pattern, in order: braces as they count, folders and `*` by name."""
    text = str(source)
    if "://" in text or text.startswith("pipe:"):
        raise NextsetError(f"{text!r} is no local file; download the shards, or give hf:owner/name")
    if Path(source).is_dir():
        return sorted(Path(source).glob("*.tar"))
    if Path(source).is_file():
        return [Path(source)]
    names = list(itertools.islice(_braces(text), MAX_SHARDS + 1))
    if len(names) > MAX_SHARDS:
        raise NextsetError(f"{text} names more than {MAX_SHARDS:,} shards; check the numbers in braces")
    shards: list[Path] = []
    for name in names:
        shards += sorted(Path(found) for found in glob.glob(name)) if glob.has_magic(name) else [Path(name)]
    if not any(path.is_file() for path in shards):
        raise NextsetError(f"{text} names no file that exists; check the path and the numbers in braces")
    return shards


def _braces(pattern: str) -> Iterator[str]:
    """`a-{00..02}.tar` and `a-{x,y}.tar` written out, as a shell does."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    choices = words.split(",") if words else (f"{i:0{len(first)}}" for i in range(int(first), int(last) + 1))
    for choice in choices:
        yield from _braces(pattern[: match.start()] + choice + pattern[match.end() :])


class _Shard(io.FileIO):
    """A tar file that is read in one direction and never asks for more memory than it has bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        """What tarfile reads: headers."""
        if size is None or not 0 <= size <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"a header claims {size} bytes")
        return super().read(size) or b""

    def content(self, member: tarfile.TarInfo, limit: int) -> bytes:
        """The bytes of a member."""
        if not 0 <= member.size <= limit or member.issparse():
            claim = "is stored sparsely" if member.issparse() else f"claims {member.size:,} bytes, of at most {limit:,}"
            raise NextsetError(f"{member.name} in {self.name} {claim}; write it anew")
        self.seek(member.offset_data)
        data = super().read(min(member.size, os.fstat(self.fileno()).st_size)) or b""
        if len(data) < member.size:
            raise tarfile.ReadError(f"{member.name} is cut short")
        return data

    def members(self) -> Iterator[tarfile.TarInfo]:
        """The headers in order. Damage raises tarfile.ReadError, also where tarfile would take it for the end."""
        with tarfile.open(fileobj=self, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if tar.offset <= member.offset:
                    raise tarfile.ReadError("a header leads back")
                yield member
            self.seek(tar.offset)
            if self.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"no header at byte {tar.offset:,}")


@dataclasses.dataclass
class _Sample:
    """What messages call it; by ending, the members that are read; why one of them is not."""

    name: str
    members: dict[str, bytes] = dataclasses.field(default_factory=dict)
    problem: str = ""


def _samples(path: Path, gathering: Gathering) -> Iterator[_Sample]:
    """The samples of one shard up to its end, or to the last one that is surely whole before damage, which is listed."""
    count = 0
    try:
        with _Shard(path) as shard:
            for base, members in itertools.groupby(shard.members(), lambda member: _split(member)[0]):
                if base is None:
                    continue
                sample = _Sample(f"{base} in {path}")
                for member in members:
                    _take(member, shard, sample)
                yield sample
                count += 1
    except OSError as error:
        gathering.skip(f"{path} cannot be read after {count} samples: {error.strerror or error}")
    except Exception as error:  # a hostile header can make the parser raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        gathering.skip(f"{path} is damaged after {count} samples ({reason}); the rest of it is left out")


def _split(member: tarfile.TarInfo) -> tuple[str | None, str]:
    """Base and ending of a member at the first dot of its file name, as WebDataset cuts it; (None, "") of no sample."""
    match = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]*)", member.name, re.DOTALL)
    return (match[1], match[2].lower()) if match and member.isfile() else (None, "")


def _take(member: tarfile.TarInfo, shard: _Shard, sample: _Sample) -> None:
    ending = _split(member)[1]
    limit = MAX_BYTES if ending in _KINDS else _TEXTS.get(ending)
    if limit is None:
        return
    if ending in sample.members:
        sample.problem = f"two members of one base name end in .{ending}; keep one"
        return
    try:
        sample.members[ending] = shard.content(member, limit)
    except NextsetError as error:
        sample.problem = str(error)


def _read(sample: _Sample) -> tuple[bytes, int | str | None, str | None]:
    """Picture file, label and caption of a sample; NextsetError where it has no picture, or broken texts."""
    name, members = sample.name, sample.members
    if sample.problem:
        raise NextsetError(f"{name} is left out: {sample.problem}")
    picture = next((ending for ending in members if ending in _KINDS), None)
    if picture is None:
        have = ", ".join(f".{ending}" for ending in members) or "nothing that is read"
        raise NextsetError(f"{name} has no picture (it has {have}); add one, or remove the sample")
    caption, label = read_row(_about(members["json"], name), name) if "json" in members else (None, None)
    if "txt" in members:
        caption = caption_of(members["txt"], f"the caption of {name}")
    if "cls" in members:
        label = label_of(members["cls"].decode("utf-8", "backslashreplace"))
    return members[picture], label, caption


def _about(data: bytes, name: str) -> dict[str, Any]:
    try:
        about = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", type(error).__name__)
        raise NextsetError(f"the .json of {name} is not valid ({reason}); write it anew") from error
    if not isinstance(about, dict):
        raise NextsetError(f'the .json of {name} is no JSON object; write {{"caption": ..., "label": ...}}')
    return about
