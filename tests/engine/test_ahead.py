"""Numbers that are drawn ahead are the numbers that would have been drawn."""

from __future__ import annotations

import torch

from nextset.core.noise import Noise
from nextset.core.plans import raster, scale_pyramid
from nextset.engine import ahead
from nextset.engine.ahead import Ahead


class Counted(Noise):
    calls = 0

    def uniform(self, *args, **options):
        type(self).calls += 1
        return super().uniform(*args, **options)


def test_a_block_serves_many_steps_with_the_same_numbers(monkeypatch):
    monkeypatch.setattr(ahead, "BLOCK", 12)
    plan, images, Counted.calls = raster(1, 10), torch.tensor([4, 1, 9]), 0
    source, plain = Ahead(Counted(5, "draw"), plan), Noise(5, "draw")
    for step in plan.steps:
        assert torch.equal(source.uniform(images, step.draw), plain.uniform(images, step.draw))
    assert Counted.calls == 3, "four steps of three images a block"


def test_other_images_attempts_lanes_and_positions_are_asked_anew():
    plan, images = scale_pyramid([1, 2, 3]), torch.tensor([4, 1])
    source, plain = Ahead(Noise(5, "draw"), plan), Noise(5, "draw")
    for step in plan.steps:
        for who in (images, images.flip(0)):
            for attempt in (0, 3, torch.tensor([1, 2])):
                for lanes in (None, 5):
                    options = {"attempt": attempt, "lanes": lanes}
                    wanted = plain.uniform(who, step.draw, **options)
                    assert torch.equal(source.uniform(who, step.draw, **options), wanted)
    joined = plan.all().draw
    assert torch.equal(source.uniform(images, joined), plain.uniform(images, joined))


def test_other_numbers_come_from_the_source():
    plan, images = raster(1, 4), torch.tensor([4, 1])
    source, plain = Ahead(Noise(5, "draw"), plan), Noise(5, "draw")
    at = plan.steps[0].draw
    assert torch.equal(source.normal(images, at), plain.normal(images, at))
    assert torch.equal(source.of("soft").uniform(images, at, lanes=3), plain.of("soft").uniform(images, at, lanes=3))
