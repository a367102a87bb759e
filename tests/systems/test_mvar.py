"""What is MVAR's own: self-only scales, the window, training in parts, and VAR's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.events import StepDone
from nextset.core.noise import Noise
from nextset.engine.run import Run, finish
from nextset.engine.together import together
from nextset.hub.convert import convert
from nextset.systems.mvar import MVar, MVarConfig
from nextset.systems.var import Var
from nextset.training.recipes import TrainConfig
from nextset.training.trainer import Trainer
from tests.battery.instances import instance

IMAGES = torch.arange(3)


def model() -> MVar:
    return instance("mvar").model  # type: ignore[return-value]


def logits(m: MVar, codes: torch.Tensor) -> torch.Tensor:
    canvas = m.canvas(len(codes))
    canvas.pin(codes, torch.ones_like(codes, dtype=torch.bool))
    with torch.no_grad():
        return m.teacher_forced(canvas, torch.zeros(len(codes), dtype=torch.int64))


def random_codes(n: int = 2) -> torch.Tensor:
    return torch.randint(0, 24, (n, 30), generator=torch.Generator().manual_seed(0))


def with_config(**changes: object) -> MVar:
    """The instance's weights under another config."""
    m = model()
    other = MVar(m.config.replace(**changes), m.tokenizer)
    other.load_state_dict(m.state_dict())
    return other.eval()


def test_a_window_as_large_as_the_map_is_full_attention() -> None:
    full, wide = with_config(refine_step=3), with_config(kernel_size=5)
    torch.testing.assert_close(logits(wide, random_codes()), logits(full, random_codes()))
    assert (logits(model(), random_codes()) - logits(full, random_codes()))[:, 5:].abs().max() > 1e-3


def test_nothing_is_kept_between_scales() -> None:
    it = instance("mvar")
    run = Run.of(it.job(IMAGES), Noise(0), IMAGES)
    finish(run)
    assert run.policy.bytes() == 0 and not run.states and run.forwards == 3


def test_requests_at_different_scales_share_forwards() -> None:
    m, trunk, calls = model(), MVar.trunk, []

    def request(i: int) -> Run:
        settings = {"guidance_scale": 2.0 * i, "top_k": 0, "top_p": 0.0}  # the first one has a single branch
        return Run.of(m.job(torch.arange(i + 1), **settings), Noise(i))

    def counted(*args: object) -> torch.Tensor:
        calls.append(args[0].shape[:2])  # type: ignore[attr-defined]
        return trunk(m, *args)  # type: ignore[arg-type]

    runs = [request(i) for i in range(3)]
    waiting, queue = runs[1:], runs[:1]
    m.trunk = counted  # type: ignore[method-assign,assignment]
    try:
        with torch.no_grad():
            for run, event in together(queue):
                if isinstance(event, StepDone) and event.index == 0 and waiting and run is runs[2 - len(waiting)]:
                    queue.append(waiting.pop(0))
    finally:
        del m.trunk
    assert len(calls) == 5, "three requests of three scales, each a round after the one before"
    for i, run in enumerate(runs):
        single = request(i)
        picture = finish(single)
        assert torch.equal(run.codes(), single.codes())
        torch.testing.assert_close(run.job.finish(run.job.canvas), picture, rtol=0, atol=1e-5)


def test_guidance_of_one_is_no_guidance() -> None:
    m = model()
    assert len(m.job(IMAGES, guidance_scale=1).branches) == len(m.job(IMAGES, guidance_scale=0).branches) == 1
    assert len(m.job(IMAGES, guidance_scale=1.5).branches) == 2


def test_parts_of_the_plan_train_in_a_fixed_cycle(tmp_path: Path) -> None:
    m = with_config(train_ratio=2)
    assert [m.part(i, 0)[:2] for i in range(4)] == [(0, 1), (0, 1), (2, 2), (0, 1)]
    it = instance("mvar")
    assert it.batch is not None
    batch = it.batch
    config = TrainConfig(steps=4, batch=8, warmup=0, log_every=1, sample_every=0, ema=0.9)
    trainer = Trainer(m, lambda i: batch(torch.arange(8) + 8 * i), config, tmp_path)
    assert trainer.run().step == 4


def test_training_with_the_mask_of_the_released_fine_tuning() -> None:
    m = with_config(train_mask="block_causal")
    own = logits(m, random_codes())
    m.train()
    with torch.no_grad():
        for block in m.layers:
            block.drop_path.p = 0.0
    assert (logits(m, random_codes())[:, 1:5] - own[:, 1:5]).abs().max() > 1e-4


def test_files_with_var_s_names_are_var_s_unless_the_wrapper_or_the_person_says_so(tmp_path: Path) -> None:
    from benchmarks.plain_var import random_state

    var, _ = random_state(
        2, width=32, heads=2, sides=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16), classes=5, vocabulary=16, latent=4
    )
    torch.save(var, tmp_path / "bare.pth")
    torch.save({"mvar_wo_ddp": var}, tmp_path / "wrapped.pth")
    assert type(convert([tmp_path / "bare.pth"])) is Var
    assert type(convert([tmp_path / "bare.pth"], system="mvar")) is MVar
    assert type(convert([tmp_path / "wrapped.pth"])) is MVar


@pytest.mark.parametrize(
    "values",
    [{"kernel_size": 4}, {"kernel_size": 15}, {"refine_step": 11}, {"train_ratio": 0}, {"train_mask": "other"}],
)
def test_values_that_do_not_fit_are_refused(values: dict) -> None:
    with pytest.raises(NextsetError, match=next(iter(values))):
        MVarConfig(**values)
