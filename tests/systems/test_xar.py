"""What is xAR's own: calls and memory of entities, guidance, samplers, given entities, contexts of training, its
files."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nextset
from nextset.core.entities import entities
from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.latents import Flowing
from nextset.core.masks import box_mask
from nextset.core.noise import Noise
from nextset.data.arrays import write_arrays
from nextset.engine.controllers import Controller
from nextset.engine.run import Run, finish, forward, look, proceed
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.hub.workshop import train
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.nn.gated import map_turns
from nextset.systems.flowar.convert import components as flowar_components
from nextset.systems.mar.convert import components as mar_components
from nextset.systems.xar import Xar, XarConfig
from nextset.systems.xar.claim import plainly, recomputed
from nextset.systems.xar.convert import GENERATOR, components, load_generator
from nextset.tokenizers.kl import KLAutoencoder, KLConfig
from nextset.training.recipes import load_recipe
from tests.battery.common import same
from tests.battery.instances import instance

IMAGES = torch.arange(3)
KINDS = ["xar", "xar:image", "xar:scale", "xar:subsample"]


def model(kind: str = "xar") -> Xar:
    return instance(kind).model  # type: ignore[return-value]


def made(kind: str = "xar", images: Tensor = IMAGES, **settings: Any) -> Run:
    """A finished run over an instance."""
    run = Run.of(model(kind).job(images % 5, **{"num_steps": 3, "guidance_scale": 2.0, **settings}), Noise(0), images)
    finish(run)
    return run


def tokens(m: Xar, n: int = 3) -> Tensor:
    return m.at_positions(torch.randn(n, m.config.tokens, 4, generator=torch.Generator().manual_seed(0)))


def velocities(m: Xar, x: Tensor, times: Tensor, seed: int = 0) -> Tensor:
    """Of all entities in one forward, by slot."""
    job = m.teacher_forced(x, torch.zeros(len(x), dtype=torch.int64), times)
    law: Any = look(Run.of(job, Noise(seed), cache="none"), job.plan.all(), filtered=False)
    return law.velocity


# ---- generation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sampler", "steps"), [("sde", 3), ("sde", 5), ("euler", 1), ("euler", 4)])
def test_a_picture_takes_a_forward_for_each_level_of_each_entity(kind: str, sampler: str, steps: int) -> None:
    run = made(kind, sampler=sampler, num_steps=steps)
    assert run.forwards == len(model(kind).config.entities) * steps and bool(torch.isfinite(run.codes()).all())
    pipe = pretrained_pipe(kind)
    assert pipe.forwards(sampler=sampler, num_steps=steps) == run.forwards


def pretrained_pipe(kind: str) -> Any:
    loaded = pretrained.Pretrained("tiny", model(kind), {"kind": "generator"})
    return nextset.Pipeline(loaded)


@pytest.mark.parametrize("kind", ["xar", "xar:scale", "xar:subsample"])
def test_what_is_stored_makes_the_velocities_of_a_forward_over_clean_entities(kind: str) -> None:
    """At every step of a generation: hidden states from memory, and from one forward with nothing stored."""
    assert recomputed(model(kind)) < 1e-4
    assert recomputed(model(kind), cache="none") > 1e-2, "which differ where nothing is stored"


def test_one_entity_is_plain_flow_matching() -> None:
    """Against the solver around the network, without plan, memory and loop."""
    assert plainly(model()) < 1e-4


def test_guidance_grows_from_entity_to_entity() -> None:
    job = model().job(IMAGES, guidance_scale=4.0, num_steps=3)
    drawing = [s for s in job.plan.steps if s.draw.shape[-1]]
    assert [job.weights(s)[0] for s in drawing] == [1.0] * 3 + [2.0] * 3 + [3.0] * 3 + [4.0] * 3
    assert all(sum(job.weights(s)) == 1 for s in drawing)
    assert len(model().job(IMAGES, guidance_scale=1.0).branches) == 1


def test_the_null_branch_first_runs_where_it_keeps_the_first_entity() -> None:
    active: list[tuple[int, ...]] = []
    job = model().job(IMAGES, guidance_scale=2.0, num_steps=3)
    run = Run.of(job, Noise(0))
    ask, seen = run.active, active.append

    def noted(step: Any) -> tuple[int, ...]:
        found = ask(step)
        seen(found)
        return found

    run.active = noted  # type: ignore[method-assign]
    finish(run)
    assert set(active[:3]) == {(0,)}, "the first entity is not guided"
    assert set(active[-9:]) == {(0, 1)}


def test_less_guidance_than_none_counts_as_none() -> None:
    with pytest.warns(NextsetWarning, match=r"guidance_scale is 0.5; below 1 it counts as 1"):
        less = made(guidance_scale=0.5)
    assert torch.equal(less.codes(), made(guidance_scale=1.0).codes())


def test_the_sde_adds_noise_and_euler_none() -> None:
    class Late(Noise):
        """The first noise of one seed, what is added of another."""

        def of(self, purpose: str) -> Noise:
            return Noise(self.seed if purpose == "draw" else 0, f"{self.purpose}/{purpose}")

    for sampler, differs in (("sde", True), ("euler", False)):
        runs = [Run.of(model().job(IMAGES, sampler=sampler, num_steps=3), Late(seed)) for seed in (1, 2)]
        one, two = (finish(run) for run in runs)
        assert torch.equal(one, two) != differs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 2])
def test_an_image_is_the_same_at_any_batch(kind: str, batch: int) -> None:
    whole = made(kind).codes()
    for rows in IMAGES.split(batch):
        assert same(made(kind, rows).codes(), whole[rows])


def test_a_preview_shows_where_tokens_lead_and_ends_with_the_picture() -> None:
    run = Run.of(model().job(IMAGES, num_steps=3), Noise(0))
    shown = []
    for _ in proceed(run, stop=5):  # half way through the second cell
        shown.append(run.job.canvas.outlook.clone())  # type: ignore[attr-defined]
    canvas = run.job.canvas
    assert isinstance(canvas, Flowing)
    of = model().config.entities
    assert torch.equal(canvas.outlook[:, of.sets[0]], canvas.codes()[:, of.sets[0]]), "done"
    assert bool((canvas.outlook[:, of.sets[1]] != canvas.codes()[:, of.sets[1]]).any()), "under way"
    assert not canvas.outlook[:, torch.cat(of.sets[2:])].any() and bool(shown[0][:, of.sets[0]].any())
    pictures = finish(run)
    assert torch.equal(canvas.outlook, canvas.codes()) and torch.equal(pictures, model().finish(canvas))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 2}, "num_steps is 2, but must be between 3 and 10000; the sampler 'sde' needs at least 3"),
        ({"num_steps": 0, "sampler": "euler"}, "num_steps is 0, but must be between 1"),
        ({"sampler": "heun"}, "sampler is 'heun', but must be 'sde' or 'euler'"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NextsetError, match=message) as error:
        model().job(IMAGES, **settings)
    assert "\n" not in str(error.value)


def test_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(NextsetError, match="class id is 6, but must be between 0 and 4"):
        model().job(torch.tensor([0, 6]))


# ---- given pictures


@pytest.mark.parametrize("kind", ["xar", "xar:scale", "xar:subsample"])
def test_the_first_entities_of_a_picture_are_kept_and_cost_no_forward(kind: str) -> None:
    m = model(kind)
    images, of = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1, m.config.entities
    kept = torch.cat(of.sets[:2])
    run = Run.of(m.resume(torch.tensor([1, 2]), images, 2, num_steps=3), Noise(0))
    finish(run)
    codes = m.encode(images)
    assert torch.equal(run.codes()[:, kept], codes[:, kept]) and run.forwards == (len(of) - 2) * 3
    rest = torch.cat(of.sets[2:])
    free = Run.of(m.job(torch.tensor([1, 2]), num_steps=3), Noise(0))
    finish(free)
    assert not torch.allclose(run.codes()[:, rest], free.codes()[:, rest]), "what is given is seen"
    for first in (0, len(of)):
        with pytest.raises(NextsetError, match=f"first is {first}, but must be between 1 and {len(of) - 1}"):
            m.resume(torch.tensor([1]), images, first)


@pytest.mark.parametrize("kind", ["xar", "xar:scale"])
def test_the_commands_on_given_pictures(kind: str) -> None:
    pipe = pretrained_pipe(kind)
    picture = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    out = pipe.inpaint(picture, box=(0.4, 0.4, 1, 1), classes=2, n=2, num_steps=3)
    kept = pipe.system.keep_mask(box_mask((0.4, 0.4, 1, 1), (4, 4), keep="outside"))
    codes = pipe.system.encode(picture)
    assert out.tensors.shape == (2, 3, 8, 8) and len(kept) == pipe.system.config.entities.positions
    torch.testing.assert_close(out.tokens[:, kept], codes[:, kept].expand(2, -1, -1))
    assert not torch.allclose(out.tokens[0, ~kept], codes[0, ~kept])
    for value, what in ((0.0, "everything"), (1.0, "nothing")):
        with pytest.raises(NextsetError, match=f"the mask hides {what} of 16 tokens"):
            pipe.system.keep_mask(torch.full((4, 4), value))


def test_coarse_tokens_stay_where_all_under_them_do() -> None:
    mask = torch.ones(4, 4)
    mask[3, 3] = 0
    kept = model("xar:scale").keep_mask(mask)
    assert kept.tolist() == [False, True, True, True, False, *[True] * 15, False]


def test_scales_are_means_of_the_latents() -> None:
    x = tokens(model("xar:scale"))
    torch.testing.assert_close(x[:, 0], x[:, 5:].mean(1))
    torch.testing.assert_close(x[:, 1], x[:, [5, 6, 9, 10]].mean(1))


def test_latents_of_another_size_are_refused() -> None:
    m = model()
    with pytest.raises(NextsetError, match=r"pinned latents have shape \(3, 9, 4\)"):
        m.job(IMAGES).canvas.pin(torch.zeros(3, 9, 4), torch.ones(9, dtype=torch.bool))
    with pytest.raises(NextsetError, match=r"trained on moments \(8, 4, 4\); use its tokenizer"):
        next(m.updates({"features": torch.zeros(2, 8, 3, 3), "labels": IMAGES[:2], "index": IMAGES[:2]}, 0, Noise(0)))
    with pytest.raises(NextsetError, match="the image is 9x8 pixels, but this model works at 8x8"):
        pretrained_pipe("xar").inpaint(torch.zeros(1, 3, 8, 9), box=(0, 0, 0.5, 1))
    other = KLAutoencoder(KLConfig(AutoencoderConfig(channels=8, multipliers=(1, 2), latent=4, groups=4), sides=(3,)))
    with pytest.raises(NextsetError, match=r"\(channels, patch, tokens\) \(4, 1, 9\), but the generator predicts"):
        m.attach(other)


# ---- training


@torch.no_grad()
@pytest.mark.parametrize("context", ["noisy", "clean"])
@pytest.mark.parametrize("kind", ["xar", "xar:scale"])
def test_an_entity_sees_earlier_ones_and_none_later(kind: str, context: str) -> None:
    m = copy.copy(model(kind))
    m.config = m.config.replace(context=context)
    of, x = m.config.entities, tokens(m)
    times = torch.rand(3, len(of), generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    base = velocities(m, x, times)
    for k in range(len(of)):
        other = x.clone()
        other[:, of.sets[k]] += 1
        moved = (velocities(m, other, times) - base).abs().amax((0, 2)) > 1e-6
        assert not moved[: of.starts[k]].any(), "an earlier entity saw a later one"
        assert moved[of.starts[k] :].all(), "every other depends on it"


@torch.no_grad()
def test_a_noisy_context_is_seen_at_its_own_time_and_a_clean_one_without() -> None:
    """The time of the first entity reaches the others on a noisy context, and none of them on a clean one."""
    m, times = copy.copy(model()), torch.full((3, 4), 0.5)
    later = times.clone()
    later[:, 0] = 0.9
    x = tokens(m)
    for context, reaches in (("noisy", True), ("clean", False)):
        m.config = m.config.replace(context=context)
        one, two = velocities(m, x, times), velocities(m, x, later)
        assert not torch.allclose(one[:, :4], two[:, :4])
        assert torch.equal(one[:, 4:], two[:, 4:]) != reaches


@torch.no_grad()
def test_clean_context_in_training_is_the_memory_of_sampling() -> None:
    """Velocities of entity k at time t: from a join in training, and from stored clean entities."""
    m = copy.copy(model())
    m.config = m.config.replace(context="clean")
    x, t = tokens(m), torch.full((3, 4), 1.0)
    packed = velocities(m, x, t)
    job = m.job(torch.zeros(3, dtype=torch.int64), guidance_scale=1.0, num_steps=1, sampler="euler")
    job.canvas.pin(x, torch.ones(16, dtype=torch.bool))
    run = Run.of(job, Noise(0), skip_pinned=False)
    found: list[Tensor] = []
    run.controllers = (*run.controllers, _Laws(found))
    finish(run)
    torch.testing.assert_close(torch.cat(found, 1), packed, atol=1e-5, rtol=1e-4)


class _Laws(Controller):
    def __init__(self, found: list[Tensor]) -> None:
        self.found = found

    def on_dist(self, run: Run, step: Any, dist: Any) -> Any:
        self.found.append(dist.velocity)
        return dist


def test_the_loss_is_the_mean_square_of_all_rows() -> None:
    m, x, times = model(), tokens(model()), torch.rand(3, 4)
    index = torch.tensor([4, 0, 7])
    with torch.no_grad():
        loss = m.loss(x, torch.zeros(3, dtype=torch.int64), times, Noise(0), index)
        noise = Noise(0).of("begin").normal(index, torch.arange(16), lanes=4)
        job = m.teacher_forced(x, torch.zeros(3, dtype=torch.int64), times)
        h = forward(Run.of(job, Noise(0), index, cache="none"), job.plan.all(), (0,))[0]
        by_slot = (noise - x)[:, m.config.entities.places]
        torch.testing.assert_close(loss, (m.velocity.output(h) - by_slot).square().mean())


def test_times_are_logistic_normal_and_independent_for_image_and_entity() -> None:
    seen: list[Tensor] = []
    m = copy.copy(model())
    m.loss = lambda tokens, labels, times, noise, index: seen.append(times) or times.mean()  # type: ignore[method-assign,func-returns-value]
    batch = {
        "features": torch.zeros(200, 8, 4, 4),
        "labels": torch.zeros(200, dtype=torch.int64),
        "index": torch.arange(200),
    }
    next(m.updates(batch, 0, Noise(0)))
    times = seen[0]
    assert times.shape == (200, 4) and bool(((times > 0) & (times < 1)).all())
    normal = times.logit()
    assert abs(float(normal.mean())) < 0.1 and abs(float(normal.std()) - 1) < 0.1
    assert float(torch.corrcoef(normal.T).triu(1).abs().max()) < 0.2


def test_recipes_train_a_model_that_loads_and_makes_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {"images": rng.integers(0, 255, (8, 32, 32, 3)).astype(np.uint8), "labels": np.arange(8) % 2}
    write_arrays(tmp_path / "data.npz", {**pictures, "classes": np.array(["dark", "light"])})
    small = ("batch=4", "steps=2", "warmup=0", "log_every=1", "sample_every=0", f"data.source={tmp_path / 'data.npz'}")
    sizes = ("model.autoencoder.channels=16", "model.objective.perceptual=0", "dtype=float32")
    _, tokenizer = train(load_recipe("mar-cifar10-tokenizer", [*small, *sizes]), tmp_path / "tokenizer")
    sizes = ("model.depth=1", "model.width=24", "model.heads=2", "sample.num_steps=3", f"data.tokenizer={tokenizer}")
    for entity, count in (("cell", 4), ("scale:1,4,8", 3)):
        changes = [*small, *sizes, f"model.entity={entity}"]
        _, folder = train(load_recipe("xar-cifar10", changes), tmp_path / entity.partition(":")[0])
        pipe: Any = nextset.load(folder)
        assert isinstance(pipe.system, Xar) and len(pipe.system.config.entities) == count
        assert pipe.defaults == {"guidance_scale": 2.0, "num_steps": 3} and pipe.class_names == ["dark", "light"]
        out = pipe("light", n=3)
        assert out.tensors.shape == (3, 3, 32, 32) and out.tokens.shape == (3, pipe.system.config.entities.positions, 8)
        again = pipe("light", indices=[2])
        torch.testing.assert_close(again.tensors[0], out.tensors[2], atol=1e-5, rtol=1e-5)
    with pytest.raises(NextsetError, match="use candidates=1"):
        pipe("light", candidates=2)


@pytest.mark.parametrize(
    "field",
    [{"heads": 5}, {"heads": 16}, {"decoder_heads": 3}, {"sides": (4, 8)}, {"entity": "cells"}, {"context": "dirty"},
     {"label_drop": 1.0}, {"depth": 0}, {"mlp_ratio": 0.0}],
)  # fmt: skip
def test_sizes_that_make_no_sense_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(NextsetError, match=next(iter(field))):
        XarConfig(**{"width": 32, "heads": 2, **field})


# ---- the authors' files


def authors(m: Xar, prefix: str = "") -> dict[str, Tensor]:
    """The weights of a model under the authors' names: their table, read backwards over the names of the sheet."""
    ends = ("attn.qkv", "attn.proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2", "ada_lin.1")
    blocks = [
        f"{stack}_blocks.{i}"
        for stack, d in zip(("encoder", "decoder"), m.config.depths, strict=True)
        for i in range(d)
    ]
    modules = [*(f"{b}.{end}" for b in blocks for end in ends), "time_embed.mlp.0", "time_embed.mlp.2", "z_proj", "decoder_embed", "pred"]  # fmt: skip
    names = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    names += ["class_emb.weight", *(f"{n}.weight" for n in ("z_proj_ln", "encoder_norm", "decoder_norm"))]
    names += [f"{stack}_pos_embed_learned" for stack in ("encoder", "decoder")]
    ours, state = GENERATOR.names(names), m.state_dict()
    assert ours.keys() == state.keys()
    return {prefix + theirs: state[n][None] if n.endswith("_position") else state[n] for n, theirs in ours.items()}


def derived(side: int, entity: str, head_width: int) -> dict[str, Tensor]:
    """Buffers that the authors' files hold beside the weights."""
    of = entities(entity, side)
    number = torch.arange(len(of)).repeat_interleave(torch.tensor([len(s) for s in of.sets]))
    mask = torch.zeros(side**2, side**2).masked_fill(number[:, None] < number, -math.inf)
    cos, sin = (t.repeat_interleave(2, -1) for t in map_turns(of.coordinates[of.places], head_width))
    rope = "encoder_blocks.0.attn.rope.freqs"
    return {"mask": mask[None, None], rope: torch.ones(head_width // 4), f"{rope}_cos": cos, f"{rope}_sin": sin}


def test_a_file_is_recognised_and_read_into_the_same_pictures(tmp_path: Path) -> None:
    m = model()
    torch.save(authors(m) | derived(4, "cell", 16), tmp_path / "xAR-T.pth")
    tokenizer = {n: t for n, t in m.tokenizer.state_dict().items() if n != "scale.value"}
    for name in [n for n in tokenizer if ".qkv." in n]:
        parts = zip("qkv", tokenizer.pop(name).chunk(3), strict=True)
        tokenizer |= {name.replace(".qkv.", f".{p}."): t for p, t in parts}
    torch.save({"model": tokenizer}, tmp_path / "kl16.ckpt")
    read: Any = convert([tmp_path / "xAR-T.pth", tmp_path / "kl16.ckpt"], heads=[2, 4], groups=4, scale=1.0)
    assert isinstance(read, Xar)
    kept = {name: getattr(m.config, name) for name in ("dropout", "label_drop")}
    assert read.config.replace(**kept) == m.config
    runs = [Run.of(each.job(IMAGES, num_steps=3), Noise(0)) for each in (m, read)]
    torch.testing.assert_close(finish(runs[1]), finish(runs[0]))


def test_of_a_training_checkpoint_the_running_mean_is_read() -> None:
    found = components(authors(model(), "model.") | {n: t + 1 for n, t in authors(model(), "model_ema.").items()})
    assert found.keys() == {"generator"}
    expected = authors(model())["pred.bias"] + 1
    assert torch.equal(found["generator"]["pred.bias"], expected)


def test_relatives_do_not_take_its_files_nor_it_theirs() -> None:
    assert not mar_components(authors(model())) and not flowar_components(authors(model()))
    timeless = {n: t for n, t in authors(model()).items() if not n.startswith(("time_embed", "pred"))}
    assert not components(timeless)


def test_what_does_not_fit_is_said() -> None:
    state = authors(model())

    def load(**options: Any) -> Xar:
        return load_generator(state | options.pop("more", {}), **{"channels": 4, "heads": (2, 4), **options})

    assert load().config.entity == "cell" and load(entity="subsample").config.entity == "subsample"
    with pytest.raises(NextsetError, match="32 wide, for which no number of heads is known; give heads="):
        load(heads=None)
    with pytest.raises(NextsetError, match="16 tokens of 4 numbers, which is no square grid of patches of 16 channels"):
        load(channels=16)
    with pytest.raises(NextsetError, match="mask is not that of the entities 'image'; give entity="):
        load(entity="image", more=derived(4, "cell", 16))
    with pytest.raises(NextsetError, match="rotary table of the encoder is not that of 4 heads"):
        load(heads=(4, 4), more=derived(4, "cell", 16))
    with pytest.raises(
        NextsetError, match="rotary table of the encoder is not that of 2 heads and entities 'subsample'"
    ):
        load(entity="subsample", more={n: t for n, t in derived(4, "cell", 16).items() if n != "mask"})
    del state["z_proj.weight"]
    with pytest.raises(NextsetError, match=r"lacks 'z_proj\.weight'; is it cut short"):
        load()
