"""A folder of pictures, as people have them: classes are its sub-folders, and broken files do not stop anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nextset.core.errors import NextsetError
from nextset.data.images import fit, read_image
from nextset.data.pictures import MEMORY, Gathering, Pictures

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ppm", ".pgm", ".qoi")
NO_CLASS = "all"


def read_folder(
    folder: str | Path,
    size: int,
    *,
    how: Literal["cover", "contain", "stretch"] = "cover",
    flip: bool = False,
    memory: int = MEMORY,
) -> Pictures:
    """Every picture below a folder, fitted to size x size and held in memory.

    Classes are the first level of sub-folders, sorted by name, and within them files sorted by path; pictures that lie
    beside the sub-folders form the class "all". Names that begin with a dot are left out. Files that cannot be read are
    skipped and listed in `skipped`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NextsetError(f"{folder} is not a folder; give a folder of pictures, one sub-folder a class")
    found = []
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if path.suffix.lower() in ENDINGS and not any(p.startswith(".") for p in parts) and path.is_file():
            found.append((parts[0] if len(parts) > 1 else NO_CLASS, parts, path))
    if not found:
        raise NextsetError(f"{folder} holds no pictures; give a folder with files that end in {', '.join(ENDINGS)}")
    found.sort()
    gathering = Gathering(len(found), size, memory, str(folder))
    for index, (_, _, path) in enumerate(found):
        try:
            picture, notes = read_image(path)
        except NextsetError as error:
            gathering.skip(error)
        else:
            gathering.keep(index, fit(picture, size, size, how), notes)
    classes = sorted({name for name, _, _ in found})
    return gathering.finish([classes.index(name) for name, _, _ in found], classes, flip, str(folder))
