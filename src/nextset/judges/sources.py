"""Opens what a person has: a folder of pictures or a packed `.npz`, to be read picture by picture.

Judging leaves nothing out: a file that cannot be read stops it with its name, because a figure over fewer pictures is
another figure. The sizes must be equal, or one is asked for: then the middle square is cut out and area-averaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from nextset.core.errors import NextsetError, check_range
from nextset.data.arrays import array_names, read_arrays
from nextset.data.folder import ENDINGS, NO_CLASS
from nextset.data.images import read_image
from nextset.judges.pixels import as_rgb, box_resize
from nextset.judges.sets import ArraySet, PictureSet, named_labels

_MEMORY = 8 * 2**30


def open_set(source: str | Path, size: int | None = None) -> PictureSet:
    """A folder (classes are its sub-folders; order: by class, then by path) or an `.npz` (`images`, or `jpeg` and
    `offsets`; with `labels` and `classes`; in its order). size: pixels a side to bring all pictures to, 8..4096."""
    if size is not None:
        check_range("size", size, 8, 4096)
    path = Path(source)
    if path.is_dir():
        return _folder(path, size)
    if path.suffix == ".npz":
        return _packed(path, size)
    what = "is neither a folder nor an .npz file" if path.exists() else "does not exist"
    raise NextsetError(f"{path} {what}; give a folder of pictures or an .npz file")


def decoder() -> str:
    """What decodes picture files here: two decoders may differ by a grey level."""
    turbo = features.version("libjpeg_turbo")
    return f"Pillow {PIL.__version__}, {f'libjpeg-turbo {turbo}' if turbo else 'another libjpeg'}"


class FileSet:
    """Pictures that are decoded when they are read. one: picture i as uint8 (H, W, 3). content: sha256 of what is read."""

    def __init__(
        self,
        name: str,
        count: int,
        one: Callable[[int], np.ndarray],
        content: str,
        *,
        files: Sequence[str] = (),
        jpeg: bool,
        labels: np.ndarray | None,
        class_names: Sequence[str],
        size: int | None,
    ) -> None:
        self.name, self.files, self.jpeg = name, files, jpeg
        self.labels, self.class_names = named_labels(labels, class_names, count, name)
        self._count, self._one, self._side = count, one, size
        # another decoder may give other grey levels, and other statistics with them
        self.identity = hashlib.sha256(f"{content} {decoder()} {size}".encode()).hexdigest()
        height, width = self._sized(0).shape[:2]
        self.size = height, width

    def __len__(self) -> int:
        return self._count

    def _sized(self, index: int) -> np.ndarray:
        picture = self._one(index)
        return picture if self._side is None else middle(picture, self._side)

    def read(self, indices: np.ndarray) -> np.ndarray:
        out = np.empty((len(indices), *self.size, 3), dtype=np.uint8)
        for place, index in enumerate(indices.tolist()):
            picture = self._sized(index)
            if picture.shape[:2] != self.size:
                have = f"{picture.shape[1]} x {picture.shape[0]} pixels, others {self.size[1]} x {self.size[0]}"
                side = max(8, min(*picture.shape[:2], *self.size))
                which = self.files[index] if self.files else f"picture {index}"
                raise NextsetError(f"{which} of {self.name} has {have}; bring all to one size: --size {side}")
            out[place] = picture
        return out


def middle(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 (H, W, 3) -> (side, side, 3): the middle square, area-averaged."""
    h, w, _ = picture.shape
    if (h, w) == (side, side):
        return picture
    edge = min(h, w)
    y, x = (h - edge) // 2, (w - edge) // 2
    square = box_resize(picture[None, y : y + edge, x : x + edge], side)[0]
    return np.floor(square + 0.5).astype(np.uint8)


def _folder(folder: Path, size: int | None) -> FileSet:
    """Files by class, then by path; names that begin with a dot are left out. Without sub-folders there are no labels."""
    found = []
    listing = hashlib.sha256()
    for path in folder.rglob("*"):
        inside = path.relative_to(folder).parts
        if path.suffix.lower() in ENDINGS and not any(p.startswith(".") for p in inside) and path.is_file():
            found.append((inside[0] if len(inside) > 1 else NO_CLASS, inside, path))
    if not found:
        raise NextsetError(f"{folder} holds no pictures; give a folder with files that end in {', '.join(ENDINGS)}")
    found.sort()
    for _, inside, path in found:
        about = path.stat()
        listing.update(repr((inside, about.st_size, about.st_mtime_ns)).encode())
    paths = [path for _, _, path in found]
    names = sorted({name for name, _, _ in found})
    labels = None if names == [NO_CLASS] else np.array([names.index(name) for name, _, _ in found])
    return FileSet(
        str(folder),
        len(paths),
        lambda i: np.asarray(read_image(paths[i])[0]),
        listing.hexdigest(),
        files=["/".join(inside) for _, inside, _ in found],
        jpeg=paths[0].suffix.lower() in (".jpg", ".jpeg"),
        labels=labels,
        class_names=names,
        size=size,
    )


def _packed(path: Path, size: int | None) -> PictureSet:
    names = array_names(path)
    kind = ["images"] if "images" in names else ["jpeg", "offsets"]
    arrays = read_arrays(path, [*kind, *(n for n in ("labels", "classes") if n in names)], limit=_MEMORY)
    count = len(arrays["images"]) if "images" in arrays else len(arrays["offsets"]) - 1
    if count < 1:
        raise NextsetError(f"{path} holds no pictures")
    labels, classes = arrays.get("labels"), [str(c) for c in arrays.get("classes", ())]
    if "images" in arrays and size is None:
        return ArraySet(arrays["images"], labels=labels, class_names=classes, name=str(path))
    one = _arrays(arrays["images"]) if "images" in arrays else _files(arrays["jpeg"], arrays["offsets"], path)
    with path.open("rb") as handle:
        content = hashlib.file_digest(handle, "sha256").hexdigest()
    return FileSet(
        str(path),
        count,
        one,
        content,
        jpeg="jpeg" in arrays,
        labels=labels,
        class_names=classes,
        size=size,
    )


def _arrays(images: np.ndarray) -> Callable[[int], np.ndarray]:
    return lambda i: as_rgb(images[i : i + 1])[0]


def _files(data: np.ndarray, offsets: np.ndarray, path: Path) -> Callable[[int], np.ndarray]:
    ends = offsets.astype(np.int64)
    if data.dtype != np.uint8 or data.ndim != 1 or ends[0] < 0 or ends[-1] > len(data) or (np.diff(ends) < 0).any():
        raise NextsetError(f"{path}: offsets must rise from 0 to at most {data.size}, the size of jpeg; write it again")
    return lambda i: np.asarray(read_image(data[ends[i] : ends[i + 1]].tobytes(), name=f"picture {i} of {path}")[0])
