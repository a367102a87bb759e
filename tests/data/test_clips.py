"""A folder of clips as people have them: several kinds of files, classes, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.clips import read_clips
from nextset.data.dataset import open_dataset
from nextset.data.inventory import inventory, summary
from nextset.data.shapes import MovingShapes, ShapesOptions
from nextset.data.video import save_video

DATA = MovingShapes(12, ShapesOptions(frames=6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of clips that lose nothing, one of another kind, and files that cannot be used."""
    root = tmp_path_factory.mktemp("clips")
    for i, place in enumerate(("b/0.webp", "a/1.webp", "a/deep/2.gif")):
        save_video(DATA.images(torch.tensor([i]))[0], root / place)
    save_video(DATA.images(torch.tensor([3]))[0][:, :2], root / "a/short.webp")
    (root / "a/bad.gif").write_bytes(b"no")
    (root / "a/words.txt").write_text("words")
    (root / ".hidden.gif").write_bytes(b"no")
    return root


def test_clips_with_classes_and_what_is_left_out(folder: Path) -> None:
    data = open_dataset(f"clips:{folder}", size=12, frames=6)
    assert data.class_names == ["a", "b"] and data.labels.tolist() == [0, 0, 1]
    torch.testing.assert_close(data.images(torch.tensor([2, 0])), DATA.images(torch.tensor([0, 1])), atol=0.005, rtol=0)
    about = inventory(data)
    assert (about["pictures"], about["frames"], about["classes"]) == (3, 6, {"a": 2, "b": 1})
    said = "\n".join(summary(about))
    assert "words.txt is no clip by its name" in said and "short.webp has 2 frames, but 6 are needed" in said
    assert "bad.gif" in said and "hidden" not in said
    assert data.fingerprint == open_dataset(f"clips:{folder}", size=12, frames=6).fingerprint
    assert data.fingerprint != open_dataset(f"clips:{folder}", size=12, frames=3).fingerprint


def test_frames_size_limit_and_mirrors(folder: Path) -> None:
    data = open_dataset(f"clips:{folder}", size=8, frames=3, flip=True, limit=2)
    assert data.images(torch.tensor([0])).shape == (1, 3, 3, 8, 8) and data.augmented
    assert any("limit: 2 of 5 files" in note for note in data.notes)
    plain, index = data.images(torch.zeros(20, dtype=torch.int64)), torch.zeros(20, dtype=torch.int64)
    seen = data.images(index, Noise(0), torch.arange(20))
    mirrored = [bool(torch.equal(a, b.flip(-1))) for a, b in zip(seen, plain, strict=True)]
    same = [bool(torch.equal(a, b)) for a, b in zip(seen, plain, strict=True)]
    assert 3 < sum(mirrored) < 17 and all(m or s for m, s in zip(mirrored, same, strict=True))
    assert torch.equal(seen[7:9], data.images(index[:2], Noise(0), torch.tensor([7, 8])))


def test_films_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="needs the extra `video`")
    save_video(DATA.images(torch.tensor([5]))[0], tmp_path / "one.mp4")
    data = open_dataset(f"clips:{tmp_path}", size=12, frames=6)
    assert (
        data.class_names == ["all"]
        and (data.images(torch.tensor([0])) - DATA.images(torch.tensor([5]))).abs().mean() < 0.1
    )
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(NextsetError, match=r"pip install 'nextset\[video\]'"):
        open_dataset(f"clips:{tmp_path}", size=12)


def test_refusals(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no")
    for act, line in (
        (lambda: open_dataset("clips:none"), "none is not a folder; give a folder of clips"),
        (lambda: open_dataset(f"clips:{tmp_path}"), "holds no clips; give a folder with files that end in .mp4"),
        (lambda: open_dataset(f"clips:{folder}", frame=3), "did you mean 'frames'"),
        (lambda: open_dataset(f"clips:{folder}", frames=1), "between 2 and 1024"),
        (
            lambda: open_dataset(f"clips:{folder}", size=8),
            r"holds no clip that can be read \(6 skipped; the first: .*1.webp has 6",
        ),
        (lambda: read_clips(folder, 100, memory=10**6), "take a smaller size, fewer frames, or limit=2"),
    ):
        with pytest.raises(NextsetError, match=line):
            act()
