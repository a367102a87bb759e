"""Encoders of images: DINOv2 against transformers, the convolutional one, what is trained of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.nn.dinov2 import DinoV2
from nextset.nn.encoders import MEAN, STD, Encoder, EncoderConfig

VIT = EncoderConfig(width=32, depth=3, heads=2, patch=4, grid=3, mlp_ratio=2)
CONV = EncoderConfig(kind="conv", width=16, channels=(8, 16, 16), cells=2)


def images(n: int, side: int) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def trained(encoder: torch.nn.Module) -> set[str]:
    """Names of what is trained, down to the block."""
    names = (n.split(".") for n, p in encoder.named_parameters() if p.requires_grad)
    return {".".join(n[1 : 3 if n[1] == "blocks" else 2]) for n in names}


@pytest.mark.parametrize("config", [VIT, CONV], ids=["dinov2", "conv"])
def test_an_image_gets_the_same_vector_in_any_batch(config: EncoderConfig):
    torch.manual_seed(0)
    encoder, pictures = Encoder(config).eval(), images(4, 16)
    with torch.no_grad():
        together = encoder(pictures)
        alone = torch.cat([encoder(p[None]) for p in pictures])
    assert together.shape == (4, config.width) and together.std(0).min() > 0
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [12, 20, 23], ids=["as trained", "larger", "not a multiple"])
def test_dinov2_is_that_of_transformers(side: int):
    """Positions are resized where the picture has another size; pixels that fill no patch are left out."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'text' for transformers")
    theirs = transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=4, mlp_ratio=2
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    from nextset.systems.just_zoom_in.convert import KEYS, joined

    ours = DinoV2(32, 2, 2, 4, 3, 2)
    state = {f"encoder.backbone.{n}": t for n, t in theirs.state_dict().items()}
    renamed = {n.removeprefix("encoder.net."): t for n, t in joined(KEYS.rename(state), 1).items()}
    ours.load_state_dict(renamed)
    with torch.no_grad():
        expected = theirs(images(2, side)).last_hidden_state[:, 0]
        torch.testing.assert_close(ours(images(2, side)), expected, atol=2e-5, rtol=1e-4)


def test_pictures_are_normalised_as_the_weights_want_them():
    encoder, seen = Encoder(CONV), []
    encoder.net = torch.nn.Module()
    encoder.net.forward = lambda x: seen.append(x)  # type: ignore[method-assign]
    encoder(torch.stack([torch.full((3, 2, 2), -1.0), torch.full((3, 2, 2), 1.0)]))
    for value, found in zip((0.0, 1.0), seen[0], strict=True):
        expected = [(value - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
        torch.testing.assert_close(found[:, 0, 0], torch.tensor(expected))


def test_the_convolutional_encoder_knows_where_things_are():
    torch.manual_seed(0)
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., :4, :4] = 1
    with torch.no_grad():
        a, b = Encoder(CONV)(torch.cat([picture, picture.flip(-1)]))
    assert (a - b).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (VIT.replace(trained=0), {"norm"}),
        (VIT.replace(trained=2), {"blocks.1", "blocks.2", "norm"}),
        (VIT, {"blocks.0", "blocks.1", "blocks.2", "cls", "norm", "patches", "position"}),
        (CONV.replace(trained=1), {"blocks.2", "norm", "out"}),
    ],
)
def test_the_last_blocks_are_trained_and_the_norm_behind_them(config: EncoderConfig, expected: set[str]):
    encoder = Encoder(config)
    assert trained(encoder) == expected
    encoder(images(1, 16)).square().sum().backward()
    reached = {n for n, p in encoder.named_parameters() if p.grad is not None}
    assert reached == {n for n, p in encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "heads is 5, but must be a divisor of the width 32"),
        ({"trained": 4}, r"trained is 4, but must be between -1 \(everything\) and 3"),
        ({"kind": "conv", "channels": (12,)}, "one to eight multiples of 8"),
        ({"kind": "resnet"}, "kind is 'resnet'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict, message: str):
    with pytest.raises(NextsetError, match=message):
        VIT.replace(**changes)


def test_the_released_size_has_the_released_number_of_parameters():
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig())
    assert (
        sum(p.numel() for p in encoder.parameters()) == 86_579_712
    )  # 768 fewer than the file, whose mask token is unused
