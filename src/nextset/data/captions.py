"""What stands beside pictures in a folder: a sidecar `.txt` for each, or `metadata.jsonl` and `metadata.csv`.

The metadata files are those of Hugging Face's imagefolder: `file_name`, relative to the file's own folder, with `text`
or `caption`, and `label`. It knows nothing of what a picture is.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nextset.core.errors import NextsetError, nearest
from nextset.data.classes import label_of

METADATA = ("metadata.jsonl", "metadata.csv")
MAX_CAPTION = 64 * 2**10
MAX_METADATA = 2**30

Place = tuple[str, ...]
"""The parts of a path below the folder of the data set."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one line of metadata says of a picture. where: that line, for messages."""

    caption: str | None
    label: int | str | None
    where: str


def read_caption(path: Path) -> str:
    """The text of a sidecar, without white space around it."""
    return caption_of(_bytes(path, MAX_CAPTION), str(path))


def caption_of(data: bytes, name: str) -> str:
    """A caption from the bytes of a text file; name: what messages call it."""
    if len(data) > MAX_CAPTION:
        raise NextsetError(f"{name} has {len(data):,} bytes, but a caption has at most {MAX_CAPTION:,}; shorten it")
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise NextsetError(f"{name} is not UTF-8 text (byte {error.start}); save the caption as UTF-8") from error


def as_caption(value: Any, where: str) -> str | None:
    """A caption of a cell of a table; where: what messages call it."""
    if value is not None and not isinstance(value, str):
        raise NextsetError(f"{where}: the caption is {str(value)[:40]!r}, but must be text")
    return value.strip() if value else None


def as_label(value: Any, where: str) -> int | str | None:
    """A label of a cell of a table: a whole number (an index) or a name."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, str))):
        raise NextsetError(f"{where}: the label is {str(value)[:40]!r}, but must be a name or a whole number")
    return label_of(value) if isinstance(value, str) else value


def read_row(row: dict[str, Any], where: str) -> tuple[str | None, int | str | None]:
    """Caption (`text`, or else `caption`) and `label` of a JSON object or a line of a table."""
    return as_caption(row.get("text", row.get("caption")), where), as_label(row.get("label"), where)


def read_metadata(folder: Path, files: Collection[Place], pictures: Collection[Place]) -> dict[Place, Entry]:
    """What all metadata files say, by picture. files: where they are; pictures: those that they may name.

    Raises NextsetError with file and line for broken lines, and for names that are missing, doubled or no picture's.
    """
    entries: dict[Place, Entry] = {}
    for place in sorted(files):
        path = folder.joinpath(*place)
        data = _bytes(path, MAX_METADATA)
        rows = _json_rows(data, path) if path.suffix == ".jsonl" else _csv_rows(data, path)
        for line, row in rows:
            where = f"{path} line {line}"
            name = row.get("file_name")
            if not isinstance(name, str) or not name:
                have = ", ".join(str(key) for key in row if key is not None)[:80]
                raise NextsetError(f"{where} has no file_name (it has: {have}); name the picture's file there")
            picture = (*place[:-1], *PurePosixPath(name).parts)
            if picture not in pictures:
                beside = [p for p in pictures if p[:-1] == picture[:-1]] or pictures
                known = ["/".join(p[len(place) - 1 :]) for p in beside]
                raise NextsetError(f"{where} names {name!r}, which is no picture of the folder; {nearest(name, known)}")
            if picture in entries:
                first = entries[picture].where
                raise NextsetError(f"{where} names {name!r}, as {first} does; keep one line a picture")
            entries[picture] = Entry(*read_row(row, where), where)
    return entries


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise NextsetError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > limit:
        raise NextsetError(f"{path} has more than {limit:,} bytes, the most that is read; make it smaller")
    return data


def _json_rows(data: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", type(error).__name__)
            raise NextsetError(f"{path} line {line} is not valid JSON ({reason}); mend or remove that line") from error
        if not isinstance(row, dict):
            raise NextsetError(f'{path} line {line} is no JSON object; write {{"file_name": ..., "text": ...}}')
        yield line, row


def _csv_rows(data: bytes, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        for row in reader:
            yield reader.line_num, row
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise NextsetError(f"{path} line {line} is not UTF-8 text; save the file as UTF-8") from error
    except csv.Error as error:
        raise NextsetError(
            f"{path} line {reader.reader.line_num} is not valid CSV ({error}); mend that line"
        ) from error
