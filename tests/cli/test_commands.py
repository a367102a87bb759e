"""The commands, run as a person runs them: files that appear, exit codes, one line for what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from nextset.data.images import save_png
from nextset.hub import pretrained
from tests.battery import instances
from tests.cli.running import refuse, run
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return save_png(torch.rand(3, 24, 30) * 2 - 1, tmp_path / "in.png")


def test_generate_writes_grid_gif_and_files(model: Path, tmp_path: Path) -> None:
    run(
        "generate",
        "-m",
        model,
        "-c",
        "heart",
        "-n",
        5,
        "-o",
        tmp_path / "g.png",
        "--gif",
        tmp_path / "g.gif",
        "--each",
        tmp_path / "each",
        "--zoom",
        1,
    )
    assert Image.open(tmp_path / "g.png").size == (56, 38)
    gif = Image.open(tmp_path / "g.gif")
    assert gif.n_frames == 4
    assert len(list((tmp_path / "each").glob("*.png"))) == 5


def test_generate_is_the_same_for_the_same_seed(model: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(
            "generate",
            "-m",
            model,
            "-n",
            3,
            "--seed",
            7,
            "-o",
            tmp_path / f"{name}.png",
            "--batch",
            1 if name == "a" else 3,
        )
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_generate_previews_in_the_terminal(model: Path, tmp_path: Path) -> None:
    run("generate", "-m", model, "-n", 1, "--preview", "-o", tmp_path / "p.png")
    assert (tmp_path / "p.png").exists()


def test_generate_knows_the_sizes_of_a_model_that_has_several(model: Path, tmp_path: Path) -> None:
    flexible = pretrained.save(tmp_path / "flexible", instances.flexvar().model, class_names=list("abcde"))
    out = tmp_path / "wide.png"
    run("generate", "-m", flexible, "-n", 1, "--width", 16, "--height", 8, "-o", out, "--zoom", 1)
    single = Image.open(out).size
    assert single[0] - single[1] == 8
    assert "has no use for --width; leave it out" in refuse("generate", "-m", model, "--width", 16)


def test_generate_gives_classes_the_temperature_that_their_model_knows(tmp_path: Path) -> None:
    folder = pretrained.save(tmp_path / "tokens", instances.llamagen().model, class_names=list("abcde"))
    written = []
    for temperature in (0.01, 1.0, 1.0):
        run("generate", "-m", folder, "-n", 4, "--temperature", temperature, "-o", tmp_path / "t.png")
        written.append((tmp_path / "t.png").read_bytes())
    assert written[1] == written[2] != written[0]
    assert "temperature is -1" in refuse("generate", "-m", folder, "--temperature", -1)


def test_generate_lists_classes(model: Path) -> None:
    assert "heart" in run("generate", "-m", model, "--list")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-c", "hart"), "did you mean 'heart'"),
        (("--cfg", "-1"), "guidance_scale is -1.0"),
        (("--top-p", "2"), "top_p is 2.0"),
        (("--top-k", "-1"), "top_k is -1"),
        (("-n", "0"), "n is 0"),
        (("--dtype", "float8"), "dtype is 'float8'"),
        (("--device", "cuda"), "no CUDA device"),
        (("--device", "toaster"), "torch does not know"),
        (("-o", "x.xyz"), "no picture format|picture"),
    ],
)
def test_generate_refuses_bad_values(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    assert re.search(message, refuse("generate", "-m", model, *arguments))
    assert not list(tmp_path.iterdir()), "something half written was left"


def test_reconstruct_shows_every_scale(model: Path, picture: Path, tmp_path: Path) -> None:
    run("reconstruct", picture, "-m", model, "-o", tmp_path / "r.png")
    assert Image.open(tmp_path / "r.png").width > 5 * 16


@pytest.mark.parametrize("command", ["inpaint", "outpaint", "edit"])
def test_edits_write_a_picture(command: str, model: Path, picture: Path, tmp_path: Path) -> None:
    extra = ("-c", "heart") if command == "edit" else ()
    run(command, picture, "-m", model, "--box", "0.2,0.2,0.8,0.8", "-n", 2, "-o", tmp_path / "e.png", *extra)
    assert (tmp_path / "e.png").exists()


def test_edit_takes_a_mask_and_pixels(model: Path, picture: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (30, 24))
    mask.paste(255, (10, 8, 20, 16))
    mask.save(tmp_path / "mask.png")
    run("inpaint", picture, "-m", model, "--mask", tmp_path / "mask.png", "-o", tmp_path / "a.png")
    run("inpaint", picture, "-m", model, "--box", "8,10,16,20", "-o", tmp_path / "b.png")
    assert (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()


def test_pictures_that_cannot_be_used(model: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    assert "not exist" in refuse("reconstruct", tmp_path / "none.png", "-m", model)
    assert "text.png" in refuse("reconstruct", tmp_path / "text.png", "-m", model)
    assert "box is" in refuse("inpaint", picture, "-m", model, "--box", "1,2")
    assert "either" in refuse("inpaint", picture, "-m", model)
    assert "fit is" in refuse("inpaint", picture, "-m", model, "--box", "0,0,1,1", "--fit", "squeeze")


def test_tokenize_caches_a_folder(model: Path, tmp_path: Path) -> None:
    for i in range(3):
        save_png(torch.rand(3, 20, 20) * 2 - 1, tmp_path / "data" / f"c{i % 2}" / f"{i}.png")
    (tmp_path / "data" / "c0" / "broken.png").write_text("broken")
    run("tokenize", tmp_path / "data", "-m", model, "-o", tmp_path / "codes.npz", "--variants", 2)
    from nextset.data.codes import load_codes

    codes = load_codes(tmp_path / "codes.npz")
    assert codes.values.shape == (2, 3, 30) and str(codes.values.dtype) == "int16" and codes.class_names == ["c0", "c1"]


def test_train_both_stages_and_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(6):
        save_png(torch.rand(3, 16, 16) * 2 - 1, tmp_path / "data" / f"c{i % 2}" / f"{i}.png")
    fast = [
        "steps=3",
        "warmup=1",
        "batch=2",
        "log_every=1",
        "sample_every=3",
        "dtype=float32",
        f"data.source={tmp_path / 'data'}",
        "data.size=16",
    ]
    (tmp_path / "tok.toml").write_text(
        'kind = "tokenizer"\n[model]\nvocabulary = 32\nsides = [1, 2, 4]\n[model.autoencoder]\nchannels = 8\nmultipliers = [1, 1, 2]\nblocks = 1\n'
        'latent = 8\ngroups = 4\n[data]\nsource = "x"\n[train]\nema = 0.9\n'
    )
    (tmp_path / "gen.toml").write_text(
        'kind = "generator"\nsystem = "var"\n[model]\ndepth = 2\nwidth = 32\nheads = 2\n[data]\nsource = "x"\ntokenizer = "x"\n[train]\nema = 0.9\n'
        "[sample]\nguidance_scale = 1.0\ntop_k = 5\n"
    )
    run("train", tmp_path / "tok.toml", *fast, "-o", tmp_path / "tok")
    run("train", tmp_path / "gen.toml", *fast, f"data.tokenizer={tmp_path / 'tok' / 'model'}", "-o", tmp_path / "gen")
    assert (tmp_path / "gen" / "samples" / "step-000003.png").exists()
    assert len((tmp_path / "gen" / "metrics.jsonl").read_text().splitlines()) == 3
    run("generate", "-m", tmp_path / "gen" / "model", "-c", "c1", "-n", 2, "-o", tmp_path / "out.png")
    assert "already holds" in refuse(
        "train", tmp_path / "gen.toml", *fast, f"data.tokenizer={tmp_path / 'tok' / 'model'}", "-o", tmp_path / "gen"
    )
    assert "no recipe" in refuse("train", "var-emojo")


def test_systems_and_describe() -> None:
    assert "available" in run("systems", "--state", "available")
    assert len(json.loads(run("systems", "--json"))) == 59
    assert "family" in run("systems", "--tree")
    assert "arXiv" in run("describe", "var")
    assert "axis" in run("describe", "var", "llamagen")
    assert "did you mean" in refuse("describe", "vra")


def test_bench_knows_its_scripts() -> None:
    assert "did you mean" in refuse("bench", "var-d61")


def test_the_installed_command_exits_with_2(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from nextset.cli import main; main()", "generate", "-m", str(model), "-c", "hart"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "COLUMNS": "200"}, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "did you mean 'heart'" in done.stderr
    assert "Traceback" not in done.stderr
