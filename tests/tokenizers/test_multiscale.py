"""The multi-scale tokenizer: scales that add up, phi's table, shapes, training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextset.core.canvases import Drawn, ResidualPyramid
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.plans import scale_pyramid
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.tokenizers.multiscale import MultiScaleVQ, MultiScaleVQConfig, Phi
from nextset.tokenizers.objective import ObjectiveConfig
from nextset.tokenizers.pyramid import as_pairs

SMALL = MultiScaleVQConfig(
    autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=4, groups=4, attention=False),
    vocabulary=16, sides=(1, 2, 4), phi_share=2,
)  # fmt: skip


def make(config: MultiScaleVQConfig = SMALL, objective: ObjectiveConfig | None = None) -> MultiScaleVQ:
    torch.manual_seed(0)
    return MultiScaleVQ(config, objective).eval()


def pictures(n: int = 2, h: int = 8, w: int = 8) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(1)) * 2 - 1


# ---- phi


@pytest.mark.parametrize(
    "scales, expected",
    [(10, [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]), (9, [0, 0, 1, 1, 2, 2, 2, 3, 3]), (5, [0, 1, 2, 2, 3]), (3, [0, 2, 3])],
)
def test_four_shared_convolutions_as_released(scales, expected):
    phi = Phi(2, 0.5, share=4, count=scales)
    assert len(phi.convs) == 4 and [phi.index(k, scales) for k in range(scales)] == expected


@pytest.mark.parametrize("scales", range(1, 16))
def test_one_convolution_a_scale_or_one_for_all(scales):
    phi = Phi(2, 0.5, share=0, count=scales)
    assert [phi.index(k, scales) for k in range(scales)] == list(range(scales))
    one = Phi(2, 0.5, share=1, count=scales)
    assert len(one.convs) == 1 and {one.index(k, scales) for k in range(scales)} == {0}


@pytest.mark.parametrize(
    "count, scales, expected", [(2, 5, [0, 0, 0, 1, 1]), (3, 6, [0, 0, 1, 1, 2, 2]), (6, 3, [0, 2, 5])]
)
def test_another_number_of_convolutions_than_scales(count, scales, expected):
    """Unshared convolutions are chosen by their ticks as well (first of two that are equally near)."""
    phi = Phi(2, 0.5, share=0, count=count)
    assert [phi.index(k, scales) for k in range(scales)] == expected


def test_phi_mixes_identity_and_convolution():
    x = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    phi = Phi(2, -0.25, share=1, count=1)
    torch.testing.assert_close(phi(x, 0, 3), 0.75 * x + 0.25 * phi.convs[0](x))
    off = Phi(2, 0.0, share=4, count=3)
    assert off(x, 0, 3) is x and not list(off.parameters())


# ---- codes


def test_encode_explains_what_is_left():
    """The sheet's loop, written out."""
    model, images = make(), pictures()
    f = model.features(images)
    rest, parts, total = f, [], torch.zeros_like(f)
    for k, p in enumerate((1, 2, 4)):
        z = rest if k == 2 else F.interpolate(rest, size=(p, p), mode="area")
        flat = z.permute(0, 2, 3, 1).reshape(-1, 4)
        table = model.quantiser.codebook.weight
        ids = torch.cdist(flat, table).argmin(1)
        h = table[ids].view(2, p, p, 4).permute(0, 3, 1, 2)
        if k < 2:
            h = F.interpolate(h, size=(4, 4), mode="bicubic", align_corners=False)
        h = 0.5 * h + 0.5 * model.quantiser.phi.convs[[0, 0, 1][k]](h)
        total, rest = total + h, rest - h
        parts.append(ids.view(2, -1))
    codes = model.encode(images)
    assert torch.equal(codes, torch.cat(parts, 1)) and codes.shape == (2, 21) and codes.dtype == torch.int64
    torch.testing.assert_close(model.f_hat(codes), total)
    with torch.no_grad():
        expected = model.decoder(model.post_quant_conv(total)).clamp(-1, 1)
    torch.testing.assert_close(model.decode(codes), expected)


def test_partial_decodes_grow_to_the_whole():
    model, codes = make(), torch.randint(0, 16, (2, 21), generator=torch.Generator().manual_seed(0))
    first = codes.clone()
    first[:, 1:] = 0
    torch.testing.assert_close(model.f_hat(codes, upto=1), model.f_hat(first, upto=1))
    assert torch.equal(model.f_hat(codes, upto=0), torch.zeros(2, 4, 4, 4))
    assert torch.equal(model.decode(codes, upto=3), model.decode(codes))
    assert model.decode(codes, upto=1).shape == (2, 3, 8, 8)


def test_decoded_images_are_in_range():
    model = make()
    with torch.no_grad():
        model.decoder.conv_out.weight.mul_(100)
    images = model.decode(torch.randint(0, 16, (1, 21)))
    assert images.dtype == torch.float32 and images.min() == -1 and images.max() == 1


def test_oblong_images_with_sides_of_their_own():
    model, images = make(), pictures(h=8, w=12)
    sides = [(1, 1), (2, 3), (4, 6)]
    codes = model.encode(images, sides)
    assert codes.shape == (2, 1 + 6 + 24)
    assert model.decode(codes, sides=sides).shape == images.shape
    four = [1, (2, 2), (3, 4), (4, 6)]  # more scales than the config has
    assert model.decode(model.encode(images, four), sides=four).shape == images.shape
    canvas = ResidualPyramid(model.quantiser, sides, 2)
    for step, ids in zip(scale_pyramid(sides).steps, codes.split([1, 6, 24], 1), strict=True):
        canvas.input(step)
        canvas.write(step, Drawn(ids))
    torch.testing.assert_close(canvas.total(), model.f_hat(codes, sides=sides))


def test_an_image_does_not_depend_on_its_batch():
    model, images = make(), pictures(5)
    codes = model.encode(images)
    assert all(torch.equal(model.encode(images[i : i + 1])[0], codes[i]) for i in range(5))
    for i in range(5):
        torch.testing.assert_close(model.decode(codes[i : i + 1])[0], model.decode(codes)[i], atol=1e-5, rtol=1e-5)


def test_spec_and_pairs():
    model = make()
    assert (
        model.spec.downsampling,
        model.spec.channels,
        model.spec.vocabulary,
        model.spec.tokens,
        model.spec.size,
    ) == (2, 4, 16, 21, (8, 8))
    assert as_pairs([1, (2, 3)]) == ((1, 1), (2, 3)) and model.sides == ((1, 1), (2, 2), (4, 4))


def test_mixed_codes():
    model, weights = make(), torch.rand(2, 3, 16)
    torch.testing.assert_close(model.quantiser.mix(weights), weights @ model.quantiser.codebook.weight)


# ---- errors


def test_wrong_sizes_are_told():
    model = make()
    with pytest.raises(
        NextsetError, match=r"the image is 9x8 pixels, but both sides must be multiples of 2; resize it"
    ):
        model.encode(pictures(1, 8, 9))
    with pytest.raises(NextsetError, match=r"the feature map is \(5, 4\), but the last scale is \(4, 4\)"):
        model.encode(pictures(1, 10, 8))


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"sides": (4, 2)}, "sides is .4, 2., but must be in growing order"),
        ({"sides": ()}, "1 to 64 sides between 1 and 512"),
        ({"vocabulary": 1}, "vocabulary is 1, but must be between 2 and"),
        ({"phi_ratio": 2.0}, "phi_ratio is 2.0"),
        ({"phi_share": -1}, "phi_share is -1"),
        ({"phi_count": -1}, "phi_count is -1, but must be between 1 and 64"),
        ({"bottleneck_kernel": 2}, "bottleneck_kernel is 2, but must be 1, 3 or 5"),
        ({"distance": "l1"}, "distance is 'l1'"),
        ({"autoencoder": {"groups": 3}}, "groups is 3, but must be a divisor"),
    ],
)
def test_impossible_configs_are_refused(changes, text):
    with pytest.raises(NextsetError, match=text):
        MultiScaleVQConfig.from_dict({**SMALL.to_dict(), **changes})


def test_config_round_trip():
    assert MultiScaleVQConfig.from_dict(SMALL.to_dict()) == SMALL


# ---- training


def batch(n: int = 4) -> dict[str, torch.Tensor]:
    return {"images": pictures(n)}


def test_the_vq_terms_are_those_of_the_sheet():
    model = make()
    (update,) = model.updates(batch(), 1, Noise(0))
    f = model.features(batch()["images"])
    terms = []
    for _, _, f_hat in model.quantiser.scales(f, model.sides):
        terms.append(0.25 * F.mse_loss(f_hat, f) + F.mse_loss(f_hat, f))
    torch.testing.assert_close(update.parts["vq"], sum(terms) / 3)
    pixel = {"l1", "gradient", "psnr", "vq", "revived"}
    assert set(update.parts) == pixel | {f"{p}_{k}" for p in ("used", "perplexity") for k in range(3)}
    assert (
        update.group == "main" and update.loss.requires_grad and not any(t.requires_grad for t in update.parts.values())
    )


def test_gradients_reach_every_parameter():
    model = make().train()
    (update,) = model.updates(batch(), 1, Noise(0))
    update.loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_codes_are_revived_only_when_it_is_time():
    objective = ObjectiveConfig(revive_every=3, revive_until=4, revive_below=0.5)

    def moved(step: int, train: bool = True) -> tuple[bool, float]:
        model = make(objective=objective).train(train)
        before = model.quantiser.codebook.weight.clone()
        (update,) = model.updates(batch(), step, Noise(0))
        return not torch.equal(before, model.quantiser.codebook.weight), float(update.parts["revived"])

    assert moved(0) == (True, 16) and moved(3) == (True, 16)
    assert moved(1) == (False, 0) and moved(6) == (False, 0) and moved(0, train=False) == (False, 0)


def test_revived_codes_are_vectors_that_were_just_seen():
    objective = ObjectiveConfig(revive_every=1, revive_below=0.5)
    model = make(objective=objective).train()
    with torch.no_grad():
        f = model.features(batch()["images"])
        seen = torch.cat([z.reshape(-1, 4) for _, z, _ in model.quantiser.scales(f, model.sides)])
    next(iter(model.updates(batch(), 0, Noise(0))))
    codes = model.quantiser.codebook.weight.detach()
    assert torch.cdist(codes, seen).min(1).values.max() < 1e-4
    assert len(codes.unique(dim=0)) == 16, "drawn without replacement"
    again = make(objective=objective).train()
    next(iter(again.updates(batch(), 0, Noise(0))))
    assert torch.equal(again.quantiser.codebook.weight, codes), "the same noise, the same codes"


def test_training_statistics_are_no_weights():
    model = make()
    assert model.training_state == ("usage\\..*", "objective\\..*") and "usage.hits" in model.state_dict()
    assert set(model.parameter_groups()) == {"main"}
