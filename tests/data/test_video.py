"""Clips in files and on sheets: what is written is read again, and what cannot be read is said in one line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.data import video
from nextset.data.images import to_uint8
from nextset.data.shapes import MovingShapes, ShapesOptions
from nextset.data.video import check_video_path, read_video, save_video, side_by_side, still, strips


def clip(size: int = 16, frames: int = 6, n: int = 0) -> Tensor:
    return MovingShapes(size, ShapesOptions(frames=frames)).images(torch.tensor([n]))[0]


@pytest.mark.parametrize(("ending", "near"), [("webp", 0.0), ("png", 0.0), ("gif", 6.0)])
def test_what_is_written_is_read(tmp_path: Path, ending: str, near: float) -> None:
    """WebP and PNG lose nothing; a GIF has 256 colours."""
    path = save_video(clip(), tmp_path / "deep" / f"c.{ending}", fps=10)
    found, notes = read_video(path)
    assert found.shape == (3, 6, 16, 16) and len(notes) == (ending == "png")
    away = (to_uint8(found).int() - to_uint8(clip()).int()).abs().float()
    assert away.mean() <= near and (near or away.max() == 0)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_films(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs the extra `video`")
    path = save_video(clip(33, 12), tmp_path / "c.mp4", fps=12.5)
    with av.open(str(path)) as film:
        assert float(film.streams.video[0].average_rate) == 12.5
    found, _ = read_video(path)
    assert found.shape == (3, 12, 34, 34), "sides of a film are even"
    assert (found[:, :, :33, :33] - clip(33, 12)).abs().mean() < 0.05


def test_frames_and_size_are_chosen(tmp_path: Path) -> None:
    path = save_video(torch.linspace(-1, 1, 10)[None, :, None, None].expand(3, 10, 8, 12), tmp_path / "c.webp")
    found, notes = read_video(path, frames=4, size=(4, 4), how="contain")
    assert found.shape == (3, 4, 4, 4) and notes == [
        "12x8 brought to 4x4 (contain)",
        "4 of 10 frames were taken, evenly spaced",
    ]
    torch.testing.assert_close(found[0, :, 2, 2], torch.linspace(-1, 1, 10)[[0, 2, 5, 7]], atol=0.01, rtol=0)
    with pytest.raises(NextsetError, match="has 10 frames, but 16 are needed"):
        read_video(path, frames=16)


def test_transparent_frames_are_put_on_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (4, 4), (255, 0, 0, 255 * (i % 2))) for i in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    found, _ = read_video(tmp_path / "a.webp")
    torch.testing.assert_close(found[:, :, 1, 1].T, torch.tensor([[1.0, 1, 1], [1, -1, -1], [1, 1, 1]]))


@pytest.mark.parametrize("ending", ["gif", "webp", "mp4"])
def test_damaged_files_say_so(tmp_path: Path, ending: str) -> None:
    if ending == "mp4":
        pytest.importorskip("av", reason="needs the extra `video`")
    whole = save_video(clip(32), tmp_path / f"c.{ending}").read_bytes()
    for name, data in (("cut", whole[: len(whole) // 2]), ("no", b"no" * 99), ("empty", b"")):
        path = tmp_path / f"{name}.{ending}"
        path.write_bytes(data)
        with pytest.raises(NextsetError, match=f"{name}.{ending}"):
            read_video(path)
    with pytest.raises(NextsetError, match="does not exist"):
        read_video(tmp_path / f"none.{ending}")


def test_a_film_is_what_its_ending_says(tmp_path: Path) -> None:
    """A list of other files, which a player would follow, is refused unread."""
    pytest.importorskip("av", reason="needs the extra `video`")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(NextsetError, match="is no film that can be read"):
        read_video(tmp_path / "list.mp4")


def test_a_picture_is_a_strip_or_refused(tmp_path: Path) -> None:
    for size in ((7, 4), (4, 4)):
        Image.new("RGB", size).save(tmp_path / "a.png")
        with pytest.raises(NextsetError, match="neither a clip nor square frames"):
            read_video(tmp_path / "a.png")
    Image.new("RGB", (12, 4)).save(tmp_path / "a.png")
    assert read_video(tmp_path / "a.png", size=(2, 2))[0].shape == (3, 3, 2, 2)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_video(clip(), tmp_path / "c.webp")
    monkeypatch.setattr(video, "MAX_HELD", 16 * 16 * 3)
    with pytest.raises(NextsetError, match="longer than 3 frames"):
        read_video(path)
    assert read_video(path, size=(8, 8))[0].shape == (3, 6, 8, 8)


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for path, fps, line in (
        ("a.mpeg", 8, "clips are written as .mp4"),
        ("a", 8, "ends in ''"),
        ("a.gif", 0, "fps is 0"),
    ):
        with pytest.raises(NextsetError, match=line):
            save_video(clip(), tmp_path / path, fps=fps)
    with pytest.raises(NextsetError, match=r"must be \(3, frames, height, width\)"):
        save_video(clip()[None], tmp_path / "a.gif")
    with pytest.raises(NextsetError, match="NaN"):
        save_video(torch.full((3, 2, 4, 4), float("nan")), tmp_path / "a.webp")
    assert not any(tmp_path.iterdir())


def test_films_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    for act in (lambda p: save_video(clip(), p), read_video, check_video_path):
        with pytest.raises(NextsetError, match=r"pip install 'nextset\[video\]'"):
            act(tmp_path / "a.mp4")
    assert check_video_path(tmp_path / "a.gif") == tmp_path / "a.gif" and not any(tmp_path.iterdir())


def test_sheets() -> None:
    videos = torch.stack([clip(8, 6, n) for n in range(4)])
    assert torch.equal(strips(videos, 3)[1], torch.cat([videos[1, :, i] for i in (0, 2, 4)], -1))
    assert strips(videos, 50).shape == (4, 3, 8, 48)
    both = side_by_side(videos[:2], columns=2)
    assert both.shape == (3, 6, 12, 22) and torch.equal(both[:, 3, 2:10, 12:20], videos[1, :, 3])
    assert still(videos, columns=1).shape == (3, 42, 6 * 8 + 4)
    assert still(videos[:, :, 0]).shape == (3, 22, 22)


def test_bytes_are_the_same_for_the_same_clip(tmp_path: Path) -> None:
    buffers = [io.BytesIO(save_video(clip(), tmp_path / f"{i}.gif").read_bytes()) for i in range(2)]
    assert buffers[0].getvalue() == buffers[1].getvalue()
