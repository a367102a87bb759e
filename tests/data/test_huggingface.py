"""Data sets in Hugging Face's formats, read from this machine through their library, and what is said of others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nextset.core.errors import NextsetError
from nextset.data.dataset import open_dataset
from nextset.data.huggingface import HubOptions, parse, read_hub
from tests.data.pictures import encoded, ramp, write_files

datasets = pytest.importorskip("datasets", reason="needs the extra `train`")


@pytest.fixture
def parquet(tmp_path: Path) -> str:
    """Splits of five and two rows: pictures (the fourth broken, the fifth in greys), classes, captions, two more columns."""
    columns = {
        "image": datasets.Image(),
        "thumbnail": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog", "cow"]),
        "text": datasets.Value("string"),
        "artist": datasets.Value("string"),
    }
    files = [encoded(ramp(8 + i, 30)) for i in range(3)] + [b"broken", encoded(ramp().convert("L"), "JPEG")]
    rows = {
        "image": [{"bytes": data, "path": f"{i}.png"} for i, data in enumerate(files)],
        "thumbnail": [{"bytes": encoded(Image.new("RGB", (4, 4), "red")), "path": None}] * 5,
        "label": [0, 1, 0, 1, 1],
        "text": ["a", " b ", None, "d", "e"],
        "artist": ["x", "y", "x", "y", "z"],
    }
    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
    (tmp_path / "set" / "data").mkdir(parents=True)
    whole.to_parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    whole.select([1, 2]).to_parquet(tmp_path / "set" / "data" / "test-00000-of-00001.parquet")
    return f"hf:{tmp_path / 'set'}"


def test_rows_in_order_with_classes_and_captions(parquet: str) -> None:
    data = read_hub(parquet, 16)
    assert data.class_names == ["cat", "dog", "cow"] and data.labels.tolist() == [0, 1, 0, 1]
    assert data.captions == ["a", "b", "", "e"] and data.source == parquet
    assert data.converted == {"greyscale converted to RGB": 1}
    assert len(data.skipped) == 1 and data.skipped[0].startswith(f"row 3 of {parquet} (3.png) is not a picture")
    assert read_hub(f"{parquet}:test", 16).captions == ["b", ""]


def test_columns_may_be_chosen(parquet: str) -> None:
    data = open_dataset(parquet, size=8, image_column="thumbnail", label_column="artist", caption_column="artist")
    assert data.class_names == ["x", "y", "z"] and data.labels.tolist() == [0, 1, 0, 1, 2]
    assert data.captions == ["x", "y", "x", "y", "z"]
    assert (data.images(data.labels[:1])[0, :, 0, 0] == data.images(data.labels[1:2])[0, :, 4, 4]).all()


def test_limit_bounds_what_is_read(parquet: str) -> None:
    told: list[tuple[int, int | None]] = []
    data = read_hub(parquet, 8, HubOptions(limit=3), progress=lambda done, total: told.append((done, total)))
    assert len(data) == 3 and data.skipped == [] and told == [(1, None), (2, None), (3, None)]
    assert "limit: at most the first 3 rows were read" in data.notes
    with pytest.raises(NextsetError, match=r"has more than 2 pictures.*or limit=2"):
        read_hub(parquet, 8, memory=2 * 8 * 8 * 3)


def test_an_image_folder_with_metadata(tmp_path: Path) -> None:
    picture = encoded(ramp())
    rows = b'{"file_name": "a.png", "text": "one"}\n{"file_name": "b.png", "text": "two"}\n'
    write_files(tmp_path, {"train/a.png": picture, "train/b.png": picture, "train/metadata.jsonl": rows})
    data = read_hub(f"hf:{tmp_path}", 8)
    assert data.captions == ["one", "two"] and data.class_names == ["all"]


def test_an_image_folder_with_classes_and_broken_files(tmp_path: Path) -> None:
    write_files(tmp_path, {"cat/a.png": encoded(ramp()), "dog/b.png": b"no", "dog/c.png": encoded(ramp())})
    data = read_hub(f"hf:{tmp_path}", 8)
    assert data.class_names == ["cat", "dog"] and data.labels.tolist() == [0, 1]
    assert len(data.skipped) == 1 and "dog/b.png" in data.skipped[0]


def test_names_and_splits(tmp_path: Path) -> None:
    assert parse("hf:owner/name") == ("owner/name", "train")
    assert parse("hf:owner/name:validation[:10%]") == ("owner/name", "validation[:10%]")
    (tmp_path / "a:b").mkdir()
    assert parse(f"hf:{tmp_path / 'a:b'}") == (str(tmp_path / "a:b"), "train")
    with pytest.raises(NextsetError, match="names no data set"):
        parse("hf:")


def refused(source: str, **options: Any) -> str:
    with pytest.raises(NextsetError) as caught:
        read_hub(source, 8, HubOptions(**options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refusals(parquet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be opened at split 'dev'" in refused(f"{parquet}:dev")
    assert "has no column 'txt': did you mean 'text'" in refused(parquet, caption_column="txt")
    assert "no pictures in 'text'; give image_column=image or thumbnail" in refused(parquet, image_column="text")
    assert "row 0 of" in refused(parquet, caption_column="label")
    words = datasets.Dataset.from_dict({"words": ["x"]})
    (tmp_path / "words").mkdir()
    words.to_parquet(tmp_path / "words" / "train.parquet")
    assert "no pictures in 'words'; give a data set with a column of pictures" in refused(f"hf:{tmp_path / 'words'}")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    assert "hf:owner/name cannot be opened at split 'train': no route to host" in refused("hf:owner/name")


def test_a_stream_that_breaks_is_no_smaller_data_set(parquet: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.IterableDataset.__iter__

    def breaks(self: Any) -> Any:
        for i, row in enumerate(rows(self)):
            if i == 2:
                raise TimeoutError("the line is dead")
            yield row

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", breaks)
    message = refused(parquet)
    assert "broke off after 2 rows (the line is dead); try again, or read no more with limit=2" in message


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'nextset[train]'" in refused("hf:owner/name")
