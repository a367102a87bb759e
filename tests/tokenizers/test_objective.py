"""The objective: terms are what they say, and the game of tokenizer and critic is played in turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.nn.critics import PatchCritic, critic_hinge, generator_hinge
from nextset.nn.perceptual import Lpips, RandomFeatures
from nextset.tokenizers.multiscale import MultiScaleVQ
from nextset.tokenizers.objective import Objective, ObjectiveConfig
from nextset.training.batches import Batches
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer
from tests.tokenizers.test_multiscale import SMALL

GAME = ObjectiveConfig(adversarial=0.5, critic_start=2, critic_ahead=1, critic_channels=8, critic_layers=1)


def images(n: int = 2, side: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, side, side, generator=generator) * 2 - 1


# ---- perceptual terms


def test_random_features_are_the_same_everywhere_and_nothing_is_saved() -> None:
    a, b = RandomFeatures(seed=3), RandomFeatures(seed=3)
    assert not a.state_dict() and not list(a.parameters())
    assert torch.equal(a(images(), images(seed=1)), b(images(), images(seed=1)))
    assert not torch.equal(a(images(), images(seed=1)), RandomFeatures(seed=4)(images(), images(seed=1)))


def test_random_features_see_a_blur_more_than_a_shift_of_brightness_of_equal_error() -> None:
    x = images(4, 32)
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    brighter = x + (blurred - x).square().mean().sqrt()
    measure = RandomFeatures()
    assert float(measure(x, x)) == 0
    assert float(measure(blurred, x)) > 2 * float(measure(brighter, x))


def test_gradients_of_a_perceptual_term_reach_the_output_only() -> None:
    output, wanted = images().requires_grad_(), images(seed=1).requires_grad_()
    RandomFeatures()(output, wanted).backward()
    assert output.grad is not None and bool(output.grad.isfinite().all()) and output.grad.abs().sum() > 0
    assert wanted.grad is None


def lpips_files(folder: Path) -> tuple[Path, Path]:
    """Files with the layout of VGG-16 and of LPIPS' heads, random weights."""
    generator = torch.Generator().manual_seed(0)
    body, inner = {}, 3
    for indices, outer in zip(Lpips.STAGES, Lpips.CHANNELS, strict=True):
        for i in indices:
            body[f"features.{i}.weight"] = torch.randn(outer, inner, 3, 3, generator=generator) * (2 / 9 / inner) ** 0.5
            body[f"features.{i}.bias"] = torch.randn(outer, generator=generator) * 0.1
            inner = outer
    body["classifier.0.weight"] = torch.zeros(2, 2)
    lines = {
        f"lin{k}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for k, c in enumerate(Lpips.CHANNELS)
    }
    torch.save(body, folder / "vgg16.pth")
    torch.save(lines, folder / "vgg.pth")
    return folder / "vgg16.pth", folder / "vgg.pth"


def test_lpips_is_the_formula_of_its_paper(tmp_path: Path) -> None:
    vgg, heads = lpips_files(tmp_path)
    measure, x, y = Lpips(vgg, heads), images(2, 32), images(2, 32, 1)
    body, lines = torch.load(vgg), torch.load(heads)
    network = nn.Sequential()  # VGG-16 as its paper has it, layer by layer
    taps = []
    for stage, indices in enumerate(Lpips.STAGES):
        for i in indices:
            weight = body[f"features.{i}.weight"]
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            layer.load_state_dict({"weight": weight, "bias": body[f"features.{i}.bias"]})
            network += nn.Sequential(layer, nn.ReLU())
        taps.append(len(network))
        if stage < 4:
            network.append(nn.MaxPool2d(2))
    total = torch.zeros(2)
    with torch.no_grad():
        for k, tap in enumerate(taps):
            features = []
            for image in (x, y):
                shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
                f = network[:tap]((image - shift.view(3, 1, 1)) / scale.view(3, 1, 1))
                features.append(f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10))
            each = (features[0] - features[1]).pow(2) * lines[f"lin{k}.model.1.weight"]
            total += each.sum(1).mean((1, 2))
        assert torch.allclose(measure(x, y), total.mean(), rtol=1e-5)
    assert not measure.state_dict()


def test_lpips_names_the_file_that_does_not_fit(tmp_path: Path) -> None:
    vgg, heads = lpips_files(tmp_path)
    with pytest.raises(NextsetError, match=r"vgg\.pth: features\.0\.weight is missing"):
        Lpips(heads, vgg)
    with pytest.raises(NextsetError, match="lpips"):
        ObjectiveConfig(lpips=1.0)


# ---- the critic


def test_the_critic_judges_patches_and_each_picture_alone() -> None:
    critic = PatchCritic(16, 2).eval()
    scores = critic(images(4, 32))
    assert scores.shape[:2] == (4, 1) and scores.shape[2] > 1
    assert torch.allclose(critic(images(4, 32)[1:2]), scores[1:2], atol=1e-6)
    with pytest.raises(NextsetError, match="needs pictures of 12 pixels a side, but gets 8"):
        critic(images())


def test_hinge_losses_push_to_both_sides() -> None:
    real, made = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert float(critic_hinge(real, made)) == pytest.approx(0.5 * (0.5 + 1.0))
    assert float(generator_hinge(made)) == pytest.approx(1.0)


def names(step: int, objective: ObjectiveConfig = GAME) -> list[tuple[str, str]]:
    model = MultiScaleVQ(SMALL, objective).train()
    found = []
    for update in model.updates({"images": images()}, step, Noise(0)):
        update.loss.backward()
        found.append((update.name, update.group))
    return found


def test_the_critic_learns_ahead_and_is_heard_from_its_start_on() -> None:
    alone, both = [("tokenizer", "main")], [("tokenizer", "main"), ("critic", "critic")]
    assert names(0) == alone
    assert names(1) == names(2) == both
    assert names(5, ObjectiveConfig()) == alone
    model = MultiScaleVQ(SMALL, GAME).train()
    parts = [next(iter(model.updates({"images": images()}, step, Noise(0)))).parts for step in (1, 2)]
    assert "adversarial" not in parts[0] and "adversarial" in parts[1]


def test_the_adaptive_weight_balances_gradients_at_the_last_layer() -> None:
    torch.manual_seed(0)
    last = nn.Parameter(torch.randn(3, 3, 1, 1))
    x = images()
    objective = Objective(GAME)
    output = torch.nn.functional.conv2d(x, last)
    update = next(iter(objective.updates(output, x, 2, last=last, quantiser=torch.zeros(()), parts={})))
    loss, _ = objective.reconstruction(output, x)
    assert objective.critic is not None
    a, b = (
        torch.autograd.grad(t, last, retain_graph=True)[0].norm()
        for t in (loss, generator_hinge(objective.critic(output)))
    )
    assert float(update.parts["adversarial_weight"]) == pytest.approx(0.5 * float(a / b), rel=1e-3)


def test_a_tokenizer_trains_against_its_critic_and_publishes_without_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MultiScaleVQ(SMALL, GAME)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data, order = images(8), Batches(8, 4, 0)
    config = TrainConfig(steps=4, batch=4, warmup=0, log_every=1, sample_every=0, ema=0.9)
    trainer = Trainer(model, lambda i: {"images": data[order.indices(i)]}, config, tmp_path / "run")
    result = trainer.run()
    assert "critic/loss" in result.metrics and "tokenizer/adversarial" in result.metrics
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any(name.startswith("objective.critic") for name in moved) and "decoder.conv_out.weight" in moved

    from nextset.hub import pretrained

    saved = pretrained.save(tmp_path / "model", model)
    again = pretrained.load(saved).model
    assert not any("critic" in name for name in again.state_dict())
    assert torch.equal(again.encode(data), model.eval().encode(data))
