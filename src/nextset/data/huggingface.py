"""Data sets of the Hugging Face hub, or in its formats on this machine, streamed through their library.

Rows are read one after another and nothing is downloaded ahead. Pictures are decoded here, not there, so that a hostile
one meets the same limits as in a folder. It knows nothing of other sources.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from nextset.core.errors import NextsetError, nearest
from nextset.data.captions import as_caption, as_label
from nextset.data.decode import MAX_BYTES
from nextset.data.framing import PictureOptions
from nextset.data.images import read_image
from nextset.data.pictures import MEMORY, Gathering, Pictures, Progress

PREFIX = "hf:"
_IMAGES, _LABELS, _CAPTIONS = ("image", "img", "jpg", "png", "webp"), ("label", "labels", "cls"), ("text", "caption")


@dataclasses.dataclass(frozen=True)
class HubOptions(PictureOptions):
    """What a recipe may say about a Hugging Face data set.

    subset: its configuration, where it has several. image_column, label_column, caption_column: by default the column
    of pictures, of classes (or `label`), and `text` or `caption`. The rest is that of all pictures.
    """

    subset: str = ""
    image_column: str = ""
    label_column: str = ""
    caption_column: str = ""


def read_hub(
    source: str,
    size: int,
    options: HubOptions | None = None,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Pictures:
    """The rows of `hf:owner/name`, `hf:owner/name:split` or `hf:FOLDER`, in their order, held in memory.

    split: "train" by default. limit: the first rows are read, and no others. Pictures that cannot be read are skipped
    and listed; a connection that breaks is an error, for what was read so far is not the data set.
    """
    options = options or HubOptions()
    name, split = parse(source)
    rows = _open(name, split, options.subset)
    columns = _columns(rows.features, options, source)
    names = getattr(rows.features[columns["label"]], "names", None) if "label" in columns else None
    rows = _undecoded(rows, columns)
    gathering = Gathering(source, size, options, memory=memory, progress=progress)
    if options.limit:
        rows = rows.take(options.limit)
        gathering.notes.append(f"limit: at most the first {options.limit:,} rows were read")
    for index, row in enumerate(_rows(rows, source)):
        where = f"row {index} of {source}"
        label = as_label(row[columns["label"]], where) if "label" in columns else None
        caption = as_caption(row[columns["caption"]], where) if "caption" in columns else None
        gathering.read(functools.partial(_picture, row[columns["image"]], where), label, caption)
    return gathering.finish(names)


def parse(source: str) -> tuple[str, str]:
    """`hf:NAME[:SPLIT]` to name and split."""
    name = source.removeprefix(PREFIX)
    split = ""
    if not Path(name).exists() and ":" in name:
        name, _, split = name.partition(":")
    if not name:
        raise NextsetError(f"{source!r} names no data set; write hf:owner/name, hf:owner/name:split or hf:FOLDER")
    return name, split or "train"


def _open(name: str, split: str, subset: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise NextsetError("hf: needs the package datasets; install it with: pip install 'nextset[train]'") from error
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, subset or None, split=split, streaming=True)
    except Exception as error:  # of the library, of the network, of a file format
        raise NextsetError(f"hf:{name} cannot be opened at split {split!r}: {_reason(error)}") from error


def _columns(features: Any, options: HubOptions, source: str) -> dict[str, str]:
    """Which column is the picture and, where there are any, the label and the caption."""
    import datasets

    if not features:
        raise NextsetError(f"{source} does not say what its columns are; save it as parquet or as an image folder")
    for given in (options.image_column, options.label_column, options.caption_column):
        if given and given not in features:
            raise NextsetError(f"{source} has no column {given!r}: {nearest(given, features)}")

    def of(kind: type) -> list[str]:
        return [column for column, feature in features.items() if isinstance(feature, kind)]

    def named(names: tuple[str, ...]) -> list[str]:
        return [column for column in names if isinstance(features.get(column), datasets.Value)]

    pictures = of(datasets.Image)
    image = options.image_column or next((c for c in _IMAGES if c in pictures), pictures[0] if pictures else "")
    if image not in pictures:
        have = f"image_column={' or '.join(pictures)}" if pictures else "a data set with a column of pictures"
        raise NextsetError(f"{source} has no pictures in {image or ', '.join(features)!r}; give {have}")
    found = {
        "image": image,
        "label": options.label_column or next(iter([*of(datasets.ClassLabel), *named(_LABELS)]), ""),
        "caption": options.caption_column or next(iter(named(_CAPTIONS)), ""),
    }
    return {use: column for use, column in found.items() if column}


def _undecoded(rows: Any, columns: dict[str, str]) -> Any:
    import datasets

    rows = rows.select_columns(list(dict.fromkeys(columns.values())))
    return rows.cast_column(columns["image"], datasets.Image(decode=False))


def _rows(rows: Any, source: str) -> Iterator[dict[str, Any]]:
    iterator = iter(rows)
    count = 0
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # of the library, of the network, of a file format
            remedy = f"try again, or read no more with limit={count}" if count else "try again"
            raise NextsetError(f"{source} broke off after {count:,} rows ({_reason(error)}); {remedy}") from error
        yield row
        count += 1


def _picture(value: Any, where: str) -> tuple[Image.Image, list[str]]:
    """The picture of a cell {bytes, path} with its notes."""
    if not isinstance(value, dict) or (value.get("bytes") is None and not value.get("path")):
        raise NextsetError(f"{where} has no picture; leave the row out")
    data, path = value.get("bytes"), value.get("path")
    name = f"{where} ({path})" if path else where
    return read_image(_fetch(str(path), where) if data is None else data, name=name)


def _fetch(path: str, where: str) -> bytes:
    """The bytes of a file that the data set keeps beside its rows, perhaps inside an archive or on the hub."""
    import fsspec

    try:
        with fsspec.open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except Exception as error:  # of whatever file system it is
        raise NextsetError(f"{where}: {path} cannot be read ({_reason(error)})") from error
    if len(data) > MAX_BYTES:
        raise NextsetError(f"{where}: {path} has more than {MAX_BYTES:,} bytes, the most that is read")
    return data


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
