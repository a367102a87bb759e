"""What is HMAR's own: refinement by a schedule, editing, two stages of training, and its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.noise import Noise
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.pipelines import Pipeline
from nextset.systems.hmar import Hmar, HmarConfig
from nextset.systems.hmar.convert import components, merge
from nextset.systems.hmar.schedule import make_schedule
from nextset.systems.hmar.weights import token_weights
from nextset.training.recipes import TrainConfig, load_recipe
from nextset.training.trainer import Trainer
from tests.battery.common import Tap
from tests.battery.instances import instance

IMAGES = torch.arange(3)


def refined() -> Hmar:
    return instance("hmar:refined").model  # type: ignore[return-value]


def made(model: Hmar, **settings: Any) -> Run:
    run = Run.of(model.job(IMAGES, top_k=20, top_p=0.95, **settings), Noise(0))
    finish(run)
    return run


# ---- refinement


def test_one_forward_a_scale_is_generation_without_refinement() -> None:
    plain = made(refined(), mask=False)
    assert torch.equal(made(refined(), schedule=[[1], [4], [9]]).codes(), plain.codes()) and plain.forwards == 3
    assert torch.equal(made(refined(), steps={}).codes(), plain.codes())


def test_the_request_chooses_how_many_forwards_each_scale_gets() -> None:
    for schedule in ([[1], [1, 3], [1, 1, 2, 5]], [[1], [4], [3, 3, 3]], [[1], [1, 1, 1, 1], [9]]):
        run = made(refined(), schedule=schedule)
        assert run.forwards == len(run.job.plan) == sum(map(len, schedule))
        assert run.policy.bytes() == 0
    assert made(refined()).forwards == 1 + 2 + 4, "the released schedule"
    assert made(refined(), steps={2: 3}).forwards == 1 + 1 + 3


def test_refinement_changes_open_tokens_alone_and_draws_them_anew() -> None:
    record = Record()
    model = refined()
    run = Run.of(model.job(IMAGES, schedule=[[1], [4], [4, 5]]), Noise(0), controllers=[record])
    finish(run)
    first, again, logp = record.drawn[2].value, record.drawn[3].value, record.drawn[2].logp
    assert logp is not None
    certain = torch.argsort(logp, dim=-1, stable=True)[:, 5:]
    assert torch.equal(run.codes()[:, 5:].gather(1, certain), first.gather(1, certain))
    kept, redrawn = run.codes()[:, 5:] == first, run.codes()[:, 5:] == again
    assert bool((kept | redrawn).all()) and not bool(kept.all())


def test_refinement_runs_one_branch_unless_it_is_guided() -> None:
    for share, refining in ((0.0, (0,)), (0.5, (0, 1))):
        job = refined().job(IMAGES, guidance_scale=2.0, refine_guidance=share, schedule=[[1], [4], [4, 5]])
        tap = Tap(job.network)
        finish(Run.of(dataclasses.replace(job, network=tap), Noise(0)))
        assert tap.active == [(0,), (0, 1), (0, 1), refining]
    assert len(refined().job(IMAGES, guidance_scale=0.0).branches) == 1


def test_the_authors_guidance_of_refinement_is_in_effect_none() -> None:
    records = [Record(), Record()]
    for share, record in zip((0.0, 1e-6), records, strict=True):
        finish(Run.of(refined().job(IMAGES, refine_guidance=share), Noise(0), controllers=[record]))
    for a, b in zip(records[0].dists, records[1].dists, strict=True):
        torch.testing.assert_close(a.raw, b.raw, atol=1e-4, rtol=1e-4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": [[1], [4]]}, "has 2 lists"),
        ({"schedule": [[1], [4], [4, 4]]}, "add up to its 9 positions"),
        ({"steps": {3: 2}}, "a scale in steps is 3, but must be between 0 and 2"),
        ({"steps": {"middle": 2}}, "a scale in steps"),
        ({"steps": {1: 5}}, "steps at scale 1 is 5, but must be between 1 and 4"),
        ({"steps": {1: 2}, "schedule": [[1], [4], [9]]}, "both given"),
        ({"refine_guidance": 2.0}, "refine_guidance is 2.0"),
        ({"more_smooth": True}, "use mask=False"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NextsetError, match=message):
        refined().job(IMAGES, **settings)


@pytest.mark.parametrize("settings", [{"mask": True}, {"steps": {1: 2}}, {"schedule": [[1], [1, 3], [9]]}])
def test_a_model_of_the_first_stage_refuses_refinement(settings: dict[str, Any]) -> None:
    with pytest.raises(NextsetError, match="no blocks for refinement"):
        instance("hmar").model.job(IMAGES, **settings)  # type: ignore[operator]


def test_steps_settle_about_equally_many_tokens() -> None:
    assert make_schedule([1, 2, 3], steps={"1": 2, 2: 4}) == ((1,), (2, 2), (2, 2, 2, 3))
    assert make_schedule([1, 2, 3, 4, 6]) == ((1,), (1, 3), (1, 1, 2, 5), (16,), (36,))


def test_a_saved_model_refines_as_asked(tmp_path: Path) -> None:
    folder = pretrained.save(tmp_path / "model", refined(), defaults={"steps": {2: 3}, "top_k": 20})
    pipe = Pipeline.from_pretrained(folder)
    assert pipe.forwards() == 5 and pipe.forwards(steps={1: 2}) == 4 and pipe.forwards(mask=False) == 3
    whole, alone = pipe([0, 1, 2], seed=4, candidates=2, decide_at=1), pipe([1], seed=4, indices=[1], candidates=2)
    assert whole.tokens.shape == (3, 14) and alone.tokens.shape == (1, 14)


def test_stepped_is_packed() -> None:
    """Scale after scale, and all in one forward in which no scale sees another."""
    it = instance("hmar")
    job, codes, record = it.job(IMAGES), torch.randint(0, 24, (3, 14)), Record()
    canvas = it.model.canvas(3)  # type: ignore[operator]
    for each in (job.canvas, canvas):
        each.pin(codes, torch.ones(14, dtype=torch.bool))
    alone = dataclasses.replace(job, branches=job.branches[:1], weights=lambda step: (1.0,))
    finish(Run.of(alone, Noise(0), controllers=[record], skip_pinned=False))
    stepped = torch.cat([law.raw for law in record.dists], 1)  # type: ignore[attr-defined]
    with torch.no_grad():
        torch.testing.assert_close(it.model.teacher_forced(canvas, IMAGES % 5), stepped)  # type: ignore[operator]


# ---- editing


def test_given_tokens_stay_and_the_others_are_refined() -> None:
    model = refined()
    given = torch.full((3, 14), 5)
    mask = model.keep_mask(torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 0]]))
    run = Run.of(job := model.job(IMAGES, steps={2: 3}), Noise(0))
    job.canvas.pin(given, mask)
    finish(run)
    assert (run.codes()[:, mask] == 5).all() and (run.codes()[:, ~mask] != 5).any()


def test_a_scale_that_is_given_costs_no_forward() -> None:
    model = refined()
    run = Run.of(job := model.job(IMAGES, top_k=20, top_p=0.95), Noise(0))
    codes, mask = made(model).codes(), torch.zeros(14, dtype=torch.bool)
    mask[:5] = True
    job.canvas.pin(codes, mask)
    finish(run)
    assert run.forwards == 4 and torch.equal(run.codes(), codes), "of 7 forwards, three were of given scales"


# ---- training


def test_weights_of_the_scales() -> None:
    sides = (1, 2, 3)
    assert token_weights("token", sides).tolist() == pytest.approx([1 / 14] * 14)
    totals = [part.sum().item() for part in token_weights("equal", sides).split([1, 4, 9])]
    assert totals == pytest.approx([1, 1, 1])
    totals = [part.sum().item() for part in token_weights("lognorm", sides).split([1, 4, 9])]
    assert sum(totals) == pytest.approx(1) and totals[1] > totals[0] == pytest.approx(totals[2])


def test_a_token_s_weight_without_rule_is_the_loss_of_the_base() -> None:
    it = instance("hmar")
    assert it.batch is not None
    model = Hmar(it.model.config.replace(scale_weights="token"), it.model.tokenizer)  # type: ignore[union-attr,operator,arg-type]
    model.load_state_dict(it.model.state_dict())
    (update,) = model.eval().updates(it.batch(torch.arange(4)), 0, Noise(0))
    torch.testing.assert_close(update.loss.detach(), update.parts["ce"])


def test_the_second_stage_starts_from_the_first_and_trains_the_copy_alone(tmp_path: Path) -> None:
    it = instance("hmar")
    assert it.batch is not None
    batch, first = it.batch, it.model
    model = Hmar(first.config.replace(mask_blocks=1), first.tokenizer)  # type: ignore[union-attr,operator,arg-type]
    model.load_state_dict(first.state_dict())
    assert model.masked is not None
    for name, tensor in model.masked.blocks[0].state_dict().items():
        assert torch.equal(tensor, first.state_dict()[f"blocks.1.{name}"])
    assert torch.equal(model.masked.classifier.weight, first.state_dict()["classifier.weight"])
    config = TrainConfig(steps=2, batch=8, warmup=0, log_every=1, sample_every=0, ema=0.9, lr=1e-2)
    trainer = Trainer(model, lambda i: batch(torch.arange(8) + 8 * i), config, tmp_path)
    assert trainer.run().step == 2
    changed = {
        n
        for n, t in model.state_dict().items()
        if n in first.state_dict() and not torch.equal(t, first.state_dict()[n])
    }
    assert changed == set() and not torch.equal(model.masked.classifier.weight, first.state_dict()["classifier.weight"])


def test_a_step_hides_a_share_of_every_scale_but_the_first() -> None:
    model = refined()
    counts = torch.stack(
        [torch.stack([p.sum() for p in model.hidden(i, Noise(0)).split([1, 4, 9])]) for i in range(50)]
    )
    assert (counts[:, 0] == 0).all() and (counts[:, 1:] >= 1).all()
    assert set(counts[:, 1].tolist()) == {1, 2, 3, 4} and int(counts[:, 2].max()) == 9
    assert not torch.equal(model.hidden(0, Noise(0)), model.hidden(1, Noise(0)))


def test_hidden_tokens_do_not_reach_the_prediction() -> None:
    """What is hidden is told neither by the scale's own codes; what is not hidden is."""
    model, codes = refined(), torch.randint(0, 24, (2, 14), generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(14, dtype=torch.bool)
    hidden[5:] = True  # the last scale whole: no later scale reads it
    other = codes.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 24
    labels = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.masked_logits(codes, labels, hidden), model.masked_logits(other, labels, hidden)
        )
        hidden[5] = False
        a, b = (model.masked_logits(c, labels, hidden)[:, 4:] for c in (codes, other))
    assert (a - b).abs().max() > 1e-3


def test_the_recipes_fit_together() -> None:
    coder = load_recipe("var-cifar10-tokenizer").model
    sizes = {"classes": 10, "vocabulary": coder["vocabulary"], "sides": coder["sides"], "channels": 16}
    first, second = (
        Hmar(HmarConfig.from_dict({**sizes, **load_recipe(name).model}))
        for name in ("hmar-cifar10", "hmar-cifar10-refine")
    )
    assert second.load_state_dict(first.state_dict()) and len(second.masked.blocks) == 2  # type: ignore[union-attr]


# ---- files


SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def next_scale_state(depth: int) -> dict[str, torch.Tensor]:
    from benchmarks.plain_var import random_state

    small = {"channels": 8, "multipliers": (1,), "blocks": 1}  # the tokenizer's, which is not looked at
    return random_state(depth, width=32, heads=2, sides=SIDES, classes=5, vocabulary=16, latent=4, **small)[0]  # type: ignore[arg-type]


def masked_state(depth: int) -> dict[str, torch.Tensor]:
    state = {n: t + 1 if t.is_floating_point() else t for n, t in next_scale_state(depth).items()}
    state["word_embed_bias"], state["mask_embed.weight"] = state.pop("word_embed.bias"), torch.randn(1, 32)
    return state


def test_the_two_files_of_the_trainers_make_one_model(tmp_path: Path) -> None:
    torch.save({"trainer": {"transformer_wo_ddp": next_scale_state(9)}}, tmp_path / "first.pth")
    torch.save({"trainer": {"transformer_wo_ddp": masked_state(9)}}, tmp_path / "second.pth")
    with pytest.warns(NextsetWarning, match="non-commercial"):
        model = convert([tmp_path / "first.pth", tmp_path / "second.pth"])
    assert type(model) is Hmar and (model.config.mask_blocks, model.config.depth) == (8, 9)
    with pytest.raises(NextsetError, match="begins no picture"):
        convert([tmp_path / "second.pth"])


def test_a_merged_file_is_read_as_what_it_was_merged_of(tmp_path: Path) -> None:
    """The authors' names for the parts; the first end is the first file's, whatever the second says."""
    first, second = next_scale_state(3), masked_state(3)
    merged = {}
    for name, tensor in merge(first, second, trained=2).items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            name = f"base_blocks.{number}.{rest}" if number == "0" else f"ns_blocks.{int(number) - 1}.{rest}"
        elif name.startswith("head"):
            name = f"ns_{name}"
        merged["word_embed_bias" if name == "word_embed.bias" else name] = tensor
    torch.save(merged, tmp_path / "merged.pth")
    with pytest.warns(NextsetWarning, match="non-commercial"):
        model = convert([tmp_path / "merged.pth"], system="hmar")
    assert type(model) is Hmar and model.config.mask_blocks == 2 and model.masked is not None
    assert torch.equal(model.classifier.weight, first["head.weight"])
    assert torch.equal(model.blocks[2].attn.proj.weight, first["blocks.2.attn.proj.weight"])  # type: ignore[union-attr]
    assert torch.equal(model.masked.blocks[1].attn.proj.weight, second["blocks.2.attn.proj.weight"])  # type: ignore[union-attr]
    assert torch.equal(model.masked.embedding, second["mask_embed.weight"])


def test_a_bare_file_with_the_base_s_names_must_be_asked_for() -> None:
    assert components(next_scale_state(1)) == {} and set(components(next_scale_state(1), asked=True)) == {"generator"}
    assert set(components(masked_state(1))) == {"masked"}


def test_files_of_other_depths_do_not_go_together() -> None:
    with pytest.raises(NextsetError, match="as many as each other"):
        merge(next_scale_state(9), masked_state(8))


@pytest.mark.parametrize(("depth", "count"), [(16, 467_691_904), (20, 845_517_872)])
def test_released_sizes(depth: int, count: int) -> None:
    with torch.device("meta"):
        model = Hmar(HmarConfig(depth=depth, width=64 * depth, heads=depth, mask_blocks=8))
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    "values", [{"mask_blocks": 17}, {"raster": True, "sides": [4]}, {"scale_weights": "even"}, {"sides": [4]}]
)
def test_values_that_do_not_fit_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(
        NextsetError, match="scale_weights" if "raster" not in values and "sides" in values else next(iter(values))
    ):
        HmarConfig(**values)
