"""What is FlowAR's own: times, guidance that grows, scales that are given, calls, training, its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nextset
from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.data.arrays import write_arrays
from nextset.engine.run import Run, finish, proceed
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.hub.workshop import train
from nextset.systems.flowar import FlowAr, FlowArConfig
from nextset.systems.flowar.convert import GENERATOR, components, load_generator
from nextset.systems.flowar.times import times
from nextset.training.recipes import load_recipe
from tests.battery.common import Tap, same
from tests.battery.instances import instance, randomise
from tests.cli.running import refuse, run

IMAGES = torch.arange(3)
ALL = torch.ones(21, dtype=torch.bool)
VARIANTS = ("flowar", "flowar:cross")


def model(name: str = "flowar") -> FlowAr:
    return instance(name).model  # type: ignore[return-value]


def made(images: Tensor = IMAGES, name: str = "flowar", **settings: Any) -> Run:
    """A finished run over an instance."""
    job = model(name).job(images % 5, **{"inner_steps": 3, "guidance_scale": 2.0, **settings})
    run = Run.of(job, Noise(0), images)
    finish(run)
    return run


def pictures(n: int = 2) -> Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def moments(n: int = 4) -> dict[str, Tensor]:
    maps = torch.randn(n, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    return {"features": maps, "labels": torch.arange(n) % 5, "index": torch.arange(n)}


# ---- times


def test_the_published_times() -> None:
    assert len(times(50)) == 50 and times(50).times[15] == pytest.approx(0.7)
    assert [len(times(n)) for n in (2, 3, 6, 24, 25)] == [2, 2, 6, 24, 24]
    assert times(6).times == pytest.approx((1, 0.65, 0.3, 0.25, 0.5 / 3, 0.25 / 3, 0))
    for n in (1, 1001):
        with pytest.raises(NextsetError, match=f"inner_steps is {n}, but must be between 2 and 1000"):
            times(n)


# ---- generation


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("head_batch", [1, 40, 10000])
def test_an_image_is_the_same_at_any_batch_and_head_batch(name: str, head_batch: int) -> None:
    images = torch.arange(4)
    whole = made(images, name).codes()
    for batch in (1, 3):
        for rows in images.split(batch):
            assert same(made(rows, name, head_batch=head_batch).codes(), whole[rows])


def test_one_forward_a_scale_and_one_call_of_the_flow_a_step() -> None:
    m, calls = model(), list[tuple[int, ...]]()
    hook = m.flow.net.register_forward_hook(lambda net, given, out: calls.append(tuple(given[0].shape[:2])))
    try:
        run = made(inner_steps=5, guidance_interval=0.5)
    finally:
        hook.remove()
    assert run.forwards == 3 and len(calls) == 3 * len(times(5))
    one, two = (3, 6)  # rows of one branch and of two
    assert calls[:4] == [(one, 1)] * 4, "the first scale is not guided"
    assert calls[4:8] == [(one, 4), (two, 4), (two, 4), (two, 4)], "the first time is above the interval"
    assert calls[8:] == [(one, 16), (two, 16), (two, 16), (two, 16)]


def test_guidance_grows_from_nothing_at_the_first_scale() -> None:
    run = made(guidance_scale=3.0)
    assert [run.job.weights(step) for step in run.job.plan.steps] == [(1, 0), (2, -1), (3, -2)]
    assert len(made(guidance_scale=1.0).job.branches) == 1
    one = FlowAr(FlowArConfig(**{**model().config.to_dict(), "scales": (4,)}))
    assert one.job(IMAGES, guidance_scale=3.0).weights(one.plan.steps[0]) == (3, -2)


def test_what_is_kept_is_the_input_of_each_scale_for_both_branches() -> None:
    assert made().policy.bytes() == 2 * (2 * 3 * 21 * 32) * 2 * 4  # sites, (branches, images, slots, width), k and v


@pytest.mark.parametrize("name", VARIANTS)
def test_coarse_rows_do_not_see_finer_scales(name: str) -> None:
    m, hidden = model(name), []
    with torch.no_grad():
        for change in (0.0, 1.0):
            codes = torch.randn(2, m.plan.positions, 4, generator=torch.Generator().manual_seed(0))
            codes[:, 1:] += change  # all scales but the first
            hidden.append(m.teacher_forced(codes, torch.zeros(2, dtype=torch.int64)).hidden[0])
    second = m.config.scales[1] ** 2
    assert torch.equal(hidden[0][:, : 1 + second], hidden[1][:, : 1 + second])
    assert bool((hidden[0] - hidden[1])[:, 1 + second :].abs().amax(-1).gt(1e-6).all())


def test_inner_steps_may_grow_fewer() -> None:
    m, calls = model(), list[int]()
    hook = m.flow.net.register_forward_hook(lambda net, given, out: calls.append(given[0].shape[1]))
    try:
        made(head_steps="6-2", guidance_scale=1.0)
    finally:
        hook.remove()
    assert calls == [1] * 6 + [4] * 4 + [16] * 2


def test_each_scale_is_shown_when_it_is_done() -> None:
    run = Run.of(model().job(IMAGES, inner_steps=2), Noise(0), IMAGES)
    with torch.no_grad():
        shown = [e.images for e in proceed(run, previews=True) if hasattr(e, "images")]
    assert len(shown) == 3 and all(x.shape == (3, 3, 8, 8) and x.abs().max() <= 1 for x in shown)
    assert torch.equal(shown[-1], model().paint(run.codes()[:, -16:])) and not torch.equal(shown[0], shown[-1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5, but must be between 1 and 1000; 1 switches guidance off"),
        ({"guidance_interval": 1.2}, "guidance_interval is 1.2"),
        ({"inner_steps": 1}, "inner_steps is 1, but must be between 2 and 1000"),
        ({"head_steps": "50-1"}, "head_steps is 1, but must be between 2 and 1000"),
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


# ---- given scales


def test_all_scales_given_are_the_picture_without_a_forward() -> None:
    m, x = model(), pictures()
    job = m.job(torch.tensor([0, 1]))
    job.canvas.pin(m.encode(x), ALL)
    run = Run.of(job, Noise(0))
    found = finish(run)
    latents = m.tokenizer.encode(x)
    assert run.forwards == 0 and torch.equal(run.codes()[:, -16:], latents)
    torch.testing.assert_close(found, m.tokenizer.decode(latents))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_picture_is_drawn_on_from_its_first_scales(name: str) -> None:
    m, x, calls = model(name), pictures(1), list[int]()
    job = m.resume(torch.tensor([1, 2]), x, 2, inner_steps=2, guidance_scale=1.0)
    hook = m.flow.net.register_forward_hook(lambda net, given, out: calls.append(given[0].shape[1]))
    try:
        run = Run.of(job, Noise(0))
        finish(run)
    finally:
        hook.remove()
    kept = 1 + m.config.scales[1] ** 2
    given = m.encode(x).expand(2, -1, -1)
    assert torch.equal(run.codes()[:, :kept], given[:, :kept]) and not torch.equal(run.codes()[0], run.codes()[1])
    assert run.forwards == 1 and calls == [16, 16], "given scales cost neither a forward of their own nor a flow"
    for scales in (0, 3):
        with pytest.raises(NextsetError, match=f"scales is {scales}, but must be between 1 and 2"):
            m.resume(torch.tensor([1]), x, scales)


def test_a_coarse_token_stays_where_all_cells_under_it_do() -> None:
    keep = torch.ones(4, 4)
    keep[0, 0] = 0
    found = model().keep_mask(keep)
    assert (~found).nonzero()[:, 0].tolist() == [0, 1, 5]


def test_the_commands_on_given_pictures_take_scales_of_latents(tmp_path: Path) -> None:
    pipe: Any = nextset.load(pretrained.save(tmp_path / "model", model(), class_names=[f"c{i}" for i in range(5)]))
    x = pictures(1)
    out = pipe.inpaint(x, box=(0.5, 0.5, 1, 1), classes="c2", n=2, inner_steps=2)
    keep = torch.ones(4, 4)
    keep[2:, 2:] = 0
    kept, codes = pipe.system.keep_mask(keep), pipe.system.encode(x)
    assert out.tensors.shape == (2, 3, 8, 8) and int(kept.sum()) == 3 + 12
    torch.testing.assert_close(out.tokens[:, kept], codes[:, kept].expand(2, -1, -1))
    assert not torch.allclose(out.tokens[0, ~kept], codes[0, ~kept])
    command = ("generate", "-m", tmp_path / "model", "-c", "c1", "-n", 2, "-o", tmp_path / "out.png")
    run(*command, "--set", "inner_steps=2", "--set", "head_steps=3-2", "--set", "guidance_interval=0.5")
    assert (tmp_path / "out.png").is_file()
    for setting, message in (
        ("inner_steps=fast", "inner_steps is 'fast', but must be a whole number"),
        ("inner_steps=2.5", "inner_steps is 2.5, but must be a whole number"),
        ("guidance_interval=high", "guidance_interval is 'high', but must be a number"),
        ("guidance_intervall=1", "has no setting 'guidance_intervall': did you mean 'guidance_interval'"),
        ("inner_steps", "--set has 'inner_steps', but must be name=value, such as head_steps=50-5"),
    ):
        assert message in refuse(*command, "--set", setting)


def test_latents_of_another_size_are_refused() -> None:
    for shape in ((8, 3, 4), (6, 4, 4)):
        batch = {**moments(), "features": torch.zeros(4, *shape)}
        with pytest.raises(NextsetError, match=r"trained on moments \(8, 4, 4\); use its tokenizer"):
            next(model().updates(batch, 0, Noise(0)))


# ---- training


def test_a_scale_weighs_as_many_times_as_it_has_tokens() -> None:
    m = model()
    update = next(m.updates(moments(), 0, Noise(0)))
    each = [float(update.parts[f"loss_{k}"]) for k in range(3)]
    assert float(update.loss.detach()) == pytest.approx((each[0] + 4 * each[1] + 16 * each[2]) / 16, rel=1e-5)
    assert float(update.parts["loss_last"]) == each[2] and len(set(each)) == 3


def test_the_mean_loss_of_a_batch_is_that_of_its_samples() -> None:
    m, tokens = model(), torch.randn(3, 21, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = m.loss(tokens, IMAGES, Noise(0), IMAGES)
        each = [m.loss(tokens[i : i + 1], IMAGES[i : i + 1], Noise(0), IMAGES[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole, torch.stack(each).mean(0))


def test_the_null_branch_reads_its_own_memory_of_the_same_values() -> None:
    tap = Tap(model())
    job = model().job(IMAGES, guidance_scale=2.0, inner_steps=2)
    job.network = tap
    finish(Run.of(job, Noise(0), IMAGES))
    assert tap.active == [(0, 1)] * 3, "at the first scale too, where it has no weight: later scales read it"


@pytest.mark.parametrize(
    "field",
    [{"heads": 5}, {"decoder_heads": 7}, {"head_heads": 3}, {"sides": (4, 8)}, {"scales": (1, 2)}, {"scales": (2, 1, 4)},
     {"scales": ()}, {"label_drop": 1.0}, {"depth": 0}, {"head_depth": 0}],
)  # fmt: skip
def test_sizes_that_make_no_sense_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(NextsetError, match=next(iter(field))):
        FlowArConfig(**{"width": 32, "heads": 2, "head_width": 16, "sides": (4,), "scales": (1, 2, 4), **field})
    with pytest.raises(NextsetError, match="mix"):
        FlowArConfig(mix="mlp")  # type: ignore[arg-type]


def test_the_recipe_trains_a_model_that_loads_and_makes_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images: dict[str, np.ndarray] = {
        "images": rng.integers(0, 255, (8, 32, 32, 3)).astype(np.uint8),
        "labels": np.arange(8) % 2,
    }
    write_arrays(tmp_path / "data.npz", {**images, "classes": np.array(["dark", "light"])})
    small = ("batch=4", "steps=3", "warmup=0", "log_every=1", "sample_every=0", f"data.source={tmp_path / 'data.npz'}")
    sizes = ("model.autoencoder.channels=16", "model.objective.perceptual=0", "dtype=float32")
    _, tokenizer = train(load_recipe("mar-cifar10-tokenizer", [*small, *sizes]), tmp_path / "tokenizer")
    own = ("model.depth=1", "model.width=24", "model.head_width=16", "sample.inner_steps=2")
    recipe = load_recipe("flowar-cifar10", [*small, *own, f"data.tokenizer={tokenizer}"])
    _, folder = train(recipe, tmp_path / "generator")
    pipe: Any = nextset.load(folder)
    assert isinstance(pipe.system, FlowAr) and pipe.class_names == ["dark", "light"]
    assert pipe.system.config.scales == (1, 2, 4, 8) and pipe.forwards() == 4
    out = pipe("light", n=3)
    assert out.tensors.shape == (3, 3, 32, 32) and out.tokens.shape == (3, 85, 8)
    again = pipe("light", indices=[2], head_batch=5)
    torch.testing.assert_close(again.tensors[0], out.tensors[2], atol=1e-5, rtol=1e-5)
    with pytest.raises(NextsetError, match="use candidates=1"):
        pipe("light", candidates=2)


# ---- the authors' files


def authors(m: FlowAr) -> dict[str, Tensor]:
    """The weights of a model under the authors' names: their table, read backwards over the names of the sheet."""
    c = m.config
    linear = ["z_proj", "decoder_embed"]
    for stack, depth in zip(("encoder", "decoder"), c.depths, strict=True):
        ends = ("attn.qkv", "attn.proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2", "ada_lin.1")
        linear += [f"{stack}_blocks.{i}.{end}" for i in range(depth) for end in ends]
    net = ["time_embed.mlp.0", "time_embed.mlp.2", "cond_embed", "input_proj", "final_layer.linear", "final_layer.adaLN_modulation.1"]  # fmt: skip
    net += [f"res_blocks.0.{end}" for end in ("attn.proj", "mlp.fc1_g", "mlp.fc1_x", "mlp.fc2")]
    alone = ["z_proj_ln", "encoder_norm", "decoder_norm", "class_emb", "flownet.res_blocks.0.attn.qkv"]
    if c.mix == "cross":
        net += [f"res_blocks.0.{end}" for end in ("crossattn.proj", "ada_lin_attn", "ada_lin_mlp")]
        alone += [f"flownet.res_blocks.0.{end}" for end in ("crossattn.q", "crossattn.kv", "norm2_1", "norm2_2")]
    else:
        net.append("res_blocks.0.ada_lin")
    linear += [f"flownet.{name}" for name in net]
    names = [f"{name}.{kind}" for name in linear for kind in ("weight", "bias")] + [f"{name}.weight" for name in alone]
    names += [f"{name}_pos_embed_learned" for name in ("encoder", "decoder", "diffusion")]
    ours, state = GENERATOR.names(names), m.state_dict()
    assert ours.keys() == state.keys()
    return {theirs: state[name][None] if "pos_embed" in theirs else state[name] for name, theirs in ours.items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_files_are_recognised_and_read_into_the_same_pictures(name: str, tmp_path: Path) -> None:
    m = model(name)
    state = {**authors(m), "mask": torch.zeros(1, 1, 2, 2), "encoder_blocks.0.attn.rope.freqs": torch.zeros(4)}
    torch.save(state, tmp_path / "FlowAR.pth")
    options = {"heads": (m.config.head_counts), "head_heads": 2, "scales": m.config.scales, "channels": 4}
    read: Any = convert([tmp_path / "FlowAR.pth"], **options)
    assert isinstance(read, FlowAr)
    assert (
        read.config.replace(dropout=0.0, label_drop=0.3).to_dict()
        == m.config.replace(decoder_depth=m.config.depths[1], decoder_heads=m.config.head_counts[1]).to_dict()
    )
    read.attach(m.tokenizer)
    runs = [Run.of(each.job(IMAGES, inner_steps=2), Noise(0)) for each in (m, read)]
    torch.testing.assert_close(finish(runs[1]), finish(runs[0]))
    training = {"model": authors(randomise(FlowAr(m.config))), "model_ema": state, "epoch": 3}  # type: ignore[arg-type]
    torch.save(training, tmp_path / "checkpoint.pth")
    again: Any = convert([tmp_path / "checkpoint.pth"], **options)
    assert torch.equal(again.token_in.weight, m.token_in.weight), "the running mean is read"


def test_what_no_tensor_tells_is_asked_for() -> None:
    state = authors(model())
    assert components(state).keys() == {"generator"} and not components({"z_proj.weight": torch.zeros(2, 2)})
    known: dict[str, Any] = {"channels": 4, "heads": 2, "head_heads": 2, "scales": (1, 2, 4)}
    for left_out, message in (
        ("heads", "the stacks are 32 wide, for which no number of heads is known; give heads="),
        ("scales", "the file has 21 positions, but the scales 1,2,4,8,16 have 341; give scales="),
        ("channels", "the file has tokens of 4 numbers, no patch of 16 channels; give channels="),
    ):
        with pytest.raises(NextsetError, match=message):
            load_generator(state, **{name: value for name, value in known.items() if name != left_out})
    cut = {name: t for name, t in state.items() if name != "flownet.input_proj.weight"}
    with pytest.raises(NextsetError, match=r"lacks 'flownet\.input_proj\.weight'; is it cut short"):
        load_generator(cut, **known)
