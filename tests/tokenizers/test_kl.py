"""The KL autoencoder: moments, scale, codes, its training terms, and its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.hub import pretrained
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.nn.precision import cast
from nextset.tokenizers.kl import KLAutoencoder, KLConfig, Scale, divergence, sampled

SIZES = AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=3, groups=4)


@pytest.fixture
def tokenizer() -> KLAutoencoder:
    torch.manual_seed(0)
    made = KLAutoencoder(KLConfig(SIZES, sides=(4,), patch=2, kl=0.5)).eval()
    made.scale.value.fill_(0.25)
    return made


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_sizes(tokenizer: KLAutoencoder, images: torch.Tensor) -> None:
    spec = tokenizer.spec
    assert (spec.size, spec.tokens, spec.channels, spec.patch, spec.vocabulary) == ((16, 16), 16, 3, 2, None)
    assert tokenizer.features(images).shape == (2, 6, 8, 8)
    codes = tokenizer.encode(images)
    assert codes.shape == (2, 16, 12) and tokenizer.decode(codes).shape == images.shape
    other = tokenizer.features(torch.zeros(1, 3, 20, 24))
    assert other.shape == (1, 6, 10, 12), "the layers know no size"
    with pytest.raises(NextsetError, match="18x16 pixels, but both sides must be multiples of 4"):
        tokenizer.features(torch.zeros(1, 3, 16, 18))


def test_latents_are_scaled_and_the_decoder_undoes_it(tokenizer: KLAutoencoder, images: torch.Tensor) -> None:
    moments = tokenizer.features(images)
    mean, log = moments.chunk(2, 1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(tokenizer.latents(moments), mean * 0.25)
    torch.testing.assert_close(tokenizer.latents(moments, noise), (mean + (0.5 * log).exp() * noise) * 0.25)
    torch.testing.assert_close(sampled(moments, noise), tokenizer.latents(moments, noise) / 0.25)
    plain = tokenizer.decoder(tokenizer.post_quant_conv(mean))
    torch.testing.assert_close(tokenizer.decode_features(mean * 0.25), plain)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(images)), plain.clamp(-1, 1))


def test_the_encoder_attends_and_the_decoder_only_in_its_middle() -> None:
    def attends(model: KLAutoencoder) -> set[str]:
        return {name.rsplit(".attn", 1)[0] for name in model.state_dict() if ".attn." in name}

    assert attends(KLAutoencoder(KLConfig(SIZES))) == {"encoder.down.1"}
    both = KLAutoencoder(KLConfig(SIZES, decoder_attention=True))
    assert attends(both) == {"encoder.down.1", "decoder.up.1"}


def test_the_divergence_is_that_of_normal_laws() -> None:
    moments = torch.randn(2, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    mean, log = moments.chunk(2, 1)
    law = torch.distributions.Normal(mean, (0.5 * log).exp())
    expected = torch.distributions.kl_divergence(law, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(divergence(moments), expected)


def test_the_scale_follows_the_spread_and_is_exact_in_any_dtype(tokenizer: KLAutoencoder) -> None:
    scale = Scale()
    for step in range(600):
        scale.record(torch.randn(400, generator=torch.Generator().manual_seed(step)) * 4 + 3)
    assert abs(float(scale.value) - 0.25) < 0.01
    tokenizer.scale.value.fill_(0.2325)
    cast(tokenizer, torch.bfloat16)
    assert float(tokenizer.scale.value) == pytest.approx(0.2325, abs=1e-8)


def test_an_update_adds_the_divergence_and_is_a_function_of_its_noise(
    tokenizer: KLAutoencoder, images: torch.Tensor
) -> None:
    def update(seed: int, step: int = 0):  # type: ignore[no-untyped-def]
        return next(tokenizer.updates({"images": images}, step, Noise(seed)))

    first = update(0)
    assert torch.equal(update(0).loss, first.loss)
    assert not torch.equal(update(1).loss, first.loss) and not torch.equal(update(0, 1).loss, first.loss)
    without = first.parts["l1"] + 0.5 * first.parts["gradient"]
    torch.testing.assert_close(first.loss.detach() - without, 0.5 * first.parts["kl"] / 768)
    before = tokenizer.scale.value.clone()
    tokenizer.train()
    second = update(0)
    assert not torch.equal(tokenizer.scale.value, before), "training follows the spread"
    second.loss.backward()
    own = tokenizer.parameter_groups()["main"]
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in own.parameters())


def test_saved_and_loaded_with_its_scale(tokenizer: KLAutoencoder, images: torch.Tensor, tmp_path: Path) -> None:
    loaded = pretrained.load(pretrained.save(tmp_path / "kl", tokenizer)).model
    assert isinstance(loaded, KLAutoencoder) and loaded.config == tokenizer.config
    assert torch.equal(loaded.scale.value, tokenizer.scale.value)
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))


@pytest.mark.parametrize("field", [{"sides": (4, 8)}, {"sides": (0,)}, {"patch": 0}, {"kl": -1.0}])
def test_sizes_that_make_no_sense_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(NextsetError, match=next(iter(field))):
        KLConfig(**field)  # type: ignore[arg-type]
