"""The tokenizer of one map: ids by the nearest normalised code, any size of image, its training terms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.hub import pretrained
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.pipelines import reconstruct
from nextset.tokenizers.objective import ObjectiveConfig
from nextset.tokenizers.vq import VectorQuantiser, VQConfig, VQTokenizer

SMALL = VQConfig(
    autoencoder=AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=6, groups=4, attention=False),
    vocabulary=16,
    channels=4,
    sides=(8,),
)


def make(config: VQConfig = SMALL, **objective: float) -> VQTokenizer:
    torch.manual_seed(0)
    return VQTokenizer(config, ObjectiveConfig(**objective)).eval()  # type: ignore[arg-type]


def pictures(n: int = 2, h: int = 16, w: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("normalised", [True, False])
def test_an_id_is_the_nearest_code_and_decodes_to_it(normalised: bool) -> None:
    model = make(SMALL.replace(normalised=normalised))
    ids, f = model.encode(pictures()), model.features(pictures())
    z, table = f.flatten(2).transpose(1, 2), model.quantiser.codebook.weight
    if normalised:
        z, table = F.normalize(z, dim=-1), F.normalize(table, dim=-1)
    assert torch.equal(ids, torch.cdist(z, table.expand(2, -1, -1)).argmin(-1)) and ids.shape == (2, 64)
    torch.testing.assert_close(model.f_hat(ids).flatten(2).transpose(1, 2), table[ids])
    images = model.decode(ids)
    assert images.shape == (2, 3, 16, 16) and images.dtype == torch.float32 and images.abs().max() <= 1


def test_lengths_of_codes_do_not_matter_where_they_are_normalised() -> None:
    model, images = make(), pictures()
    before = model.decode(model.encode(images))
    with torch.no_grad():
        model.quantiser.codebook.weight.mul_(torch.linspace(0.1, 5, 16)[:, None])
    torch.testing.assert_close(model.decode(model.encode(images)), before)


def test_other_sizes_and_shapes() -> None:
    model = make()
    ids = model.encode(pictures(2, 12, 20))
    assert ids.shape == (2, 60)
    assert model.decode(ids, sides=[(6, 10)]).shape == (2, 3, 12, 20)
    larger = model.at(10)
    assert larger.spec.size == (20, 20) and larger.spec.tokens == 100 and model.spec.tokens == 64
    assert larger.decode(larger.encode(pictures(1, 20, 20))).shape == (1, 3, 20, 20)
    assert larger.quantiser.codebook.weight is model.quantiser.codebook.weight
    with pytest.raises(NextsetError, match="there are 60 ids, but a map of 8x8 has 64; give its sides"):
        model.decode(ids)
    with pytest.raises(NextsetError, match=r"the feature map is \(6, 10\), but sides are \[8\]; leave them out"):
        model.encode(pictures(2, 12, 20), sides=[8])
    with pytest.raises(NextsetError, match="upto is 2, but must be between 1 and 1; there is one map"):
        larger.decode(torch.zeros(1, 100, dtype=torch.int64), upto=2)
    with pytest.raises(NextsetError, match="the image is 17x16 pixels, but both sides must be multiples of 2"):
        model.encode(pictures(1, 16, 17))


def test_a_new_codebook_is_as_the_release_draws_it() -> None:
    torch.manual_seed(0)
    plain = VectorQuantiser(64, 4, normalised=False).codebook.weight
    assert plain.abs().max() <= 1 / 64 and plain.min() < -0.9 / 64
    torch.testing.assert_close(VectorQuantiser(64, 4, normalised=True).codebook.weight.norm(dim=1), torch.ones(64))


def test_which_term_moves_what() -> None:
    quantiser = VectorQuantiser(16, 4, normalised=True)
    f = torch.randn(2, 5, 4, requires_grad=True)
    z = quantiser.scaled(f)
    vq, commit = quantiser.terms(z, quantiser.codebook.nearest(z))
    assert torch.equal(vq, commit)
    code, cell = torch.autograd.grad(vq, [quantiser.codebook.weight, f], retain_graph=True, allow_unused=True)
    assert code is not None and cell is None
    code, cell = torch.autograd.grad(commit, [quantiser.codebook.weight, f], retain_graph=True, allow_unused=True)
    assert code is None and cell is not None


def test_entropy_is_low_where_cells_are_sure_and_codes_are_used_evenly() -> None:
    quantiser = VectorQuantiser(4, 4, normalised=True)
    with torch.no_grad():
        quantiser.codebook.weight.copy_(torch.eye(4))
    even = quantiser.choice_entropy(torch.eye(4))
    torch.testing.assert_close(even, -torch.tensor(4.0).log(), atol=1e-4, rtol=0)
    one = quantiser.choice_entropy(torch.eye(4)[:1].expand(4, -1))
    torch.testing.assert_close(one, torch.tensor(0.0), atol=1e-4, rtol=0)
    unsure = quantiser.choice_entropy(torch.full((4, 4), 0.5))
    assert even < unsure and even < one


def test_a_training_step_reaches_every_weight_and_records_use() -> None:
    model = make(SMALL.replace(entropy=0.1), adversarial=0.5, adaptive=False, critic_start=2).train()
    for step, names in ((1, ["tokenizer"]), (2, ["tokenizer", "critic"])):
        found = []
        for update in model.updates({"images": pictures(4)}, step, Noise(0)):
            model.zero_grad()
            update.loss.backward()
            group = model.parameter_groups()[update.group]
            assert all(p.grad is not None for p in group.parameters())
            found.append(update.name)
            if update.name == "tokenizer":
                assert {"vq", "commit", "entropy", "used", "perplexity", "psnr"} <= set(update.parts)
        assert found == names
    assert 0 < model.usage.used()[0] <= 1


def test_training_lowers_the_loss() -> None:
    model = make().train()
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=3e-3), []
    for step in range(20):
        (update,) = model.updates({"images": pictures(4)}, step, Noise(0))
        optimiser.zero_grad()
        update.loss.backward()
        optimiser.step()
        losses.append(float(update.loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_codes_come_in_late_where_they_are_told_to() -> None:
    """Before `begin` cells pass as they are and codes rest; then codes are cells; without it none is ever replaced."""
    model, batch = make(SMALL.replace(begin=2), revive_every=1, revive_below=0.0).train(), {"images": pictures()}
    first = model.quantiser.codes.detach().clone()
    for step in (0, 1):
        (update,) = model.updates(batch, step, Noise(0))
        update.loss.backward()
        assert torch.equal(model.quantiser.codes, first) and not model.usage.hits.any()
        assert not model.quantiser.codebook.weight.grad.any()
        z = model.cells(model.features(pictures()).float())
        passed = model.decode_features(z.transpose(1, 2).unflatten(-1, (8, 8)))
        torch.testing.assert_close(update.parts["l1"], (passed - pictures()).abs().mean())
    model.objective.config = model.objective.config.replace(revive_below=1e-6)
    list(model.updates(batch, 2, Noise(0)))
    nearest = (model.quantiser.codes @ model.cells(model.features(pictures())).flatten(0, 1).T).max(1).values
    torch.testing.assert_close(nearest, torch.ones(16))
    assert len(model.quantiser.codes.unique(dim=0)) == 16 and model.usage.hits.any()
    plain = make(revive_every=1, revive_below=1e9).train()
    list(plain.updates(batch, 0, Noise(0)))
    assert torch.equal(plain.quantiser.codes, first)


def test_cells_far_from_their_codes_are_taken_up_first() -> None:
    """Of 128 cells four are unlike the rest: one code that is replaced becomes one of them far more often than one in 32."""
    taken = 0
    for step in range(10):
        model = make(SMALL.replace(begin=1), revive_below=0.5)
        model.usage.hits.fill_(1.0)[:, 3] = 0  # one dead code
        z = F.normalize(
            model.quantiser.codes[0] + 0.01 * torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(0)), dim=-1
        )
        z[:, :2] = -model.quantiser.codes[0]
        model._revive(z.detach(), step, Noise(0))
        taken += int(model.quantiser.codes[3] @ z[0, 0] > 0.99)
    assert taken >= 7


def test_a_decoder_of_other_widths(tmp_path) -> None:
    model = make(SMALL.replace(decoder_multipliers=(2, 1)))
    assert (
        model.decoder.up[0].block[0].conv2.out_channels == 16 and model.encoder.down[0].block[0].conv2.out_channels == 8
    )  # type: ignore[union-attr,index]
    loaded = pretrained.load(pretrained.save(tmp_path / "vq", model))
    assert loaded.kind == "tokenizer" and loaded.model.config == model.config
    found, again = reconstruct(model, pictures()), reconstruct(loaded.model, pictures())
    assert torch.equal(found.tokens, again.tokens) and torch.equal(found.scales[0], again.scales[0])
    assert len(found.scales) == 1 and found.psnr[0].shape == (2,)


@pytest.mark.parametrize(
    "values",
    [
        {"vocabulary": 1},
        {"channels": 0},
        {"sides": (4, 8)},
        {"decoder_multipliers": (1,)},
        {"beta": -1.0},
        {"entropy": -1.0},
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict) -> None:
    with pytest.raises(NextsetError, match=f"VQConfig.{next(iter(values))} is"):
        VQConfig(**values)
