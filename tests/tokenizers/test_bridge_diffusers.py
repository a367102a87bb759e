"""Autoencoders of diffusers: the same moments, latents and pictures here, from an object, a folder or old names; and back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from nextset.cli.app import app
from nextset.core.errors import NextsetError
from nextset.core.files import write_safetensors
from nextset.hub import pretrained
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.tokenizers.bridge_diffusers import config_of, from_diffusers, is_folder, to_diffusers
from nextset.tokenizers.kl import KLAutoencoder, KLConfig, sampled

SAID = {"block_out_channels": [8, 16], "layers_per_block": 1, "latent_channels": 3}


@pytest.fixture(scope="module")
def theirs() -> type[Any]:
    return pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed").AutoencoderKL


def made(theirs: type[Any], **changes: Any) -> Any:
    """A tiny one of random weights: two levels, 16 pixels."""
    torch.manual_seed(0)
    sizes = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "latent_channels": 3,
        "norm_num_groups": 4,
        "sample_size": 16,
        "scaling_factor": 0.3,
        **changes,
    }
    model = theirs(**sizes).eval()
    with torch.no_grad():
        for p in model.parameters():  # no norm is left at 1 and 0
            p.add_(0.1 * torch.randn_like(p))
    return model


def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def same(model: Any, ours: KLAutoencoder) -> None:
    """Moments, latents with one noise, and pictures of both are the same."""
    x, shift = images(), model.config.shift_factor or 0.0
    law = model.encode(x).latent_dist
    moments = ours.features(x)
    noise = torch.randn(law.mean.shape, generator=torch.Generator().manual_seed(1))
    latents = (law.mean + law.std * noise - shift) * model.config.scaling_factor
    torch.testing.assert_close(moments[:, 3:], law.logvar, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.latents(moments, noise), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sampled(moments, noise) * ours.scale.value, latents, atol=1e-5, rtol=1e-5)
    picture = model.decode(latents / model.config.scaling_factor + shift).sample
    torch.testing.assert_close(ours.decode_features(latents), picture, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shift_factor": 0.7},
        {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": -0.4},
        {"mid_block_add_attention": False},
        {"layers_per_block": 2, "block_out_channels": (8, 8, 24), "down_block_types": ("DownEncoderBlock2D",) * 3,
         "up_block_types": ("UpDecoderBlock2D",) * 3},
    ],
)  # fmt: skip
def test_latents_and_pictures_are_the_same(theirs: type[Any], changes: dict[str, Any]) -> None:
    model = made(theirs, **changes)
    ours = from_diffusers(model)
    same(model, ours)
    assert ours.spec.size == (16, 16) and ours.spec.tokens == (16 // ours.spec.downsampling) ** 2
    codes = ours.encode(images())
    assert codes.shape == (2, ours.spec.tokens, 3) and ours.decode(codes).shape == (2, 3, 16, 16)


def test_a_folder_is_read_without_diffusers(theirs: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(theirs)
    model.save_pretrained(tmp_path / "vae")
    assert is_folder(tmp_path / "vae") and not is_folder(tmp_path)
    # weights of before 2023 have other names for attention, and its matrices as 1x1 convolutions or not
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, t in model.state_dict().items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        state[name] = t.contiguous()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text((tmp_path / "vae" / "config.json").read_text())
    write_safetensors(tmp_path / "old" / "diffusion_pytorch_model.safetensors", state)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for folder in ("vae", "old"):
        same(model, from_diffusers(tmp_path / folder))
    with pytest.raises(NextsetError, match=r"install it: pip install 'nextset\[diffusers\]'"):
        from_diffusers("owner/name")


def test_back_again(theirs: type[Any]) -> None:
    torch.manual_seed(1)
    sizes = AutoencoderConfig(8, (1, 2), 1, 3, 4, attention=False)
    ours = KLAutoencoder(KLConfig(sizes, sides=(8,))).eval()
    ours.scale.value.fill_(0.4)
    model = to_diffusers(ours)
    assert model.config.scaling_factor == pytest.approx(0.4) and model.config.sample_size == 16
    same(model, ours)
    again = from_diffusers(model).state_dict()
    assert all(torch.equal(again[name], t) for name, t in ours.state_dict().items())
    with pytest.raises(NextsetError, match="neither a stem nor attention beside its middle"):
        to_diffusers(KLAutoencoder(KLConfig(sizes.replace(stem=2), sides=(4,))))


def test_the_command_writes_a_model_folder(theirs: type[Any], tmp_path: Path) -> None:
    model = made(theirs)
    model.save_pretrained(tmp_path / "vae")
    ran = CliRunner().invoke(
        app, ["convert", str(tmp_path / "vae"), "--set", "patch=2", "-o", str(tmp_path / "kl")], catch_exceptions=False
    )
    assert ran.exit_code == 0, ran.output
    loaded = pretrained.load(tmp_path / "kl").model
    assert isinstance(loaded, KLAutoencoder) and loaded.spec.patch == 2 and loaded.spec.tokens == 16
    same(model, loaded)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn of the autoencoder is 'gelu', but is read only where it is 'silu'"),
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, "is 'AttnDownEncoderBlock2D'"),
        ({"latents_mean": [0.0] * 3}, "latents_mean of the autoencoder is 0.0"),
        ({"in_channels": 4}, "in_channels of the autoencoder is 4"),
        ({"block_out_channels": [16, 24]}, r"block_out_channels is \[16, 24\], but must be multiples of the first"),
        ({"latent_channels": None}, "latent"),
        ({"sample_size": 15}, "pixels is 15, but must be a multiple of 2"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(NextsetError, match=message) as error:
        config_of({**SAID, "norm_num_groups": 4, "sample_size": 16, **changes})
    assert "\n" not in str(error.value)


def test_a_cut_file_is_refused(theirs: type[Any], tmp_path: Path) -> None:
    model = made(theirs)
    model.save_pretrained(tmp_path / "vae")
    state = {n: t.contiguous() for n, t in model.state_dict().items() if "to_k" not in n}
    write_safetensors(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", state)
    with pytest.raises(NextsetError, match=r"lacks '\w+\.mid_block\.attentions\.0\.to_k\.\w+'; is it cut short"):
        from_diffusers(tmp_path / "vae")
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(NextsetError, match="lacks 'block_out_channels'"):
        from_diffusers(tmp_path / "vae")
