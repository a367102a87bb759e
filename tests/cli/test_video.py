"""Commands with clips: generate, reconstruct, tokenize and train, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import nextset
from nextset.core.errors import NextsetError
from nextset.data.codes import load_codes
from nextset.data.shapes import MovingShapes, ShapesOptions
from nextset.data.video import read_video, save_video
from nextset.hub import pretrained
from tests.cli.running import refuse, run
from tests.tiny import save_tiny
from tests.tiny_video import SIZES, save_tiny_video


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_video(tmp_path_factory.mktemp("video") / "model")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("images") / "model")


def test_the_pipeline_makes_clips(model: Path, tmp_path: Path) -> None:
    pipe = nextset.load(model)
    out = pipe("dot", n=3, seed=1)
    assert out.tensors.shape == (3, 3, 4, 8, 8) and out.tokens.shape == (3, 8) and pipe.makes_clips
    assert [picture.size for picture in out.images] == [(32, 8)] * 3
    torch.testing.assert_close(pipe("dot", seed=1, indices=[2]).tensors[0], out.tensors[2])
    assert not torch.equal(out.tensors, pipe("sliding-star", n=3, seed=1).tensors)
    clip, _ = read_video(out.save_video(tmp_path / "c.webp", columns=3))
    assert clip.shape == (3, 4, 12, 32)
    assert pipe.reconstruct(out.tensors).scales[0].shape == out.tensors.shape


def test_generate_writes_strips_and_a_clip(model: Path, tmp_path: Path) -> None:
    for ending in ("gif", "webp", "png"):
        film = tmp_path / f"f.{ending}"
        run("generate", "-m", model, "-n", 2, "--zoom", 1, "--columns", 1, "-o", tmp_path / "s.png", "--video", film)
        if ending == "png":
            assert Image.open(film).size == (4 * 12, 22)
        else:
            assert Image.open(film).n_frames == 4 and Image.open(film).size == (12, 22)  # type: ignore[attr-defined]
    assert Image.open(tmp_path / "s.png").size == (4 * 8 + 4, 2 * 8 + 6)
    said = run("generate", "-m", model, "-n", 1, "--fps", 20, "-o", tmp_path / "s.png", "--each", tmp_path / "each",
               "--preview", "--gif", tmp_path / "grow.gif", "-c", "dot")  # fmt: skip
    assert "1 clip in" in " ".join(said.split()) and (tmp_path / "grow.gif").exists()
    (each,) = (tmp_path / "each").iterdir()
    assert each.name == "00000-dot-seed0.gif" and Image.open(each).n_frames == 4  # type: ignore[attr-defined]


def test_generate_writes_mp4(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs the extra `video`")
    run("generate", "-m", model, "-n", 1, "--video", tmp_path / "f.mp4", "-o", tmp_path / "s.png", "--fps", 12)
    clip, _ = read_video(tmp_path / "f.mp4")
    assert clip.shape == (3, 4, 512, 512)


def test_reconstruct_a_clip(model: Path, tmp_path: Path) -> None:
    clip = MovingShapes(12, ShapesOptions(frames=9)).images(torch.tensor([1]))[0]
    given = save_video(clip, tmp_path / "in.gif")
    said = run("reconstruct", given, "-m", model, "-o", tmp_path / "r.png", "--video", tmp_path / "r.webp")
    assert "4 of 9 frames were taken" in " ".join(said.split()) and "PSNR" in said
    assert (tmp_path / "r.png").exists() and Image.open(tmp_path / "r.webp").n_frames == 4  # type: ignore[attr-defined]
    assert "is one picture of" in refuse("reconstruct", _picture(tmp_path), "-m", model, "-o", tmp_path / "no.png")


def _picture(folder: Path) -> Path:
    Image.new("RGB", (30, 20)).save(folder / "still.png")
    return folder / "still.png"


def test_refusals_write_nothing(model: Path, images: Path, tmp_path: Path) -> None:
    out, film = tmp_path / "out" / "x.png", tmp_path / "out" / "x"
    for arguments, line in (
        (("generate", "-m", model, "--video", f"{film}.mpeg"), "ends in '.mpeg', but clips are written as .mp4, .gif"),
        (("generate", "-m", images, "--video", f"{film}.gif"), "makes pictures and no clips; leave out --video"),
        (("generate", "-m", model, "--video", f"{film}.gif", "--fps", 0), "fps is 0"),
        (("reconstruct", _picture(tmp_path), "-m", images, "--video", f"{film}.gif"), "reads pictures and no clips"),
        (("inpaint", _picture(tmp_path), "-m", model, "--box", "0,0,1,1"), "a clip is 3x8x8, but this tokenizer reads"),
    ):
        assert line in refuse(*arguments, "-o", out)
    assert not out.parent.exists()
    with pytest.raises(NextsetError, match="pictures do not move"):
        nextset.load(images)(n=1).save_video(tmp_path / "x.gif")


def test_without_the_package_for_films_it_says_which(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    arguments = ("generate", "-m", model, "-o", tmp_path / "s.png", "--video", tmp_path / "f.mp4")
    assert "pip install 'nextset[video]', or use a .gif or .webp" in refuse(*arguments)
    assert not any(tmp_path.iterdir())


def test_train_and_tokenize_clips(tmp_path: Path) -> None:
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in SIZES.items()}
    sizes = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lists.items())
    (tmp_path / "tok.toml").write_text(
        f'kind = "tokenizer"\n[model]\ntype = "larp"\nvocabulary = 16\nchannels = 4\n{sizes}\n[data]\n'
        'source = "moving-shapes"\nsize = 8\nframes = 4\nclips = 20\n'
        "[train]\nsteps = 2\nwarmup = 1\nbatch = 4\nlog_every = 1\n"
    )
    run("train", tmp_path / "tok.toml", "-o", tmp_path / "tok")
    sheet, film = (tmp_path / "tok" / "samples" / f"step-000002.{ending}" for ending in ("png", "gif"))
    assert sheet.exists() and Image.open(film).n_frames == 4  # type: ignore[attr-defined]
    assert json.loads((tmp_path / "tok" / "data.json").read_text())["frames"] == 4
    folder = tmp_path / "tok" / "model"
    said = run("tokenize", "moving-shapes", "frames=4", "clips=32", "-m", folder, "-o", tmp_path / "codes.npz")
    assert "32 clips x 1, 8 ids each, 16 classes" in " ".join(said.split())
    codes = load_codes(tmp_path / "codes.npz")
    data = MovingShapes(8, ShapesOptions(frames=4, clips=32))
    expected = pretrained.load(folder).model.encode(data.images(torch.arange(32)))
    assert torch.equal(torch.from_numpy(codes.values[0]).long(), expected)
    (tmp_path / "gen.toml").write_text(
        'kind = "generator"\nsystem = "nar"\n[model]\ndepth = 1\nwidth = 16\nheads = 2\npositions = "learned"\n[data]\n'
        f'source = "moving-shapes"\nsize = 8\nframes = 4\nclips = 32\ntokenizer = "{folder}"\n'
        "[train]\nsteps = 2\nwarmup = 1\nbatch = 4\nlog_every = 1\n"
    )
    run("train", tmp_path / "gen.toml", "-o", tmp_path / "gen")
    assert (tmp_path / "gen" / "samples" / "step-000002.gif").exists()
    assert "32 clips in 16 classes" in (tmp_path / "gen" / "model" / "README.md").read_text()
    out = nextset.load(tmp_path / "gen" / "model")("bouncing-star", n=1)
    assert out.tensors.shape == (1, 3, 4, 8, 8)


def test_clips_and_pictures_are_not_mixed(model: Path, images: Path, tmp_path: Path) -> None:
    reads = "has clips of 16 frames and 16 pixels, but the tokenizer reads pictures"
    assert reads in refuse("tokenize", "moving-shapes", "-m", images, "-o", tmp_path / "c.npz")
    reads = "has clips of 16 frames and 8 pixels, but the tokenizer reads clips of 4 frames and 8 pixels"
    assert reads in refuse("tokenize", "moving-shapes", "-m", model, "-o", tmp_path / "c.npz")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    reads = "has pictures of 8 pixels, but the tokenizer reads clips"
    assert reads in refuse("tokenize", tmp_path, "-m", model, "-o", tmp_path / "c.npz")
    assert "did you mean 'frames'" in refuse("tokenize", "moving-shapes", "frame=4", "-m", model)
