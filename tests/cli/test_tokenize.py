"""`nextset tokenize` on every source, and training on a folder as people have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nextset.data.codes import load_codes
from nextset.data.dataset import open_dataset
from nextset.hub import pretrained
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.tokenizers.kl import KLAutoencoder, KLConfig
from tests.cli import running
from tests.cli.running import refuse
from tests.data.pictures import encoded, mixed_folder, ramp, write_files, write_tar
from tests.tiny import save_tiny

PICTURES = {f"c{i % 2}/{i}.png": encoded(ramp(20 + i, 30)) for i in range(4)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tokenize") / "model")


def run(*arguments: object) -> str:
    """Output of a command that must succeed, as one line."""
    return " ".join(running.run(*arguments).split())


def sources(root: Path) -> dict[str, str]:
    """The same four pictures as every kind of source."""
    folder = write_files(root / "set", PICTURES)
    data = open_dataset(folder, size=16)
    np.savez(root / "set.npz", images=data.pixels, labels=data.labels.numpy())  # type: ignore[attr-defined]
    samples = [(f"{i}", PICTURES[f"c{i % 2}/{i}.png"], f"c{i % 2}") for i in (0, 2, 1, 3)]  # as folders sort them
    for shard in range(2):
        members = {}
        for name, picture, label in samples[2 * shard : 2 * shard + 2]:
            members.update({f"{name}.png": picture, f"{name}.cls": label.encode()})
        write_tar(root / f"data-{shard:04}.tar", members)
    return {
        "folder": str(folder),
        "npz": str(root / "set.npz"),
        "shards": str(root / "data-{0000..0001}.tar"),
        "hf": f"hf:{folder}",
    }


@pytest.mark.parametrize("kind", ["npz", "shards", "hf"])
def test_every_source_gives_the_same_codes(model: Path, tmp_path: Path, kind: str) -> None:
    if kind == "hf":
        pytest.importorskip("datasets", reason="needs the extra `train`")
    places = sources(tmp_path)
    for name in ("folder", kind):
        said = run("tokenize", places[name], "-m", model, "-o", tmp_path / f"{name}.npz")
        assert "4 pictures x 1, 30 ids each, 2 classes" in said
    codes, expected = load_codes(tmp_path / f"{kind}.npz"), load_codes(tmp_path / "folder.npz")
    assert np.array_equal(codes.values, expected.values) and codes.values.dtype == np.int16
    assert codes.labels.tolist() == [0, 0, 1, 1]


def test_options_variants_and_what_is_listed_last(model: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "set", {**PICTURES, "c1/bad.png": b"no", "c0/0.txt": b"words"})
    out = tmp_path / "codes.npz"
    said = run("tokenize", folder, "flip=true", "crop=random", "--variants", 3, "-m", model, "-o", out)
    assert "note: 3 of 4 pictures have no caption" in said and "all variants are alike" not in said
    assert said.index("with captions") < said.index("skipped: ") and "bad.png is not a picture" in said
    codes = load_codes(out)
    assert codes.values.shape == (3, 4, 30) and codes.captions == ["words", "", "", ""]
    assert not np.array_equal(codes.values[0], codes.values[1])
    assert "all variants are alike" in run("tokenize", folder, "--variants", 2, "-m", model, "-o", out)
    assert "limit: 2 of 5 files were read" in run("tokenize", folder, "limit=2", "-m", model, "-o", out)
    assert load_codes(out).values.shape == (1, 2, 30)


def test_a_tokenizer_without_codebook_gives_its_features(tmp_path: Path) -> None:
    """What a generator of continuous tokens is trained on: moments, from which latents are drawn anew."""
    torch.manual_seed(0)
    sizes = AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4)
    kl = KLAutoencoder(KLConfig(sizes, sides=(8,))).eval()
    folder = write_files(tmp_path / "set", PICTURES)
    out, saved = tmp_path / "codes.npz", pretrained.save(tmp_path / "kl", kl)
    assert "4 pictures x 2, features 8x8x8 each, 2 classes" in run(
        "tokenize", folder, "flip=true", "--variants", 2, "-m", saved, "-o", out
    )
    codes, data = load_codes(out), open_dataset(folder, size=16)
    assert codes.kind == "features" and codes.values.shape == (2, 4, 8, 8, 8)
    with torch.no_grad():
        expected = kl.features(data.images(torch.arange(4)))
    np.testing.assert_allclose(codes.values[0], expected, atol=2e-2, rtol=1e-3)
    assert codes.fingerprint.endswith("-features")


def test_help_has_examples() -> None:
    assert "nextset tokenize my/pictures flip=true crop=random --variants 4" in run("tokenize", "--help")


def test_refusals_write_nothing(model: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "set", PICTURES)
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "nan.npz", images=np.full((2, 8, 8, 3), np.nan, np.float32))
    out = tmp_path / "out" / "codes.npz"
    for arguments, message in (
        ((folder, "flip"), "'flip' is no option; write name=value"),
        ((folder, "size=32"), "the size is the tokenizer's"),
        ((folder, "flp=true"), "did you mean 'flip'"),
        ((folder, "--variants", "0"), "variants is 0"),
        ((tmp_path / "empty",), "holds no pictures"),
        ((tmp_path / "nan.npz",), "picture 0 holds NaN"),
        ((tmp_path / "none",), "does not exist; give emoji, a folder"),
    ):
        assert message in refuse("tokenize", *arguments, "-m", model, "-o", out)
    assert not out.parent.exists()


def test_300_mixed_files_train_and_tokenize(tmp_path: Path) -> None:
    """By the commands that a person types; each file that was left out is named."""
    _, left_out = mixed_folder(tmp_path / "data")
    (tmp_path / "tok.toml").write_text(
        'kind = "tokenizer"\n[model]\nvocabulary = 32\nsides = [1, 2, 4]\n[model.autoencoder]\nchannels = 8\n'
        'multipliers = [1, 1, 2]\nblocks = 1\nlatent = 8\ngroups = 4\n[data]\nsource = "x"\nflip = true\n'
        'crop = "random"\nsize = 16\n[train]\nsteps = 2\nwarmup = 1\nbatch = 8\nlog_every = 1\n'
    )
    run("train", tmp_path / "tok.toml", f"data.source={tmp_path / 'data'}", "-o", tmp_path / "tok")
    said = run("tokenize", tmp_path / "data", "-m", tmp_path / "tok" / "model", "-o", tmp_path / "codes.npz")
    assert "204 pictures x 1" in said and said.count("skipped: ") == 21
    assert f"skipped: and {len(left_out) - 20} more" in said
    skipped = json.loads((tmp_path / "tok" / "data.json").read_text())["skipped"]
    assert len(skipped) == len(left_out) and all(any(name in line for line in skipped) for name in left_out)
    page = tmp_path / "tok" / "report.html"
    run("report", tmp_path / "tok")
    assert page.read_text().count(Path(next(iter(left_out))).name) >= 1
