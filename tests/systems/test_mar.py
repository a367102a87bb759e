"""What is MAR's own: orders of images, what is known and what is hidden, guidance, given tokens, training, its files."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nextset
from nextset.core.errors import NextsetError
from nextset.core.masks import box_mask
from nextset.core.noise import Noise
from nextset.data.arrays import write_arrays
from nextset.engine.run import Run, finish, forward, look
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.hub.workshop import train
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.nn.precision import cast
from nextset.systems.mar import Mar, MarConfig
from nextset.systems.mar.convert import GENERATOR, components, load_generator
from nextset.tokenizers.kl import KLAutoencoder, KLConfig
from nextset.training.recipes import load_recipe
from tests.battery.common import Tap, same
from tests.battery.instances import instance, randomise

IMAGES = torch.arange(3)


def model() -> Mar:
    return instance("mar").model  # type: ignore[return-value]


def made(images: Tensor = IMAGES, keep: Tensor | None = None, given: Tensor | None = None, **settings: Any) -> Run:
    """A finished run over the instance; keep (L,) or (N, L) bool: which of `given` (N, L, C) stay."""
    m = model()
    job = m.job(images % 5, **{"steps": 4, "inner_steps": "3", **settings})
    if keep is not None and given is not None:
        job.canvas.pin(given, keep)
    run = Run.of(job, Noise(0), images)
    finish(run)
    return run


def tokens(n: int = 3) -> Tensor:
    return torch.randn(n, 9, 4, generator=torch.Generator().manual_seed(0))


def moments(n: int = 4) -> dict[str, Tensor]:
    maps = torch.randn(n, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    return {"features": maps, "labels": torch.arange(n) % 5, "index": torch.arange(n)}


# ---- generation


@pytest.mark.parametrize("head_batch", [1, 7, 1000])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_image_is_the_same_at_any_batch_and_head_batch(batch: int, head_batch: int) -> None:
    images = torch.arange(4)
    whole = made(images).codes()
    for rows in images.split(batch):
        part = made(rows, head_batch=head_batch).codes()
        assert same(part, whole[rows])


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_each_image_has_an_order_and_every_position_is_drawn_once(steps: int) -> None:
    run = made(steps=steps)
    plan = run.job.plan
    drawn = torch.cat([step.draw for step in plan.steps], 1)
    assert run.forwards == len(plan) == steps and drawn.shape == (3, 9)
    assert torch.equal(drawn.sort(1).values, torch.arange(9).expand(3, -1))
    assert steps != 9 or len(drawn.unique(dim=0)) == 3
    assert run.policy.bytes() == 0, "nothing is remembered"
    assert bool((run.codes() != 0).all())


def test_the_head_is_called_once_an_inner_step_for_both_branches() -> None:
    m, calls = model(), []
    hook = m.diffusion.net.register_forward_hook(lambda net, given, out: calls.append(len(given[0])))
    try:
        for scale, branches in ((2.0, 2), (1.0, 1)):  # of 16 images: a call is never made of fewer rows
            calls.clear()
            made(torch.arange(16), guidance_scale=scale)
            assert len(calls) == 4 * 3 and sum(calls) == 16 * 9 * 3 * branches
    finally:
        hook.remove()


def test_hidden_tokens_are_not_seen_and_known_ones_are() -> None:
    m, orders = model(), torch.arange(9).expand(2, -1)

    def hidden_states(values: Tensor) -> Tensor:
        job = m.teacher_forced(values, torch.zeros(2, dtype=torch.int64), orders[:, :5])
        return forward(Run.of(job, Noise(0)), job.plan.all(), (0,))[0]

    with torch.no_grad():
        x = tokens(2)
        base = hidden_states(x)
        hidden, known = x.clone(), x.clone()
        hidden[:, :5] += 1
        known[:, 8] += 1
        assert torch.equal(hidden_states(hidden), base)
        changed = hidden_states(known)
    assert bool((changed - base).abs().amax(-1).gt(1e-6).all()), "every row, the buffer too, sees what is known"


def test_guidance_grows_with_what_is_known_or_is_constant() -> None:
    for guidance, expected in (("linear", [1 / 9, 3 / 9, 6 / 9, 8 / 9]), ("constant", [1.0] * 4)):
        run = made(guidance_scale=3.0, guidance=guidance)
        scales = [run.job.weights(step) for step in run.job.plan.steps]
        assert [w[0] for w in scales] == pytest.approx([1 + 2 * share for share in expected])
        assert all(sum(w) == pytest.approx(1) for w in scales)
    assert len(model().job(IMAGES, guidance_scale=1.0).branches) == 1


def test_without_weight_on_the_class_its_variance_is_still_read() -> None:
    tap = Tap(model())
    job = dataclasses.replace(model().job(IMAGES, guidance_scale=0.0, guidance="constant", steps=2), network=tap)
    finish(Run.of(job, Noise(0)))
    assert set(tap.active) == {(0, 1)}


def test_no_class_is_one_more_row_and_not_a_class() -> None:
    m = model()
    assert torch.equal(m.prepare([torch.tensor([5])]), m.no_class)
    free, classed = made(torch.tensor([0]), guidance_scale=1.0), made(torch.tensor([0]), guidance_scale=4.0)
    assert not torch.equal(free.codes(), classed.codes())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance": "cosine"}, "guidance is 'cosine', but must be 'linear' or 'constant'"),
        ({"inner_steps": "fast"}, r"inner steps are 'fast', but must be a number \('100'\)"),
        ({"steps": 10}, "steps is 10, but must be between 1 and 9"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1.0"),
        ({"temperature": -0.5}, "temperature is -0.5"),
        ({"head_batch": 0}, "head_batch is 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NextsetError, match=message) as error:
        model().job(IMAGES, **settings)
    assert "\n" not in str(error.value)


def test_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(NextsetError, match="class id is 6, but must be between 0 and 4"):
        model().job(torch.tensor([0, 6]))


def test_cast_weights_give_nearly_the_same_law_and_exact_tokens() -> None:
    m, low = model(), cast(copy.deepcopy(model()), torch.bfloat16)
    low.attach(cast(copy.deepcopy(m.tokenizer), torch.bfloat16))
    assert {p.dtype for p in low.diffusion.parameters()} == {torch.float32}
    with torch.no_grad():
        laws = []
        for each in (m, low):
            job = each.teacher_forced(tokens(), torch.zeros(3, dtype=torch.int64), torch.arange(6).expand(3, -1))
            laws.append(look(Run.of(job, Noise(0)), job.plan.all()).hidden)  # type: ignore[attr-defined]
    assert laws[1].dtype == torch.float32 and (laws[1] - laws[0]).std() < 0.03 * laws[0].std()
    job = low.repaint(IMAGES[:1], torch.zeros(1, 3, 6, 6), torch.eye(3), steps=2, inner_steps="2")
    assert finish(Run.of(job, Noise(0))).dtype == job.canvas.codes().dtype == torch.float32


def test_a_model_may_guess_its_tokens_instead() -> None:
    m = randomise(Mar(model().config.replace(head="regression"), model().tokenizer), 0.1)
    assert sum(p.numel() for p in m.parameters()) == sum(p.numel() for p in model().parameters())
    made = [Run.of(m.job(IMAGES, steps=2), Noise(seed)) for seed in (0, 0)]  # type: ignore[operator]
    pictures = [finish(run) for run in made]
    assert torch.equal(*pictures) and bool((made[0].codes() != 0).all())
    update = next(m.updates(moments(), 0, Noise(0)))  # type: ignore[operator]
    assert torch.equal(update.loss, update.parts["mse"]) and not update.parts["bound"]
    with pytest.raises(NextsetError, match="has no inner steps; leave head_steps out"):
        finish(Run.of(m.job(IMAGES, steps=2, head_steps="5-2"), Noise(0)))  # type: ignore[operator]


# ---- given tokens


def test_all_positions_known_give_the_input_back_without_a_forward() -> None:
    run = made(keep=torch.ones(9, dtype=torch.bool), given=tokens())
    assert torch.equal(run.codes(), tokens()) and run.forwards == 0 and len(run.job.plan) == 0


def test_given_tokens_stay_and_the_steps_are_over_the_rest() -> None:
    keep = torch.zeros(9, dtype=torch.bool)
    keep[[0, 4, 5, 8]] = True
    run = made(keep=keep, given=tokens(), steps=9)
    assert torch.equal(run.codes()[:, keep], tokens()[:, keep]) and run.forwards == 5
    assert not torch.equal(run.codes()[:, ~keep], made(steps=9).codes()[:, ~keep]), "what is given is seen"
    alone = made(IMAGES[1:2], keep=keep, given=tokens()[1:2], steps=9)
    torch.testing.assert_close(alone.codes(), run.codes()[1:2], atol=1e-5, rtol=1e-5)


def test_each_image_may_have_a_mask_of_its_own_of_the_same_size() -> None:
    keep = torch.stack([torch.arange(9) < 3, torch.arange(9) > 5, torch.arange(9) % 3 == 0])
    run = made(keep=keep, given=tokens())
    assert torch.equal(run.codes()[keep], tokens()[keep]) and bool((run.codes() != 0).all())
    keep[0] = False
    with pytest.raises(NextsetError, match="hide 6 to 9 positions, but must hide equally many"):
        made(keep=keep, given=tokens())


def test_a_picture_is_repainted_where_the_mask_hides_it() -> None:
    m = model()
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(6, 6)
    keep[1, 1], keep[4:, 4:] = 0, 0  # one pixel hides its token
    job = m.repaint(torch.tensor([1, 2]), images, keep, steps=2, inner_steps="2")
    run = Run.of(job, Noise(0))
    pictures = finish(run)
    given = m.tokenizer.encode(images)
    same = (run.codes() == given).all(-1)
    assert (~same).nonzero().tolist() == [[0, 0], [0, 8], [1, 0], [1, 8]]
    assert pictures.shape == images.shape and run.forwards == 2


@pytest.mark.parametrize(("value", "what"), [(0.0, "everything"), (1.0, "nothing")])
def test_a_mask_must_hide_a_part(value: float, what: str) -> None:
    with pytest.raises(NextsetError, match=f"the mask hides {what} of 9 tokens, but must hide a part"):
        model().repaint(torch.tensor([1]), torch.zeros(1, 3, 6, 6), torch.full((6, 6), value))


def test_latents_of_another_size_are_refused() -> None:
    with pytest.raises(NextsetError, match=r"pinned latents have shape \(3, 9, 5\)"):
        made(keep=torch.ones(9, dtype=torch.bool), given=torch.zeros(3, 9, 5))
    for shape in ((8, 3, 4), (6, 3, 3)):
        batch = {**moments(), "features": torch.zeros(4, *shape)}
        with pytest.raises(NextsetError, match=r"trained on moments \(8, 3, 3\); use its tokenizer"):
            next(model().updates(batch, 0, Noise(0)))
    other = KLAutoencoder(KLConfig(AutoencoderConfig(channels=8, multipliers=(1, 2), latent=4, groups=4), sides=(4,)))
    with pytest.raises(NextsetError, match=r"\(channels, patch, tokens\) \(4, 1, 16\), but the generator predicts"):
        model().attach(other)


# ---- training


def test_the_share_that_is_hidden_follows_its_law() -> None:
    m = model()
    shares = torch.tensor([m.hidden_share(step, Noise(0)) for step in range(300)])
    assert bool(((shares >= 0.7) & (shares <= 1)).all())
    spread = 0.25  # a half normal law below 1, cut at 1.2 spreads: its mean in closed form
    mean = 1 - spread * (1 - math.exp(-0.72)) / (math.sqrt(math.pi / 2) * math.erf(1.2 / math.sqrt(2)))
    assert abs(float(shares.mean()) - mean) < 0.015
    parts = next(m.updates(moments(), 0, Noise(0))).parts
    assert float(parts["hidden"]) * 9 == pytest.approx(math.ceil(9 * float(shares[0])))


def test_visible_rows_never_reach_the_head_and_the_loss_is_that_of_all_rows_weighed() -> None:
    """The mean over hidden rows is the weighed mean over all rows, whose visible ones weigh nothing."""
    m, labels, index = model(), torch.arange(3), torch.arange(3)
    orders, seen = torch.stack([torch.randperm(9) for _ in range(3)])[:, :7], []
    hook = m.diffusion.net.register_forward_hook(lambda net, given, out: seen.append(len(given[0])))
    with torch.no_grad():
        mse, bound = m.loss(tokens(), labels, orders, Noise(0), index)
        hook.remove()
        assert seen == [3 * 7] * m.config.repeats
        each = [
            m.loss(tokens()[i : i + 1], labels[i : i + 1], orders[i : i + 1], Noise(0), index[i : i + 1])
            for i in range(3)
        ]
    torch.testing.assert_close(mse, torch.stack([a for a, _ in each]).mean())
    torch.testing.assert_close(bound, torch.stack([b for _, b in each]).mean())


def test_latents_are_sampled_anew_for_each_sample() -> None:
    m = model()
    one = [next(m.updates({**moments(1), "index": torch.tensor([i])}, 0, Noise(0))).loss for i in (0, 0, 1)]
    assert torch.equal(one[0], one[1]) and not torch.equal(one[0], one[2])


def test_recipes_train_a_model_that_loads_and_makes_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {"images": rng.integers(0, 255, (8, 32, 32, 3)).astype(np.uint8), "labels": np.arange(8) % 2}
    write_arrays(tmp_path / "data.npz", {**pictures, "classes": np.array(["dark", "light"])})
    small = ("batch=4", "steps=2", "warmup=0", "log_every=1", "sample_every=0", f"data.source={tmp_path / 'data.npz'}")
    sizes = ("model.autoencoder.channels=16", "model.objective.perceptual=0", "dtype=float32")
    _, tokenizer = train(load_recipe("mar-cifar10-tokenizer", [*small, *sizes]), tmp_path / "tokenizer")
    sizes = (
        "model.depth=1",
        "model.width=24",
        "model.head_width=16",
        "sample.steps=2",
        "sample.inner_steps=2",
        f"data.tokenizer={tokenizer}",
    )
    _, folder = train(load_recipe("mar-cifar10", [*small, *sizes]), tmp_path / "generator")
    pipe: Any = nextset.load(folder)
    assert isinstance(pipe.system, Mar) and pipe.class_names == ["dark", "light"]
    assert pipe.defaults == {"guidance_scale": 2.0, "steps": 2, "inner_steps": 2}
    out = pipe("light", n=3)
    assert out.tensors.shape == (3, 3, 32, 32) and out.tokens.shape == (3, 64, 8)
    again = pipe("light", indices=[2], head_batch=5)
    torch.testing.assert_close(again.tensors[0], out.tensors[2], atol=1e-5, rtol=1e-5)
    with pytest.raises(NextsetError, match="use candidates=1"):
        pipe("light", candidates=2)


@pytest.mark.parametrize(
    "field",
    [{"heads": 5}, {"decoder_heads": 7}, {"sides": (4, 8)}, {"mask": (1.5, 1.0, 0.2)}, {"label_drop": 1.0}, {"buffer": 0}],
)  # fmt: skip
def test_sizes_that_make_no_sense_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(NextsetError, match=next(iter(field))):
        MarConfig(**{"width": 32, "heads": 2, **field})


# ---- the authors' files


def authors(m: Mar, prefix: str) -> dict[str, Tensor]:
    """The weights of a model under the authors' names: their table, read backwards over the names of the sheet."""
    blocks = [f"{stack}_blocks.0" for stack in ("encoder", "decoder")]
    ends = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    modules = [*(f"{b}.{end}" for b in blocks for end in ends), "z_proj", "z_proj_ln", "encoder_norm", "decoder_embed", "decoder_norm"]  # fmt: skip
    net = ("time_embed.mlp.0", "time_embed.mlp.2", "cond_embed", "input_proj", "res_blocks.0.in_ln", "res_blocks.0.mlp.0",
           "res_blocks.0.mlp.2", "res_blocks.0.adaLN_modulation.1", "final_layer.adaLN_modulation.1", "final_layer.linear")  # fmt: skip
    modules += [f"diffloss.net.{name}" for name in net]
    names = [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    names += ["class_emb.weight", "fake_latent", "mask_token", *(f"{n}_pos_embed_learned" for n in ("encoder", "decoder", "diffusion"))]  # fmt: skip
    ours = GENERATOR.names(names)
    state = m.state_dict()
    assert ours.keys() == state.keys()
    tables = ("encoder_position", "decoder_position", "head_position")
    return {prefix + theirs: state[name][None] if name in tables else state[name] for name, theirs in ours.items()}


def autoencoder_of_the_authors(tokenizer: KLAutoencoder) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tokenizer.state_dict().items():
        if ".qkv." in name:
            found |= {name.replace(".qkv.", f".{p}."): t for p, t in zip("qkv", tensor.chunk(3), strict=True)}
        elif name != "scale.value":
            found[name] = tensor
    return found


def test_files_are_recognised_and_read_into_the_same_pictures(tmp_path: Path) -> None:
    m, other = model(), randomise(Mar(model().config))
    m.tokenizer.scale.value.fill_(0.2325)
    state = {"model": authors(other, ""), "model_ema": authors(m, ""), "epoch": 3}  # type: ignore[arg-type]
    torch.save(state, tmp_path / "checkpoint-last.pth")
    torch.save({"model": autoencoder_of_the_authors(m.tokenizer)}, tmp_path / "kl16.ckpt")
    files = [tmp_path / "checkpoint-last.pth", tmp_path / "kl16.ckpt"]
    try:
        read: Any = convert(files, system="mar", heads=2, groups=4)
        assert isinstance(read, Mar) and read.tokenizer.config.sides == (3,)
        kept = ("dropout", "label_drop", "repeats", "mask")
        assert read.config.replace(**{name: getattr(m.config, name) for name in kept}) == m.config.replace(
            decoder_width=16, decoder_depth=1, decoder_heads=2
        )
        runs = [Run.of(each.job(IMAGES, steps=3, inner_steps="2"), Noise(0)) for each in (m, read)]
        torch.testing.assert_close(finish(runs[1]), finish(runs[0]))
    finally:
        m.tokenizer.scale.value.fill_(1.0)


def test_what_no_tensor_tells_is_asked_for() -> None:
    state = authors(model(), "")
    assert components(state).keys() == {"generator"} and not components({"class_emb.weight": torch.zeros(2, 2)})
    with pytest.raises(NextsetError, match="32 and 16 wide, for which no number of heads is known; give heads="):
        load_generator(state, channels=4)
    with pytest.raises(NextsetError, match="9 tokens of 4 numbers, which is no square grid of patches of 16 channels"):
        load_generator(state, heads=2)
    cut = {name: t for name, t in state.items() if name != "diffloss.net.input_proj.weight"}
    with pytest.raises(NextsetError, match=r"lacks 'diffloss\.net\.input_proj\.weight'; is it cut short"):
        load_generator(cut, channels=4, heads=2)


def test_the_commands_on_given_pictures_take_continuous_tokens(tmp_path: Path) -> None:
    pipe = nextset.load(pretrained.save(tmp_path / "model", model(), class_names=[f"c{i}" for i in range(5)]))
    picture = torch.rand(1, 3, 6, 6) * 2 - 1
    out = pipe.inpaint(picture, box=(0.4, 0.4, 1, 1), classes="c2", n=2, steps=4, inner_steps="3")
    kept = pipe.system.keep_mask(box_mask((0.4, 0.4, 1, 1), (3, 3), keep="outside"))
    codes = pipe.tokenizer.encode(picture)
    assert out.tensors.shape == (2, 3, 6, 6)
    torch.testing.assert_close(out.tokens[:, kept], codes[:, kept].expand(2, -1, -1))
    assert not torch.allclose(out.tokens[0, ~kept], codes[0, ~kept])
