"""Frequency bands: low-passes are what they say, and with the bands off the tokenizer is the plain one, bit by bit."""

from __future__ import annotations

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.nn.frequency import frequency, kept, low_pass
from nextset.tokenizers.frequency import FrequencyVQ, FrequencyVQConfig
from nextset.tokenizers.multiscale import MultiScaleVQ
from tests.tokenizers.test_multiscale import SMALL

FIELDS = {f: getattr(SMALL, f) for f in ("autoencoder", "vocabulary", "sides", "phi_share")}


def make(**changes: object) -> FrequencyVQ:
    torch.manual_seed(0)
    return FrequencyVQ(FrequencyVQConfig(**{**FIELDS, **changes})).eval()  # type: ignore[arg-type]


def test_frequencies_reach_from_zero_to_one() -> None:
    for shape in ("radial", "square"):
        rho = frequency(6, 8, shape)  # type: ignore[arg-type]
        assert rho[0, 0] == 0 and rho[3, 4] == 1 and rho.max() == 1
    assert frequency(5, 5).max() < 1, "odd sides have no highest bin"


def test_bands_add_up_and_nothing_lies_above_a_cutoff() -> None:
    f = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    cutoffs = (0.25, 0.5, 1.0)
    passed = low_pass(f, cutoffs)
    assert torch.allclose(passed[-1], f, atol=1e-5)
    bands = torch.diff(torch.cat([torch.zeros_like(passed[:1]), passed]), dim=0)
    assert torch.allclose(bands.sum(0), f, atol=1e-5)
    above = torch.fft.fft2(passed[0]) * ~kept(6, 8, cutoffs)[0]
    assert above.abs().max() < 1e-4


def test_with_the_bands_off_it_is_the_plain_tokenizer_bit_by_bit() -> None:
    off = make(bands="off")
    plain = MultiScaleVQ(SMALL).eval()
    plain.load_state_dict(off.state_dict())
    images = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(off.encode(images), plain.encode(images))
    a, b = (next(iter(m.updates({"images": images}, 1, Noise(0)))).loss for m in (off, plain))
    assert torch.equal(a, b)


def test_scales_aim_at_their_share_of_the_frequencies() -> None:
    model = make()
    assert model.cutoffs(model.sides) == (0.25, 0.5, 1.0)
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    assert model.bands(images).shape == (3, 1, 3, 8, 8)
    assert torch.equal(model.bands(images)[-1], model.decode_features(model.features(images)).clamp(-1, 1))


def test_the_commitment_reaches_the_encoder_through_the_low_pass() -> None:
    model = make().train()
    f = torch.randn(1, 4, 4, 4, requires_grad=True)
    _, loss = model.explain(f)
    (gradient,) = torch.autograd.grad(loss, f)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("cutoffs", [(0.5, 1.0), (0.5, 0.25, 1.0), (0.25, 0.5, 0.9), (0.0, 0.5, 1.0)])
def test_cutoffs_that_do_not_fit_are_refused(cutoffs: tuple[float, ...]) -> None:
    with pytest.raises(NextsetError, match="cutoffs"):
        make(cutoffs=cutoffs)
