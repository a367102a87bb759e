"""The VQ tokenizer of clips: which pixels an id stands for, clips back in order, its training terms, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.spec import VideoSpec
from nextset.hub import pretrained
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.tokenizers.folded import FoldedVQ, FoldedVQConfig
from nextset.tokenizers.objective import ObjectiveConfig

SMALL = AutoencoderConfig(
    channels=8, multipliers=(1,), blocks=1, latent=4, groups=2, attention=False, middle_attention=False, stem=4
)
TINY = FoldedVQConfig(autoencoder=SMALL, vocabulary=12, channels=4, sides=(2,), frames=6, fold=2)


def make(**objective: float) -> FoldedVQ:
    torch.manual_seed(0)
    return FoldedVQ(TINY, ObjectiveConfig(**objective)).eval()  # type: ignore[arg-type]


def clips(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 6, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_clips_to_ids_and_back() -> None:
    model = make()
    ids = model.encode(clips())
    again = model.decode(ids)
    assert ids.shape == (2, 3 * 2 * 2) and again.shape == (2, 3, 6, 8, 8) and float(again.abs().max()) <= 1
    spec = model.spec
    assert isinstance(spec, VideoSpec)
    assert (spec.frames, spec.size, spec.grid, spec.tokens, spec.vocabulary) == (6, (8, 8), (3, 2, 2), 12, 12)
    assert model.sides == ((6, 2),)
    for i in range(2):
        torch.testing.assert_close(model.decode(ids[i : i + 1]), again[i : i + 1])


def test_an_id_stands_for_its_own_frames() -> None:
    """A change of frames 2 and 3 changes features and pixels of the second group alone."""
    model, videos = make(), clips(1)
    other = videos.clone()
    other[:, :, 2:4] = -other[:, :, 2:4]
    a, b = model.features(videos), model.features(other)
    assert [torch.equal(x, y) for x, y in zip(a, b, strict=True)] == [True, False, True]
    ids = torch.zeros(1, 12, dtype=torch.int64)
    changed = ids.clone()
    changed[:, 4:8] = 1
    differ = (model.decode(ids) != model.decode(changed)).flatten(3).any(3).any(1)[0]
    assert differ.tolist() == [False, False, True, True, False, False]


def test_frames_are_folded_and_unfolded_in_order() -> None:
    model, videos = make(), clips()
    seen: list[Tensor] = []
    model.encoder.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    model.features(videos)
    assert seen[0].shape == (6, 6, 8, 8)
    torch.testing.assert_close(seen[0][4], torch.cat([videos[1, :, 2], videos[1, :, 3]]))  # clip 1, second group
    torch.testing.assert_close(model.pictures(seen[0]), model.pictures(videos))


def test_it_is_trained_on_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(perceptual=0.5).train()
    judged: list[Tensor] = []
    reconstruction = model.objective.reconstruction

    def watched(output: Tensor, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        judged.append(images)
        return reconstruction(output, images)

    monkeypatch.setattr(model.objective, "reconstruction", watched)
    (update,) = model.updates({"images": clips()}, 0, Noise(0))
    update.loss.backward()
    torch.testing.assert_close(judged[0], clips().transpose(1, 2).flatten(0, 1))
    assert {"l1", "gradient", "perceptual", "psnr", "vq", "commit", "used"} <= set(update.parts)
    assert all(p.grad is not None for p in model.parameter_groups()["main"].parameters())


def test_it_is_saved_and_loaded(tmp_path) -> None:
    model = make()
    again = pretrained.load(pretrained.save(tmp_path / "t", model)).model
    assert type(again) is FoldedVQ and torch.equal(again.encode(clips()), model.encode(clips()))


def test_other_clips_and_ids_are_refused() -> None:
    model = make()
    with pytest.raises(NextsetError, match="a clip is 3x4x8x8, but this tokenizer reads 3x6x8x8 "):
        model.encode(clips()[:, :, :4])
    with pytest.raises(NextsetError, match="a clip is 3x8x8, but this tokenizer reads"):
        model.encode(clips()[:, :, 0])
    with pytest.raises(NextsetError, match="a clip has 12 of them"):
        model.decode(torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(NextsetError, match="fold is 4, but must be a divisor of 6 frames"):
        FoldedVQConfig(frames=6, fold=4)
