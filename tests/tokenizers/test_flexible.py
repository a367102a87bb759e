"""The tokenizer of independent scales: any side, each alone; its training terms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.hub import pretrained
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.pipelines import reconstruct
from nextset.tokenizers.flexible import FlexibleVQ, FlexibleVQConfig
from nextset.tokenizers.objective import ObjectiveConfig

SMALL = FlexibleVQConfig(
    autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 1, 2), blocks=1, latent=6, groups=4),
    vocabulary=16,
    channels=4,
    sides=(1, 3, 4, 8),
)
LENGTH = 1 + 9 + 16 + 64


def make(**objective: float) -> FlexibleVQ:
    torch.manual_seed(0)
    return FlexibleVQ(SMALL, ObjectiveConfig(**objective)).eval()  # type: ignore[arg-type]


def pictures(n: int = 2, h: int = 32, w: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_a_scale_is_the_nearest_code_by_cosine_of_the_map_at_its_side() -> None:
    model = make()
    codes, f = model.encode(pictures()), model.features(pictures())
    table = F.normalize(model.quantiser.codebook.weight, dim=-1)
    for ids, side in zip(codes.split([1, 9, 16, 64], 1), SMALL.sides, strict=True):
        z = F.adaptive_avg_pool2d(f, side).flatten(2).transpose(1, 2)
        assert torch.equal(ids, (F.normalize(z, dim=-1) @ table.T).argmax(-1))
    torch.testing.assert_close(model.f_hat(codes)[:, :, 0, 0], table[codes[:, -64]])


def test_no_scale_depends_on_another() -> None:
    model, images = make(), pictures()
    assert torch.equal(model.encode(images, [4]), model.encode(images)[:, 10:26])
    alone = model.decode(model.encode(images, [4]), sides=[4])
    torch.testing.assert_close(model.decode_scale(model.encode(images), 2), alone)
    assert alone.shape == (2, 3, 16, 16) and alone.dtype == torch.float32


def test_scales_that_are_compared_have_the_size_of_the_last() -> None:
    model, codes = make(), make().encode(pictures())
    assert [model.decode(codes, upto=k).shape[-1] for k in (1, 2, 3, 4)] == [32] * 4
    assert torch.equal(model.decode(codes, upto=4), model.decode(codes))
    found = reconstruct(model, pictures())
    assert len(found.scales) == 4 and found.psnr[0].shape == (2,)
    with pytest.raises(NextsetError, match="upto is 0, but must be between 1 and 4"):
        model.decode(codes, upto=0)


def test_oblong_images_and_sides() -> None:
    model, images = make(), pictures(h=16, w=24)
    sides = [1, (2, 3), (4, 6), (8, 12)]  # the last is larger than the feature map
    codes = model.encode(images, sides)
    assert codes.shape == (2, 1 + 6 + 24 + 96) and model.decode(codes, sides=sides).shape == (2, 3, 32, 48)


def test_at_other_sides_the_weights_are_shared() -> None:
    model = make()
    other = model.at((1, 2))
    assert other.sides == ((1, 1), (2, 2)) and other.spec.tokens == 5 and model.spec.tokens == LENGTH
    assert other.spec.channels == 4 and other.spec.size == (8, 8)
    assert other.encoder is model.encoder and other.encode(pictures()).shape == (2, 5)


def test_saved_and_loaded(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = make()
    loaded = pretrained.load(pretrained.save(tmp_path / "tokenizer", model)).model
    assert type(loaded) is FlexibleVQ and torch.equal(loaded.encode(pictures()), model.encode(pictures()))


# ---- training


def test_the_quantiser_s_terms_are_on_vectors_of_length_one() -> None:
    model = make()
    f, terms = model.features(pictures()), []
    for _, z, maps in model.quantiser.scales(f, model.sides):
        z, e = F.normalize(z, dim=-1), maps.flatten(2).transpose(1, 2)
        terms.append(1.25 * (z - e).square().mean())
    torch.testing.assert_close(model.explain(f)[1], torch.stack(terms).mean())


def test_half_of_the_steps_decode_the_last_side_and_none_a_tiny_picture() -> None:
    model = make()
    sides = [model.decoded_side(step, Noise(0)) for step in range(200)]
    assert set(sides) == {(4, 4), (8, 8)}, "4 pixels and 12 are too small"
    assert 80 < sides.count((8, 8)) < 120


def test_gradients_reach_every_parameter_at_any_side() -> None:
    for step in range(4):
        model = make(perceptual=0.5, adversarial=0.1, lpips=0.0).train()
        own, critic = model.updates({"images": pictures(4)}, step, Noise(0))
        own.loss.backward(retain_graph=True)
        main = model.parameter_groups()["main"].named_parameters()
        assert [n for n, p in main if p.grad is None or p.grad.abs().sum() == 0] == []
        assert torch.isfinite(critic.loss) and {"vq", "psnr", "used_3", "perplexity_0"} <= set(own.parts)


def test_codes_are_revived_only_while_training() -> None:
    model = make(revive_every=1, revive_below=0.5)
    before = model.quantiser.codebook.weight.clone()
    next(iter(model.updates({"images": pictures()}, 0, Noise(0))))
    assert torch.equal(before, model.quantiser.codebook.weight)
    next(iter(model.train().updates({"images": pictures()}, 0, Noise(0))))
    assert not torch.equal(before, model.quantiser.codebook.weight)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"channels": 0}, "channels is 0, but must be between 1 and 4096"),
        ({"distance": "l2"}, "distance is 'l2', but must be 'cosine'"),
        ({"phi_ratio": 0.5}, "phi_ratio is 0.5, but must be 0"),
    ],
)
def test_impossible_configs_are_refused(changes: dict, text: str) -> None:
    with pytest.raises(NextsetError, match=text):
        FlexibleVQConfig.from_dict({**SMALL.to_dict(), **changes})
