"""What is FlexVAR's own: any list of sides, positions from one map, lists drawn in training, given pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError, NextsetWarning
from nextset.core.events import Preview
from nextset.core.noise import Noise
from nextset.core.protocols import Job
from nextset.engine.run import Run, finish, proceed
from nextset.hub import pretrained
from nextset.hub.convert import convert
from nextset.nn.autoencoder import AutoencoderConfig
from nextset.pipelines import Pipeline
from nextset.systems.flexvar import FlexVar, FlexVarConfig
from nextset.systems.flexvar.orders import ramp_by_side
from nextset.systems.flexvar.sides import SCRIPTED, at_random, checked, for_size, for_steps, shaped
from nextset.tokenizers.flexible import FlexibleVQ, FlexibleVQConfig
from nextset.tokenizers.vq import VQTokenizer
from nextset.training.recipes import TrainConfig, load_recipe
from nextset.training.trainer import Trainer
from tests.battery.instances import instance, randomise
from tests.tiny import tiny_tokenizer

CLASSES = torch.tensor([3, 0, 1])


def model() -> FlexVar:
    return instance("flexvar").model  # type: ignore[return-value]


def made(job: Job, seed: int = 0) -> tuple[Run, torch.Tensor]:
    run = Run.of(job, Noise(seed))
    return run, finish(run)


def pictures(h: int, w: int, n: int = 1) -> torch.Tensor:
    return torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ---- any list of sides


@pytest.mark.parametrize(
    ("settings", "sides"),
    [
        ({"sides": [1, 2, 4, 4, 6]}, [1, 2, 4, 4, 6]),
        ({"sides": [5]}, [5]),
        ({"sides": [2, 3]}, [2, 3]),
        ({"sides": [4, 2]}, [4, 2]),
        ({"steps": 2}, [1, 3]),
        ({"steps": 5}, [1, 1, 2, 3, 3]),
        ({"width": 8}, [1, 2, 3, 4]),
        ({"steps": 3, "height": 16}, [1, 3, 8]),
        ({}, [1, 2, 3]),
    ],
)
def test_a_forward_for_each_side_whatever_the_list(settings: dict, sides: list[int]) -> None:
    job = model().job(CLASSES, **settings)
    run, images = made(job)
    assert job.canvas.sides == [(s, s) for s in sides]  # type: ignore[attr-defined]
    assert run.forwards == len(sides) and images.shape == (3, 3, 2 * sides[-1], 2 * sides[-1])
    assert torch.isfinite(images).all() and images.abs().max() <= 1


def test_pictures_that_are_no_squares() -> None:
    job = model().job(CLASSES, width=12, height=8)
    assert job.canvas.sides == [(1, 1), (1, 2), (2, 3), (3, 4), (4, 6)]  # type: ignore[attr-defined]
    assert made(job)[1].shape == (3, 3, 8, 12)
    assert made(model().job(CLASSES, sides=[1, (2, 3), (5, 4)]))[1].shape == (3, 3, 10, 8)


def test_every_preview_is_a_picture_at_its_own_size() -> None:
    job = model().job(CLASSES, sides=[1, 2, 4])
    with torch.no_grad():
        shown = [e.images for e in proceed(Run.of(job, Noise(0)), previews=True) if isinstance(e, Preview)]
    codes = job.canvas.codes()
    assert [s.shape[-1] for s in shown] == [2, 4, 8]
    for k, images in enumerate(shown):
        torch.testing.assert_close(images, model().tokenizer.decode_scale(codes, k, [1, 2, 4]))


def test_the_list_of_another_request_changes_nothing() -> None:
    first = made(model().job(CLASSES))[0].codes()
    made(model().job(CLASSES, sides=[1, 4]))
    assert torch.equal(made(model().job(CLASSES))[0].codes(), first) and len(model().plan) == 3


def test_positions_are_the_map_or_its_areas() -> None:
    m = model()
    raw = m.position[0].flatten(1).T
    assert torch.equal(m.positions((8, 8)), raw)
    torch.testing.assert_close(m.positions((1, 1))[0], raw.mean(0))
    torch.testing.assert_close(m.positions((2, 4))[5], m.position[0, :, 4:, 2:4].mean((1, 2)))


def test_the_map_begins_with_sines_of_rows_and_cosines_of_columns() -> None:
    torch.manual_seed(0)
    start = FlexVar(FlexVarConfig(classes=5, depth=1, width=8, heads=1, channels=4, vocabulary=24)).position[0]
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    for i in range(4):
        w = 10000 ** (-2 * i / 8)
        torch.testing.assert_close(start[2 * i], (y * w).sin(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(start[2 * i + 1], (x * w).cos(), atol=1e-5, rtol=1e-4)


# ---- sampling


def test_guidance_grows_over_nine_steps_and_is_whole_at_large_sides() -> None:
    edges = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 16, 23]
    plan = model().at(edges).plan
    weights = [ramp_by_side(3.0, edges, 16)(step) for step in plan.steps]
    assert weights[0] == (1, 0) and weights[3] == (2, -1) and weights[9] == (4, -3)
    assert weights[10][1] == pytest.approx(-10 / 3) and weights[11] == (4, -3)
    assert ramp_by_side(3.0, [5], 16)(plan.steps[0]) == (1, 0), "one scale has no guidance"


def test_unusual_sides_take_the_likeliest_token_unless_asked_not_to() -> None:
    def different(**settings: bool) -> list[bool]:
        runs = [made(model().job(CLASSES, sides=[7], guidance_scale=0, top_p=0, **settings), s)[0] for s in (0, 1)]
        return [bool((runs[0].codes() != runs[1].codes()).any())]

    assert different() == [False] and different(greedy=False) == [True]
    run = made(model().job(CLASSES, sides=[6], guidance_scale=0, largest=5))[0]
    assert torch.equal(run.codes(), made(model().job(CLASSES, sides=[6], guidance_scale=0, largest=5), 1)[0].codes())


def test_constant_guidance() -> None:
    m = model()
    job = m.job(CLASSES, guidance="constant", guidance_scale=4.0)
    assert [job.weights(step) for step in job.plan.steps] == [(4.0, -3.0)] * 3
    assert len(m.job(CLASSES, guidance="constant", guidance_scale=1).branches) == 1
    assert len(m.job(CLASSES, guidance_scale=0).branches) == 1
    made(m.job(CLASSES, guidance="constant", guidance_scale=0.5))


def test_ids_that_are_left_out_are_never_drawn() -> None:
    free = made(model().job(CLASSES, sides=[8], top_k=0, top_p=0))[0].codes()
    without = free.unique()[:3].tolist()
    codes = made(model().job(CLASSES, sides=[8], top_k=0, top_p=0, without=without))[0].codes()
    assert not torch.isin(codes, torch.tensor(without)).any()


# ---- given pictures


def test_refinement_keeps_the_coarse_scales() -> None:
    m, small = model(), pictures(4, 4)
    job = m.refine(CLASSES, small, sides=[1, 2, 4])
    run, images = made(job)
    assert run.forwards == 1 and images.shape == (3, 3, 8, 8)
    assert torch.equal(run.codes()[:, :5], m.tokenizer.encode(small, [1, 2]).expand(3, -1))
    assert made(m.refine(CLASSES, small, given=1, sides=[1, 2, 4]))[0].forwards == 2
    again = m.refine(CLASSES, pictures(6, 6, 3), given=3)
    assert torch.equal(made(again)[1], m.tokenizer.decode(m.tokenizer.encode(pictures(6, 6, 3))))


def test_repainting_keeps_what_it_should_at_every_scale() -> None:
    m, image, keep = model(), pictures(8, 12), torch.ones(8, 12)
    keep[:, 6:] = 0
    job = m.repaint(CLASSES, image, keep)
    run, images = made(job)
    wanted = m.tokenizer.encode(image, job.canvas.sides).expand(3, -1)  # type: ignore[attr-defined]
    last, given = run.codes()[:, -24:].view(3, 4, 6), wanted[:, -24:].view(3, 4, 6)
    assert images.shape == (3, 3, 8, 12) and torch.equal(last[..., :3], given[..., :3])
    assert (last[..., 3:] != given[..., 3:]).any() and torch.equal(run.codes()[:, :1], wanted[:, :1])


def test_expansion_keeps_the_picture_in_a_larger_one() -> None:
    m, image = model(), pictures(6, 6)
    job = m.expand(CLASSES, image, left=4, bottom=2, steps=3)
    run, images = made(job)
    assert images.shape == (3, 3, 8, 10) and run.forwards == 2, "one cell is given whole"
    mask = job.canvas.given[0, -20:].view(4, 5)  # type: ignore[attr-defined]
    assert mask[:3, 2:].all() and not mask[3].any() and not mask[:, :2].any()


def test_the_commands_on_pictures_go_by_the_usual_list(tmp_path: Path) -> None:
    pipe = Pipeline(pretrained.load(pretrained.save(tmp_path / "model", model())))
    kept = pipe.inpaint(pictures(6, 6), box=(0, 0, 0.5, 1), classes=1, n=2)
    assert kept.tensors.shape == (2, 3, 6, 6)
    assert pipe([1, 2], n=2, width=8, height=12, guidance_scale=1.0).tensors.shape == (2, 3, 12, 8)
    assert len(pipe.reconstruct(pictures(6, 6)).scales) == 3 and pipe.forwards(steps=2) == 2


# ---- lists


def test_lists_of_so_many_steps() -> None:
    for steps, row in SCRIPTED.items():
        assert len(row) == steps and row[-1] == 16 and for_steps(steps, 16) == row
    for last in (1, 5, 8, 24, 32):
        for steps in range(2, last + 1):
            row = for_steps(steps, last)
            assert len(row) == steps and row[0] == 1 and row[-1] == last and list(row) == sorted(set(row))
    assert for_steps(1, 16) == (16,) and for_steps(4, 2) == (1, 1, 2, 2)


def test_lists_for_a_size() -> None:
    usual = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    assert for_size(usual, 16, 16) == tuple((s, s) for s in usual)
    assert for_size(usual, 32, 32)[-3:] == ((16, 16), (23, 23), (32, 32)), "as the authors go on"
    assert for_size(usual, 8, 8)[-1] == (8, 8) and len(for_size(usual, 8, 8)) == 7
    assert for_size(usual, 7, 7)[-2:] == ((6, 6), (7, 7))
    assert for_size((1, 2, 4), 3, 6) == ((1, 1), (1, 2), (2, 4), (2, 5), (3, 6))
    assert shaped([1, 4, 8], 4, 8) == ((1, 1), (2, 4), (4, 8))


def test_lists_of_training_are_the_authors() -> None:
    c = FlexVarConfig()
    lists = [at_random(c.sides, c.draws, c.share, c.budget, Noise(0), step) for step in range(600)]
    assert all(sum(s * s for s in row) <= 680 and row[0] == 1 and list(row) == sorted(set(row)) for row in lists)
    assert {s for row in lists for s in row} == set(range(1, 17))
    whole = [row for row in lists if len(row) == 10]
    assert all(row[:2] == (1, 2) for row in whole)
    assert 0.02 < sum(row == c.sides for row in lists) / 600 < 0.09
    assert min(map(len, lists)) >= 4 and len(set(lists)) > 300
    short = sum(len(row) < 10 for row in lists) / 600
    assert 0.85 < short < 1, "two large sides are above the budget with most others"
    assert lists[:50] == [at_random(c.sides, c.draws, c.share, c.budget, Noise(0), step) for step in range(50)]


# ---- training


def trained_on(sides: tuple[int, ...], **changes: object) -> FlexVar:
    torch.manual_seed(0)
    auto = AutoencoderConfig(channels=8, multipliers=(1, 2), blocks=1, latent=6, groups=4, attention=False)
    tokenizer = FlexibleVQ(FlexibleVQConfig(autoencoder=auto, vocabulary=24, channels=4, sides=sides))
    config = model().config.replace(**changes)
    return FlexVar(config, randomise(tokenizer))  # type: ignore[arg-type]


def test_a_step_trains_on_its_own_list_of_the_codes_at_all_sides() -> None:
    m = trained_on((1, 2, 3, 4), draws=((1, 1, 1), (2, 4, 2)), share=0.0, budget=40).train()
    codes = torch.arange(30).remainder(24).expand(2, -1)
    assert m.at_sides(codes, (1, 3))[0].tolist() == [0, *range(5, 14)]
    batch = {"codes": codes, "labels": torch.tensor([0, 1]), "index": torch.arange(2)}
    seen = set()
    for step in range(12):
        (update,) = m.updates(batch, step, Noise(0))
        seen.add(tuple(n for n in update.parts if n.startswith("ce_")))
    assert seen == {("ce_side_1", f"ce_side_{a}", f"ce_side_{b}") for a, b in ((2, 3), (2, 4), (3, 4))}


def test_a_few_steps_of_training_and_back_from_a_folder(tmp_path: Path) -> None:
    m = trained_on((1, 2, 3, 4), draws=((1, 1, 1), (2, 4, 2)), budget=40)
    codes = torch.randint(0, 24, (8, 30), generator=torch.Generator().manual_seed(0))
    config = TrainConfig(steps=4, batch=8, warmup=0, log_every=1, sample_every=0, ema=0.9)
    batch = {"codes": codes, "labels": torch.arange(8) % 5, "index": torch.arange(8)}
    assert Trainer(m, lambda i: batch, config, tmp_path / "run").run().step == 4
    loaded = pretrained.load(pretrained.save(tmp_path / "model", m)).model
    assert loaded.tokenizer.sides[-1] == (3, 3), "pictures are read at the generator's sides"
    (update,) = loaded.updates(batch, 0, Noise(0))
    assert torch.isfinite(update.loss), "and codes at all sides are still understood"


def test_the_recipes_fit_together() -> None:
    coder = load_recipe("flexvar-cifar10-tokenizer").model
    recipe = load_recipe("flexvar-cifar10")
    config = FlexVarConfig.from_dict({**recipe.model, "classes": 10, "vocabulary": coder["vocabulary"], "channels": 16})
    for step in range(60):
        row = at_random(config.sides, config.draws, config.share, config.budget, Noise(0), step)
        assert set(row) <= set(coder["sides"]) and len(row) >= 2


# ---- files


def released(config: FlexVarConfig) -> dict[str, torch.Tensor]:
    """A generator's weights under the authors' names."""
    names = {
        "class_embedding": "class_emb", "start": "pos_start", "position": "pos_1LC", "word.": "word_embed.",
        "norm_modulation": "head_nm.ada_lin.1", "classifier": "head", "modulation": "ada_lin.1", "attn.scale":
        "attn.scale_mul_1H11", "attn.qkv": "attn.mat_qkv", "ffn.up": "ffn.fc1", "ffn.down": "ffn.fc2",
    }  # fmt: skip
    state = {}
    for name, tensor in FlexVar(config).state_dict().items():
        for ours, theirs in names.items():
            if ours in name:
                name = name.replace(ours, theirs)
                break
        state[name] = tensor
    return {**state, "attn_bias_for_masking": torch.zeros(1, 1, 4, 4), "blocks.0.attn.zero_k_bias": torch.zeros(8)}


def test_a_released_file_is_read_in_its_wrapper_and_bare(tmp_path: Path) -> None:
    config = model().config
    state = released(config)
    torch.save({"trainer": {"var_wo_ddp": state}, "epoch": 179}, tmp_path / "wrapped.pth")
    torch.save(state, tmp_path / "bare.pth")
    for name in ("wrapped", "bare"):
        found = convert([tmp_path / f"{name}.pth"], system="flexvar", sides=[1, 2, 3])
        assert type(found) is FlexVar and found.config.places == 8 and found.config.sides == (1, 2, 3)
        assert torch.equal(found.position, state["pos_1LC"])  # type: ignore[union-attr]


def released_tokenizer(model: FlexibleVQ) -> dict[str, torch.Tensor]:
    """A tokenizer's weights under the authors' names: the decoder's levels as they run, and q, k and v apart."""
    last = len(model.config.autoencoder.multipliers) - 1
    state: dict[str, torch.Tensor] = {"quantize.codebook_used": torch.zeros(4)}
    for name, tensor in model.state_dict().items():
        name = name.replace("quantiser.codebook", "quantize.embedding").replace(".block.", ".res.")
        name = re.sub(
            r"mid\.(block_1|attn_1|block_2)", lambda m: f"mid.{('block_1', 'attn_1', 'block_2').index(m[1])}", name
        )
        name = re.sub(r"down\.(\d)", r"conv_blocks.\1", name)
        name = re.sub(r"up\.(\d)", lambda m: f"conv_blocks.{last - int(m[1])}", name)
        if ".qkv." in name:
            state |= {name.replace("qkv", part): t for part, t in zip("qkv", tensor.chunk(3), strict=True)}
        elif not name.startswith("usage"):
            state[name] = tensor
    return state


def test_a_released_tokenizer_is_recognised_and_read(tmp_path: Path) -> None:
    auto = AutoencoderConfig(channels=32, multipliers=(1, 2, 1), blocks=1, latent=6)
    ours = FlexibleVQ(FlexibleVQConfig(autoencoder=auto, vocabulary=24, channels=4, sides=(1, 2, 3))).eval()
    randomise(ours)
    torch.save({"model": released_tokenizer(ours)}, tmp_path / "vae.pth")
    torch.save(released(model().config), tmp_path / "generator.pth")
    found = convert([tmp_path / "vae.pth"], sides=[1, 2, 3], system="flexvar")
    assert type(found) is FlexibleVQ and found.config == ours.config
    assert torch.equal(found.encode(pictures(16, 16)), ours.encode(pictures(16, 16)))
    both = convert([tmp_path / "generator.pth", tmp_path / "vae.pth"], sides=[1, 2, 3])
    assert type(both) is FlexVar and both.tokenizer.config == ours.config
    cut = {n: t for n, t in released_tokenizer(ours).items() if "post_quant_conv" not in n}
    torch.save({"model": cut}, tmp_path / "cut.pth")
    with pytest.raises(NextsetError, match=r"the tokenizer's file lacks 'post_quant_conv\.weight'; is it cut short"):
        convert([tmp_path / "cut.pth"], system="flexvar")


def test_codes_of_32_channels_tell_a_tokenizer_from_its_family(tmp_path: Path) -> None:
    auto = AutoencoderConfig(channels=32, multipliers=(1, 2, 1), blocks=1, latent=6)
    for channels, kind in ((32, FlexibleVQ), (8, VQTokenizer)):
        ours = FlexibleVQ(FlexibleVQConfig(autoencoder=auto, vocabulary=24, channels=channels, sides=(1, 2, 3))).eval()
        torch.save({"model": released_tokenizer(ours)}, tmp_path / "vae.pth")
        assert type(convert([tmp_path / "vae.pth"], sides=[3] if channels == 8 else [1, 2, 3])) is kind


# ---- errors


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sides": []}, "the list has 0 sides, but must have 1 to 64"),
        ({"sides": [0, 2]}, "side is 0, but must be a number or a pair"),
        ({"sides": [1, (2, 2, 2)]}, r"side is \(2, 2, 2\)"),
        ({"sides": [1, 2.5]}, "side is 2.5"),
        ({"sides": [1, 2], "steps": 2}, "sides were given with steps, width or height"),
        ({"steps": 0}, "steps is 0, but must be between 1 and 64"),
        ({"width": 7}, "width is 7 pixels, but must be a multiple of 2"),
        ({"height": 0}, "height is 0 pixels"),
        ({"guidance": "other"}, "guidance is 'other', but must be 'ramp' or 'constant'"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"without": [24]}, "without is 24, but must be between 0 and 23"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_in_one_line(settings: dict, text: str) -> None:
    with pytest.raises(NextsetError, match=text) as error:
        model().job(CLASSES, **settings)
    assert "\n" not in str(error.value)


def test_pictures_that_do_not_fit_are_refused() -> None:
    m = model()
    with pytest.raises(NextsetError, match="given is 3, but must be between 0 and 2; a larger image"):
        m.refine(CLASSES, pictures(4, 4), given=3, sides=[1, 2, 4])
    with pytest.raises(NextsetError, match=r"the mask is \(4, 4\), but the images are \(6, 6\)"):
        m.repaint(CLASSES, pictures(6, 6), torch.ones(4, 4))
    with pytest.raises(NextsetError, match="there are 2 images for 3 classes"):
        m.repaint(CLASSES, pictures(6, 6, 2), torch.ones(6, 6))
    with pytest.raises(NextsetError, match="left is -1"):
        m.expand(CLASSES, pictures(6, 6), left=-1)


def test_a_side_above_the_map_is_warned_of() -> None:
    with pytest.warns(NextsetWarning, match="side 9 is above the 8 cells"):
        job = model().job(CLASSES, sides=[1, 9])
    assert made(job)[1].shape == (3, 3, 18, 18)


def test_codes_and_tokenizers_that_do_not_fit_are_refused() -> None:
    m = trained_on((1, 2, 3))
    batch = {"codes": torch.zeros(1, 13, dtype=torch.int64), "labels": torch.zeros(1), "index": torch.zeros(1)}
    with pytest.raises(NextsetError, match="an image has 13 codes, but the tokenizer's sides make 14"):
        next(m.updates(batch, 0, Noise(0)))
    with pytest.raises(NextsetError, match=r"the list has side 3, but the tokenizer's sides are \[1, 2\]"):
        next(trained_on((1, 2)).eval().updates(batch, 0, Noise(0)))
    with pytest.raises(NextsetError, match="independent scales need a FlexibleVQ"):
        m.attach(tiny_tokenizer())


@pytest.mark.parametrize(
    "values",
    [{"draws": ((3, 2, 1),)}, {"draws": ((1, 2, 3),)}, {"places": 0}, {"share": 2.0}, {"budget": 0}, {"raster": True}],
)
def test_values_that_do_not_fit_are_refused(values: dict) -> None:
    with pytest.raises(NextsetError, match=next(iter(values))):
        FlexVarConfig(**values)


def test_plain_numbers_are_squares() -> None:
    assert checked([1, (2, 3), [4, 5]]) == ((1, 1), (2, 3), (4, 5))  # type: ignore[list-item]
