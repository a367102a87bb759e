"""A folder of pictures, as people have them: classes are its sub-folders, and broken files do not stop anything."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from nextset.core.errors import NextsetError
from nextset.data.captions import METADATA, Entry, Place, read_caption, read_metadata
from nextset.data.classes import NO_CLASS
from nextset.data.framing import PictureOptions
from nextset.data.images import read_image
from nextset.data.pictures import MEMORY, Gathering, Pictures, Progress, spread

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm", ".qoi")


def read_folder(
    folder: str | Path,
    size: int,
    options: PictureOptions | None = None,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Pictures:
    """Every picture below a folder, held in memory.

    Classes are the first level of sub-folders, sorted by name, and within them files sorted by path; pictures that lie
    beside the sub-folders form the class "all". Labels of metadata files come before sub-folders, and their captions
    before sidecars. Names that begin with a dot are not looked at. Every other file is read, or listed in `skipped`.
    """
    folder, options = Path(folder), options or PictureOptions()
    if not folder.is_dir():
        raise NextsetError(f"{folder} is not a folder; give a folder of pictures, one sub-folder a class")
    found = _walk(folder)
    if not found.pictures:
        others = f" ({len(found.sidecars) + len(found.others)} files of other kinds)"
        others = others if found.sidecars or found.others else ""
        kinds = ", ".join(ENDINGS)
        raise NextsetError(f"{folder} holds no pictures{others}; give a folder with files that end in {kinds}")
    entries = read_metadata(folder, found.metadata, set(found.pictures))
    labelled = any(entry.label is not None for entry in entries.values())
    chosen = spread(len(found.pictures), options.limit)
    gathering = Gathering(str(folder), size, options, expected=len(chosen), memory=memory, progress=progress)
    if len(chosen) < len(found.pictures):
        gathering.notes.append(f"limit: {len(chosen):,} of {len(found.pictures):,} files were read")
    for index in chosen:
        place = found.pictures[index]
        path = folder.joinpath(*place)
        entry = entries.get(place, Entry(None, None, ""))
        if labelled and entry.label is None:
            gathering.skip(f"{path} has no label in the metadata; add it there")
            continue
        label = entry.label if labelled else place[0] if len(place) > 1 else NO_CLASS
        try:
            beside = found.sidecars.get(_stem(place))
            caption = entry.caption or (read_caption(folder.joinpath(*beside)) if beside else None)
        except NextsetError as error:
            gathering.skip(f"{path} is left out with its caption: {error}")
        else:
            gathering.read(functools.partial(read_image, path), _printable(label), caption)
    _list_others(folder, found, gathering)
    return gathering.finish()


def _list_others(folder: Path, found: _Found, gathering: Gathering) -> None:
    """Name the files that nothing was made of."""
    stems = {_stem(place) for place in found.pictures}
    for stem, place in sorted(found.sidecars.items()):
        if stem not in stems:
            gathering.skip(f"{folder.joinpath(*place)} is a caption, but no picture of that name stands beside it")
    for place in found.others:
        ending = Path(place[-1]).suffix
        gathering.skip(f"{folder.joinpath(*place)} is no picture by its name ({ending or 'without ending'})")


@dataclasses.dataclass
class _Found:
    """The files below a folder, by what they are for; sidecars by the picture's path without its ending."""

    pictures: list[Place] = dataclasses.field(default_factory=list)
    sidecars: dict[Place, Place] = dataclasses.field(default_factory=dict)
    metadata: list[Place] = dataclasses.field(default_factory=list)
    others: list[Place] = dataclasses.field(default_factory=list)


def _walk(folder: Path) -> _Found:
    found = _Found()
    for path in folder.rglob("*"):
        place = path.relative_to(folder).parts
        if any(part.startswith(".") for part in place) or path.is_dir():
            continue
        if path.name == "metadata.parquet":
            raise NextsetError(f"{path} is read with Hugging Face's library; give hf:{folder} as the source")
        ending = path.suffix.lower()
        if ending in ENDINGS:
            found.pictures.append(place)
        elif path.name in METADATA:
            found.metadata.append(place)
        elif ending == ".txt":
            found.sidecars[_stem(place)] = place
        else:
            found.others.append(place)
    found.pictures.sort(key=lambda place: (place[0] if len(place) > 1 else NO_CLASS, place))
    found.others.sort()
    return found


def _stem(place: Place) -> Place:
    return (*place[:-1], Path(place[-1]).stem)


def _printable(label: int | str | None) -> int | str | None:
    """A folder's name may hold bytes that are no text; a class's name may not."""
    return label.encode("utf-8", "backslashreplace").decode() if isinstance(label, str) else label
