"""Sidecars and metadata files beside pictures, and what is said of broken ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nextset.core.errors import NextsetError
from nextset.data.captions import MAX_CAPTION
from nextset.data.folder import read_folder
from nextset.data.pictures import Pictures
from tests.data.pictures import encoded, ramp, write_files

PICTURE = encoded(ramp(8, 8))


def lines(*rows: object) -> bytes:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()


def read(root: Path, files: dict[str, bytes]) -> Pictures:
    return read_folder(write_files(root, {"a.png": PICTURE, "b.png": PICTURE, "sub/c.png": PICTURE, **files}), 8)


def refused(root: Path, files: dict[str, bytes]) -> str:
    with pytest.raises(NextsetError) as caught:
        read(root, files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sidecars(tmp_path: Path) -> None:
    texts = {"a.txt": "\ufeffa red \u00e9clair\n".encode(), "b.txt": b"two\nlines", "sub/c.txt": b"deep"}
    data = read(tmp_path, texts)
    assert data.captions == ["a red \u00e9clair", "two\nlines", "deep"] and data.skipped == [] == data.notes
    assert data.class_names == ["all", "sub"]
    other = read(tmp_path, {"b.txt": b"three\nlines"})
    assert other.fingerprint != data.fingerprint
    for name in texts:
        (tmp_path / name).unlink()
    without = read(tmp_path, {})
    assert without.captions is None and without.fingerprint not in (data.fingerprint, other.fingerprint)


def test_pictures_without_caption_are_counted(tmp_path: Path) -> None:
    data = read(tmp_path, {"b.txt": b"one", "a.txt": b" \n"})
    assert data.captions == ["", "one", ""]
    assert data.notes == ["2 of 3 pictures have no caption; theirs is empty"]


def test_captions_that_cannot_be_used_leave_their_picture_out(tmp_path: Path) -> None:
    data = read(tmp_path, {"a.txt": b"\xff\xfe", "b.txt": b"x" * (MAX_CAPTION + 1), "sub/d.txt": b"nobody's"})
    assert len(data) == 1
    assert "a.png is left out with its caption" in data.skipped[0] and "not UTF-8 text" in data.skipped[0]
    assert "a.txt" in data.skipped[0] and "more than 65,536 bytes" in data.skipped[1]
    assert "d.txt is a caption, but no picture of that name" in data.skipped[2]


def test_metadata_as_hugging_face_has_it(tmp_path: Path) -> None:
    rows = lines({"file_name": "b.png", "text": "bee"}, "", {"file_name": "sub/c.png", "text": "sea"})
    data = read(tmp_path, {"metadata.jsonl": rows})
    assert data.captions == ["", "bee", "sea"] and data.class_names == ["all", "sub"] and data.skipped == []
    table = 'file_name,caption,label\r\na.png,"with, comma",cat\r\nb.png,,dog\r\nsub/c.png,"two\r\nlines",cat\r\n'
    (tmp_path / "metadata.jsonl").unlink()
    data = read(tmp_path, {"metadata.csv": table.encode(), "b.txt": b"from a sidecar"})
    assert data.captions == ["with, comma", "from a sidecar", "two\r\nlines"]
    assert data.class_names == ["cat", "dog"] and data.labels.tolist() == [0, 1, 0]


def test_metadata_in_sub_folders_and_numbers_as_labels(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        {
            "metadata.jsonl": lines({"file_name": "a.png", "label": 2}),
            "sub/metadata.jsonl": lines({"file_name": "./c.png", "label": "0", "text": "sea"}),
        },
    )
    assert data.labels.tolist() == [2, 0] and data.class_names == ["0", "1", "2"]
    assert data.captions == ["", "sea"]
    assert len(data.skipped) == 1 and "b.png has no label in the metadata" in data.skipped[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lines({"file_name": "a.png"}, '{"file_name": "b.p'), "metadata.jsonl line 2 is not valid JSON"),
        (lines("[1]"), "line 1 is no JSON object"),
        (lines({"text": "x", "file": "a.png"}), "line 1 has no file_name (it has: text, file)"),
        (lines({"file_name": 3}), "line 1 has no file_name"),
        (lines({"file_name": "aa.png"}), "'aa.png', which is no picture of the folder; did you mean 'a.png'"),
        (lines({"file_name": "../a.png"}), "which is no picture of the folder"),
        (lines({"file_name": "a.png"}, "", {"file_name": "./a.png"}), "line 3 names './a.png', as"),
        (lines({"file_name": "a.png", "text": ["x"]}), "line 1: the caption is \"['x']\", but must be text"),
        (lines({"file_name": "a.png", "label": True}), "line 1: the label is 'True'"),
        (b'{"file_name": "\xff"}', "line 1 is not valid JSON"),
        (b"[" * 100_000, "line 1 is not valid JSON"),
    ],
)
def test_broken_metadata_is_named_with_its_line(tmp_path: Path, rows: bytes, message: str) -> None:
    assert message in refused(tmp_path, {"metadata.jsonl": rows})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"name,text\na.png,x\n", "metadata.csv line 2 has no file_name (it has: name, text)"),
        (b"file_name,text\na.png,x\nb.png,\xff\n", "metadata.csv line 3 is not UTF-8 text"),
        (b"file_name,text\na.png," + b"x" * 200_000, "metadata.csv line 2 is not valid CSV"),
        (b"file_name,text\na.png,x\na.png,y\n", "as "),
    ],
)
def test_broken_tables_are_named_with_their_line(tmp_path: Path, table: bytes, message: str) -> None:
    assert message in refused(tmp_path, {"metadata.csv": table})


def test_two_metadata_files_may_not_name_one_picture(tmp_path: Path) -> None:
    row = lines({"file_name": "sub/c.png", "text": "x"})
    message = refused(tmp_path, {"metadata.jsonl": row, "sub/metadata.csv": b"file_name,text\nc.png,y\n"})
    assert "metadata.csv line 2" in message and "metadata.jsonl line 1" in message
    assert "give hf:" in refused(tmp_path, {"sub/metadata.parquet": b""})


def test_names_that_are_no_text(tmp_path: Path) -> None:
    strange = os.fsdecode(b"caf\xe9 \n")
    try:
        write_files(tmp_path, {f"{strange}/a.png": PICTURE, f"{strange}/b.png": b"no"})
    except OSError:
        pytest.skip("this file system has no such names")
    data = read_folder(tmp_path, 8)
    assert data.class_names == ["caf\\udce9 \n"] and "\n" not in data.skipped[0]
    data.skipped[0].encode()
