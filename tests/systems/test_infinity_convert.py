"""Infinity's released files: every size and layout is read as it is, and what no tensor tells is asked for in one line."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.hub.catalogue import get_record
from nextset.hub.convert import convert
from nextset.systems.infinity import Infinity, InfinityConfig
from nextset.systems.infinity.convert import cells_of_token
from nextset.systems.var import Var
from tests.systems import infinity_files as files


def saved(folder: Path, **contents: Any) -> list[Path]:
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pth")
    return [folder / f"{name}.pth" for name in contents]


def read(folder: Path, options: dict[str, Any] | None = None, **contents: Any) -> Any:
    """The model of these files; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return convert(saved(folder, **contents), **(options or {}))


def state() -> dict[str, Tensor]:
    return files.generator(4, 32, 2, 16, chunks=2)


@pytest.mark.parametrize("size", get_record("infinity").sizes, ids=lambda size: size.name)
def test_every_released_size_has_the_parameters_of_its_record(size: Any) -> None:
    channels, patch = (14, 2) if size.name.startswith("8B") else (32, 1)
    with torch.device("meta"):
        model = Infinity(
            InfinityConfig(depth=size.depth, width=size.width, heads=size.heads, channels=channels, patch=patch)
        )
    assert sum(p.numel() for p in model.parameters()) == size.params


def test_the_record_has_the_released_plan() -> None:
    record = get_record("infinity")
    assert record.plan is not None and record.tokenizer is not None
    with torch.device("meta"):
        model = Infinity(InfinityConfig())
    assert len(model.grids().plan) == record.plan.steps
    assert model.grids(pixels="0.06M").plan.positions == record.tokenizer.tokens_256


def test_chunked_and_plain_names_give_the_same_model(tmp_path: Path) -> None:
    chunked = read(tmp_path, generator=state())
    plain = read(tmp_path, plain=files.generator(4, 32, 2, 16))
    assert all(torch.equal(a, b) for a, b in zip(chunked.parameters(), plain.parameters(), strict=True))
    assert torch.equal(plain.layers[2].attn.qkv.weight, state()["block_chunks.1.module.0.sa.mat_qkv.weight"])
    assert (chunked.config.depth, chunked.config.width, chunked.config.heads) == (4, 32, 2)


def test_old_buffers_are_dropped_and_wrappers_taken_off(tmp_path: Path) -> None:
    plain = {"trainer": {"gpt_fsdp": state() | files.OLD_BUFFERS, "config": {"lr": 1.0}}, "epoch": 3}
    assert torch.equal(read(tmp_path, generator=plain).start, state()["pos_start"])
    mean = {n: t + 1 if t.is_floating_point() else t for n, t in state().items()}
    plain["trainer"]["gpt_ema_fsdp"] = mean  # type: ignore[index]
    assert torch.equal(read(tmp_path, generator=plain).start, mean["pos_start"]), "averaged weights where they are"


@pytest.mark.parametrize("rows", [4, 6, 9])
def test_a_null_text_of_another_length_keeps_its_first_rows(rows: int, tmp_path: Path) -> None:
    model = read(tmp_path, {"text_length": rows}, generator=state())
    kept = min(rows, 6)
    assert model.null.shape == (rows, 16)
    assert torch.equal(model.null[:kept], state()["cfg_uncond"][:kept])
    assert bool(model.null[kept:].ne(0).all()), "the rest is drawn, not left empty"


@pytest.mark.parametrize("inner", [True, False], ids=["wrapped", "plain"])
@pytest.mark.parametrize("wrapper", ["vae", "ema", ""])
def test_tokenizers_with_and_without_inner_names(inner: bool, wrapper: str, tmp_path: Path) -> None:
    own = files.tokenizer(16, 5, channels=24, inner=inner)
    vae = read(tmp_path, tokenizer={wrapper: own} if wrapper else own)
    assert vae.config.autoencoder.downsampling == 16
    name = f"encoder.down.0.downsample.conv{'.conv' * inner}.weight"
    assert torch.equal(vae.encoder.down[0].downsample.conv.weight, own[name])
    assert vae.decode(vae.encode(torch.zeros(1, 3, 32, 32), (1, 2)), sides=(1, 2)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("latent", "levels", "bits", "patch"),
    [*((d, 5, d, 1) for d in (16, 18, 20, 24, 32, 64)), (14, 4, 56, 2)],
    ids=lambda value: str(value),
)
def test_every_released_tokenizer_goes_with_its_generator(
    latent: int, levels: int, bits: int, patch: int, tmp_path: Path
) -> None:
    vae, own = {"vae": files.tokenizer(latent, levels, channels=24)}, files.generator(1, 32, 2, bits)
    model = read(tmp_path, generator=own, tokenizer=vae)
    alone = read(tmp_path, tokenizer=vae)
    for found in (model.tokenizer.config, alone.config):
        assert (found.autoencoder.latent, found.patch) == (latent, patch)
    assert (model.config.channels, model.config.patch, model.config.bits) == (latent, patch, bits)
    assert model.tokenizer.spec.size == (1024, 1024) == alone.spec.size
    assert read(tmp_path, generator=own).config == model.config, "the number of bits tells what the tokenizer would"


def test_the_tokenizer_s_channels_decide_how_many_cells_a_token_is(tmp_path: Path) -> None:
    vae = {"vae": files.tokenizer(16, 4, channels=24)}
    assert read(tmp_path, generator=files.generator(1, 32, 2, 64), tokenizer=vae).config.patch == 2


def test_what_no_tensor_tells_is_an_argument(tmp_path: Path) -> None:
    model = read(tmp_path, {"pixels": "0.25M", "rope": "plain"}, generator=state())
    assert (model.config.pixels, model.config.rope, len(model.grids().plan)) == ("0.25M", "plain", 10)
    assert read(tmp_path, {"sides": [1, 2, 3]}, generator=state()).config.sides == (1, 2, 3)
    assert read(tmp_path, {"patch": 2}, generator=files.generator(1, 32, 2, 40)).config.channels == 10


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: s.update({"head.weight": s["head.weight"][:30]}), {}, "reads tokens of 16 bits, but predicts 15"),
        (lambda s: s.pop("head.weight"), {}, "lacks 'head.weight'; is it cut short, or are shards missing"),
        (lambda s: [s.pop(n) for n in list(s) if "s.0.module.1" in n], {}, r"lacks 'blocks\.1\.ada_gss'"),
        (lambda s: s.pop("block_chunks.1.module.1.ca.proj.bias"), {}, r"lacks 1 of \d+ weights"),
        (lambda s: None, {"pixel": "1M"}, "no field 'pixel'"),
        (lambda s: None, {"patch": 3}, "patch is 3"),
        (lambda s: None, {"pixels": "2M"}, "pixels is '2M'"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(
    change: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    own = state()
    change(own)
    with pytest.raises(NextsetError, match=message) as error:
        convert(saved(tmp_path, generator=own), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("bits", "channels", "patch", "message"),
    [
        (40, None, None, "predicts 40 bits a token, as no release does"),
        (56, 16, None, "no patches of 1x1, 2x2 or 4x4 cells of the tokenizer's 16 channels"),
        (64, 64, 2, "no patches of 2x2 cells of the tokenizer's 64 channels"),
        (18, None, 2, "patch is 2"),
    ],
)
def test_bits_that_fit_no_cells_are_refused(bits: int, channels: int | None, patch: int | None, message: str) -> None:
    with pytest.raises(NextsetError, match=message):
        cells_of_token(bits, channels, patch)


def test_another_system_s_file_with_shared_modulation_is_not_taken(tmp_path: Path) -> None:
    from benchmarks.plain_var import random_state

    own, _ = random_state(1, width=32, heads=2, sides=(1, 2), classes=3, vocabulary=8, channels=32, multipliers=(1,))
    own["shared_ada_lin.1.weight"], own["shared_ada_lin.1.bias"] = torch.zeros(192, 32), torch.zeros(192)
    own["blocks.0.ada_gss"] = torch.zeros(1, 1, 6, 32)
    for part in ("weight", "bias"):
        own.pop(f"blocks.0.ada_lin.1.{part}")
    assert isinstance(read(tmp_path, {"sides": (1, 2)}, generator=own), Var)


def test_the_command_reads_a_folder_of_shards(tmp_path: Path) -> None:
    from nextset.hub import pretrained
    from tests.cli.running import refuse, run

    names = list(own := files.generator(2, 32, 2, 56, chunks=2))
    (tmp_path / "theirs").mkdir()
    for i in range(3):
        part = {n: own[n] for n in names[i::3]}
        torch.save(part, tmp_path / "theirs" / f"model-{i + 1:05d}-of-00003.bin")
    (vae,) = saved(tmp_path, vae={"vae": files.tokenizer(14, 4, channels=24)})
    given = ("convert", tmp_path / "theirs", "--tokenizer", vae, "--dtype", "bfloat16", "-o", tmp_path / "ours")
    run(*given, "--set", "pixels=0.25M")
    model = pretrained.load(tmp_path / "ours").model
    assert (model.config.pixels, model.config.bits, model.tokenizer.spec.size) == ("0.25M", 56, (512, 512))
    assert torch.equal(model.word.weight, own["word_embed.weight"].bfloat16().float())
    assert "must be name=value" in refuse(*given, "--set", "pixels")
    assert "no field 'pixel'" in refuse(*given, "--set", "pixel=1M")
