"""The bitwise tokenizer: signs, patches, sums of scales, gradients through the rounding, health of the bits."""

from __future__ import annotations

import math

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.tokenizers.bitwise import BitUsage, BitwiseConfig, BitwisePyramid, BitwiseQuantiser, binary_entropy

SMALL = AutoencoderConfig(
    channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4, attention=False, middle_attention=False
)


def made(**fields) -> BitwisePyramid:
    torch.manual_seed(0)
    return BitwisePyramid(BitwiseConfig(autoencoder=SMALL, sides=(1, 2, 4), **fields)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_codes_are_signs_of_length_one():
    q = BitwiseQuantiser(4)
    code = q.embed(torch.tensor([[[1, 0, 1, 1]]]))
    assert code.tolist() == [[[0.5, -0.5, 0.5, 0.5]]]
    assert q.bits(torch.tensor([0.3, -0.1, 0.0])).tolist() == [1, 0, 0]


def test_what_is_rounded_lies_on_the_sphere_and_zero_stays_zero():
    f = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(BitwiseQuantiser(4).rest(f, (2, 2)).norm(dim=-1), torch.ones(1, 4))
    assert BitwiseQuantiser(4).rest(torch.zeros(1, 4, 2, 2), (2, 2)).abs().sum() == 0


def test_each_scale_explains_what_the_ones_before_left():
    q, f, sides = BitwiseQuantiser(4), torch.randn(2, 4, 4, 4), [(1, 1), (2, 2), (4, 4)]
    left = f.clone()
    for k, (bits, z, total) in enumerate(q.scales(f, sides)):
        torch.testing.assert_close(z, q.rest(left, sides[k]))
        left = left - q.contribution(q.embed(bits), k, sides)
        torch.testing.assert_close(total, f - left)


def test_a_patch_of_cells_is_a_token_in_the_order_of_pixel_unshuffle():
    q = BitwiseQuantiser(2, patch=2)
    maps = torch.arange(32.0).view(1, 2, 4, 4)
    tokens = q.unfold(maps)
    assert (q.width, q.lanes, tokens.shape) == (8, 8, (1, 4, 8))
    assert tokens[0, 0].tolist() == [0, 1, 4, 5, 16, 17, 20, 21]  # 4 c + 2 dy + dx
    torch.testing.assert_close(q.fold(tokens, (2, 2)), maps)
    assert q.shrink(torch.zeros(1, 2, 8, 8), (2, 2)).shape == (1, 8, 2, 2)


@pytest.mark.parametrize("patch", [1, 2])
def test_decoding_the_codes_is_decoding_the_sum(images, patch):
    model = made(patch=patch)
    sides = None if patch == 1 else [1, 2]
    codes = model.encode(images, sides)
    assert codes.shape == ((2, 21, 4) if patch == 1 else (2, 5, 16)) and codes.unique().tolist() == [0, 1]
    f = model.features(images)
    pairs = [(1, 1), (2, 2), (4, 4)] if sides is None else [(1, 1), (2, 2)]
    torch.testing.assert_close(model.f_hat(codes, sides=sides), list(model.quantiser.scales(f, pairs))[-1][2])
    assert model.decode(codes, sides=sides).shape == images.shape
    assert model.decode(codes, upto=0, sides=sides).isfinite().all()


def test_rectangles_need_no_other_weights(images):
    model = made()
    wide = images[..., :4, :]
    codes = model.encode(wide, [(1, 1), (1, 2), (2, 4)])
    assert codes.shape == (2, 11, 4) and model.decode(codes, sides=[(1, 1), (1, 2), (2, 4)]).shape == wide.shape
    with pytest.raises(NextsetError, match="give sides that end there"):
        model.encode(wide)


def test_images_that_are_no_whole_number_of_tokens_are_refused(images):
    with pytest.raises(NextsetError, match="8x6 pixels, but both sides must be multiples of 4"):
        made(patch=2).features(images[..., :6, :])


@pytest.mark.parametrize("way", ["sum", "scales"])
def test_gradients_pass_the_rounding(images, way):
    model = made(straight_through=way).train()
    (update,) = model.updates({"images": images}, 0, Noise(0))
    update.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())
    assert model.encoder.conv_in.weight.grad.abs().sum() > 0


def test_the_sum_is_the_same_with_and_without_a_graph(images):
    model = made()
    f = model.features(images)
    with torch.no_grad():
        plain = list(model.quantiser.scales(f, model.sides))[-1][2]
    traced = list(model.quantiser.scales(f.detach().requires_grad_(), model.sides))[-1][2]
    torch.testing.assert_close(plain, traced.detach())


def test_entropy_terms_want_sure_bits_of_both_values():
    even, stuck = torch.tensor([0.5]), torch.tensor([1.0])
    assert binary_entropy(even).item() == pytest.approx(math.log(2)) and binary_entropy(stuck).item() < 1e-4
    usage = BitUsage(2, 3, decay=0.0)
    usage.record([torch.tensor([[[1, 0, 1]], [[1, 1, 0]]]), torch.tensor([[[0, 0, 0]], [[0, 1, 0]]])])
    assert usage.ones.tolist() == [[1.0, 0.5, 0.5], [0.0, 0.5, 0.0]]
    assert usage.entropy()[0, 1] == pytest.approx(1) and usage.entropy()[0, 0] < 1e-3


def test_training_lowers_the_loss(images):
    torch.manual_seed(0)
    model = made().train()
    optimizer = torch.optim.Adam([*model.encoder.parameters(), *model.decoder.parameters()], 2e-3)
    losses = []
    for step in range(40):
        (update,) = model.updates({"images": images}, step, Noise(0))
        optimizer.zero_grad()
        update.loss.backward()
        optimizer.step()
        losses.append(float(update.parts["l1"]))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("wrong", [{"patch": 3}, {"entropy": -1.0}, {"sharpness": 0.0}])
def test_sizes_are_checked(wrong):
    with pytest.raises(NextsetError, match="must be"):
        BitwiseConfig(autoencoder=SMALL, **wrong)
