"""WebDataset shards: order, captions and labels, and that damage costs a sample or a shard, never memory or a run."""

from __future__ import annotations

import io
import pickle
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nextset.core.errors import NextsetError
from nextset.data.framing import PictureOptions
from nextset.data.shards import find_shards, read_shards
from tests.data.pictures import encoded, ramp, write_tar


def grey(value: int) -> bytes:
    return encoded(Image.new("RGB", (8, 8), (value, value, value)))


def numbered(folder: Path, count: int = 3, each: int = 2) -> Path:
    """Shards of pictures whose grey says where they lie: 10 * shard + member."""
    for shard in range(count):
        members = {f"{shard}{i}.png": grey(10 * shard + i) for i in range(each)}
        write_tar(folder / f"data-{shard:04}.tar", members)
    return folder


def greys(source: object, **options: object) -> list[int]:
    data = read_shards(str(source), 8, PictureOptions(**options))  # type: ignore[arg-type]
    assert isinstance(data.pixels, np.ndarray)
    return data.pixels[:, 0, 0, 0].tolist()


def test_order_is_shards_then_members(tmp_path: Path) -> None:
    folder = numbered(tmp_path)
    whole = [0, 1, 10, 11, 20, 21]
    assert greys(folder) == greys(folder / "data-{0000..0002}.tar") == greys(folder / "data-*.tar") == whole
    assert greys(folder / "data-{0002,0000}.tar") == [20, 21, 0, 1]
    assert greys(folder / "data-0001.tar") == [10, 11]
    assert greys(folder / "{data,none}-{0000..0001}.tar") == [0, 1, 10, 11]


def test_limit_takes_the_first(tmp_path: Path) -> None:
    data = read_shards(numbered(tmp_path), 8, PictureOptions(limit=3))
    assert len(data) == 3 and data.notes == ["limit: the first 3 samples were read"]
    assert read_shards(tmp_path, 8, PictureOptions(limit=6)).notes == []


def test_captions_labels_and_other_members(tmp_path: Path) -> None:
    members = {
        "train/0.jpg": encoded(ramp(), "JPEG"),
        "train/0.txt": b"first\n",
        "train/0.cls": b"2\n",
        "train/1.seg.png": grey(9),
        "train/1.PNG": grey(100),
        "train/1.json": b'{"caption": "second", "label": 0, "width": 8}',
        "train/2.webp": encoded(ramp(), "WEBP"),
        "train/2.json": b'{"text": "from json", "label": "1"}',
        "train/2.txt": b"from txt",
        "README": b"no sample",
        "._train/hidden": b"",
    }
    data = read_shards(write_tar(tmp_path / "a.tar", members), 8)
    assert data.captions == ["first", "second", "from txt"] and data.skipped == []
    assert data.labels.tolist() == [2, 0, 1] and data.class_names == ["0", "1", "2"]
    named = {"0.png": grey(0), "0.cls": b"dog", "1.png": grey(1), "1.cls": b"cat"}
    assert read_shards(write_tar(tmp_path / "b.tar", named), 8).class_names == ["cat", "dog"]


def test_labels_for_all_or_none(tmp_path: Path) -> None:
    members = {"0.png": grey(0), "0.cls": b"1", "1.png": grey(1)}
    with pytest.raises(NextsetError, match=r"a\.tar: 1 of 2 pictures have no label"):
        read_shards(write_tar(tmp_path / "a.tar", members), 8)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x.png": b"broken"}, "x in "),
        ({"x.txt": b"words", "x.cls": b"1"}, "has no picture (it has .txt, .cls)"),
        ({"x.jpg": b"", "x.txt": b"words"}, "0 bytes"),
        ({"x.png": grey(1), "x.txt": b"\xff"}, "the caption of x in"),
        ({"x.png": grey(1), "x.txt": b"y" * 70_000}, "x.txt in"),
        ({"x.png": grey(1), "x.json": b"{"}, "the .json of x in"),
        ({"x.png": grey(1), "x.json": b"[]"}, "is no JSON object"),
        ({"x.png": grey(1), "x.json": b'{"caption": 3}'}, "the caption is '3', but must be text"),
        ({"x.png": grey(1), "x.PNG": grey(2)}, "two members of one base name end in .png"),
    ],
)
def test_broken_samples_are_listed_and_the_rest_is_read(
    tmp_path: Path, members: dict[str, bytes], message: str
) -> None:
    data = read_shards(write_tar(tmp_path / "a.tar", {"0.png": grey(1), **members, "z.png": grey(2)}), 8)
    assert len(data) == 2 and len(data.skipped) == 1
    assert message in data.skipped[0] and "a.tar" in data.skipped[0] and "\n" not in data.skipped[0]


def test_damaged_shards_keep_what_comes_before(tmp_path: Path) -> None:
    numbered(tmp_path, each=4)
    middle = tmp_path / "data-0001.tar"
    whole = middle.read_bytes()
    third = whole.index(b"12.png")
    for data, kept, reason in (
        (whole[: third + 512 + 20], 2, "12.png is cut short"),  # inside a member
        # where the next header is lost, more of sample 11 may have been lost with it; tarfile takes both for the end
        (whole[: third + 100], 1, "no header at byte"),
        (whole[:third] + b"\xff" * 512 + whole[third + 512 :], 1, "no header at byte"),
    ):
        middle.write_bytes(data)
        read = read_shards(tmp_path, 8)
        assert len(read) == 4 + kept + 4 and len(read.skipped) == 1
        assert f"data-0001.tar is damaged after {kept} samples" in read.skipped[0] and reason in read.skipped[0]
    middle.unlink()
    read = read_shards(tmp_path / "data-{0000..0002}.tar", 8)
    assert len(read) == 8 and read.skipped == [f"{middle} cannot be read after 0 samples: No such file or directory"]


@pytest.mark.parametrize("content", [b"", b"words", b"\x1f\x8b\x08" + bytes(600)])
def test_what_is_no_shard(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(NextsetError, match=r"holds no picture that can be read \(1 were skipped; the first: .*a\.tar"):
        read_shards(tmp_path, 8)


def test_places_that_name_nothing(tmp_path: Path) -> None:
    for source in (tmp_path / "a-{00..03}.tar", tmp_path / "none.tar", tmp_path / "*.tar"):
        with pytest.raises(NextsetError, match="names no file that exists"):
            find_shards(source)
    for many in ("a-{0..99999999999}.tar", "{1..9999}{1..9999}.tar"):
        with pytest.raises(NextsetError, match="more than 100,000 shards"):
            find_shards(many)
    with pytest.raises(NextsetError, match="is no local file"):
        find_shards("https://example.org/a.tar")


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The header of a member that claims that size."""
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (header("x.png", 2**40), "unexpected end of data"),
        (header("x.png", 2**29), "is cut short"),
        (header("x.png", -1024), "leads back"),
        (header("x", 2**33, tarfile.XHDTYPE), "a header claims"),
        (header("x", 2**33, tarfile.GNUTYPE_LONGNAME), "a header claims"),
        (header("x", -1024, tarfile.XHDTYPE), "a header claims"),
        (header("x.png", 0, tarfile.GNUTYPE_SPARSE), "x.png in"),
    ],
)
def test_headers_that_lie_cost_neither_memory_nor_time(tmp_path: Path, hostile: bytes, reason: str) -> None:
    good = write_tar(tmp_path / "a.tar", {"0.png": grey(5), "1.png": grey(6)}).read_bytes()
    (tmp_path / "a.tar").write_bytes(good[:2048] + hostile + bytes(1024))
    began = time.monotonic()
    data = read_shards(tmp_path / "a.tar", 8)
    assert len(data) in (1, 2) and time.monotonic() - began < 2
    assert data.skipped and reason in data.skipped[0]


def test_links_and_pickles_are_not_followed(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "outside.png").write_bytes(grey(7))
    path = write_tar(tmp_path / "a.tar", {"0.png": grey(5), "0.pkl": pickle.dumps(Runs()), "0.pyd": pickle.dumps(1)})
    with tarfile.open(path, "a") as tar:
        for kind, target in ((tarfile.SYMTYPE, str(tmp_path / "outside.png")), (tarfile.LNKTYPE, "0.png")):
            link = tarfile.TarInfo(f"{kind!r}.png")
            link.type, link.linkname = kind, target
            tar.addfile(link)
    assert greys(path) == [5] and not (tmp_path / "ran").exists()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_bytes_give_pictures_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (("\u00e9.png", grey(1)), ("\u00e9.json", b'{"label": 1}'), ("b.png", grey(2))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    raw = bytearray(buffer.getvalue()[:6000])
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.tar"
    path.write_bytes(raw)
    try:
        read = read_shards(path, 8)
    except NextsetError as error:
        assert "\n" not in str(error)
    else:
        assert 1 <= len(read) <= 3
