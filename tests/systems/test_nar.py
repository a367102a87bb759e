"""What is NAR's own: diagonals and planes, heads a tap, their mean before guidance, clips; and the authors' files."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.engine.controllers import Record
from nextset.engine.run import Run, finish
from nextset.hub import pretrained
from nextset.hub.catalogue import get_record
from nextset.hub.convert import convert
from nextset.hub.requests import sizes_of
from nextset.pipelines import Pipeline, TextPipeline, load
from nextset.systems.llamagen import LlamaGen, LlamaGenConfig
from nextset.systems.nar import Nar, NarConfig
from nextset.tokenizers.folded import FoldedVQ, FoldedVQConfig
from nextset.tokenizers.larp import Larp
from nextset.tokenizers.larp_files import TABLE
from nextset.tokenizers.vq import VQConfig, VQTokenizer
from nextset.training.recipes import load_recipe
from tests.battery.common import Tap
from tests.battery.instances import instance, randomise
from tests.systems.test_llamagen_convert import released_generator, released_sizes, released_tokenizer, renamed

CLASSES = torch.tensor([3, 0, 1])


def model(kind: str = "nar") -> Nar:
    return instance(kind).model  # type: ignore[return-value]


def small(**changes: Any) -> Nar:
    """A random model of any shape, without tokenizer."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"classes": 5, "depth": 1, "width": 32, "heads": 2, "hidden": 48, "vocabulary": 24}
    return randomise(Nar(NarConfig.from_dict({**sizes, **changes})))  # type: ignore[return-value]


def made(job: Any, **options: Any) -> Run:
    job.finish = lambda canvas: canvas.codes()
    run = Run.of(job, Noise(0), **options)
    finish(run)
    return run


@torch.no_grad()
def teacher_forced(m: Nar, codes: Tensor, classes: Tensor) -> Tensor:
    return m.teacher_forced(codes, m.prefix.ask(classes))


# ---- sizes, plans


@pytest.mark.parametrize("size", get_record("nar").sizes, ids=lambda size: size.name)
def test_every_size_has_the_parameters_that_its_record_says(size: Any) -> None:
    clip = (
        {"grid": (4, 16, 16), "positions": "learned", "vocabulary": 8192, "classes": 101} if "clip" in size.name else {}
    )
    text = {"asked_with": "text"} if "text" in size.name else {}
    with torch.device("meta"):
        whole = Nar(NarConfig(depth=size.depth, width=size.width, heads=size.heads, **clip, **text))  # type: ignore[arg-type]
    assert sum(p.numel() for p in whole.parameters()) == size.params


@pytest.mark.parametrize(
    ("sizes", "forwards"),
    [({"sides": (4,)}, 7), ({"sides": (1,)}, 1), ({"grid": (2, 3, 4), "positions": "learned"}, 7)],
)
def test_forwards_are_diagonals_or_planes(sizes: dict[str, Any], forwards: int) -> None:
    m = small(**sizes)
    run = made(m.job(CLASSES, guidance_scale=1.0))
    assert run.forwards == len(m.plan) == forwards and run.codes().shape == (3, m.plan.positions)


def test_the_released_sizes_take_31_and_34_forwards() -> None:
    with torch.device("meta"):
        image = Nar(NarConfig(depth=1, width=8, heads=1, hidden=8, vocabulary=2))
        clip = Nar(NarConfig(depth=1, width=8, heads=1, hidden=8, vocabulary=2, grid=(4, 16, 16), positions="learned"))
    assert (len(image.plan), len(clip.plan)) == (31, 34)


def test_memory_holds_every_block_of_both_branches() -> None:
    c, run = model().config, made(model().job(CLASSES, guidance_scale=2.0))
    assert run.policy.bytes() == 2 * (c.depth + 1) * (2 * 3) * (c.keys * c.head_width) * 9 * 4


# ---- laws


@pytest.mark.parametrize("kind", ["nar", "nar:clip"])
def test_logits_of_generation_are_those_of_teacher_forcing(kind: str) -> None:
    m, record = model(kind), Record()
    run = made(m.job(CLASSES, guidance_scale=1.0), controllers=[record])
    stepped = torch.cat([law.raw for law in record.dists], 1)  # type: ignore[attr-defined]
    packed = teacher_forced(m, run.codes(), CLASSES)[:, m.grid.order]
    torch.testing.assert_close(stepped, packed, atol=2e-5, rtol=1e-4)


def test_one_token_is_llamagen_with_two_heads() -> None:
    """Without a block between the taps, both heads read the same: their mean is a head with the mean of both weights."""
    m = small(sides=(1,), extra=0)
    base = LlamaGen(LlamaGenConfig(classes=5, depth=1, width=32, heads=2, hidden=48, vocabulary=24, sides=(1,))).eval()
    state = {n: t for n, t in m.state_dict().items() if not n.startswith("further.")}
    m.further[0].norm.load_state_dict(m.norm.state_dict())  # type: ignore[union-attr]
    state["classifier.weight"] = (m.heads[0].weight + m.heads[1].weight) / 2
    base.load_state_dict(state)
    codes = torch.zeros(3, 1, dtype=torch.int64)
    with torch.no_grad():
        wanted = base.teacher_forced(codes, base.prefix.ask(CLASSES))
    torch.testing.assert_close(teacher_forced(m, codes, CLASSES), wanted)


def test_a_token_hears_its_own_diagonal_and_not_later_ones() -> None:
    m = model()
    codes = torch.arange(9)[None].clone()
    laws = teacher_forced(m, codes, CLASSES[:1])
    for position, changed in ((4, {5, 7, 8}), (2, {5, 7, 8}), (8, set())):
        other = codes.clone()
        other[0, position] = 20
        gap = (teacher_forced(m, other, CLASSES[:1]) - laws).abs().amax(-1)[0] > 1e-6
        assert set(gap.nonzero().flatten().tolist()) == changed


def test_taps_are_merged_before_they_are_guided() -> None:
    m, record = model(), Record()
    codes = made(m.job(CLASSES, guidance_scale=3.0), controllers=[record]).codes()
    found = torch.cat([law.raw for law in record.dists], 1)  # type: ignore[attr-defined]
    with_class, without = (teacher_forced(m, codes, c) for c in (CLASSES, torch.full_like(CLASSES, 5)))
    guided = (without + 3 * (with_class - without))[:, m.grid.order]
    torch.testing.assert_close(found, guided, atol=1e-4, rtol=1e-4)


def test_guidance_ends_by_the_number_of_tokens_drawn() -> None:
    """Steps of 3x3 begin behind 0, 1, 3, 6 and 8 tokens."""
    for tokens, guided in ((0, 5), (1, 1), (3, 2), (4, 3), (6, 3), (7, 4), (9, 5)):
        job = model().job(CLASSES, guidance_scale=2.0, guidance_tokens=tokens)
        tap = Tap(job.network)
        made(dataclasses.replace(job, network=tap))
        assert [len(active) for active in tap.active] == [2] * guided + [1] * (5 - guided)


def test_a_single_head_reads_the_nearest_neighbour() -> None:
    m = small(sides=(3,), nearest=True, depth=2)
    assert len(m.blocks) == 2 and not len(m.further) and m.plan.steps[1].read.shape == (2, 1)
    codes = torch.zeros(1, 9, dtype=torch.int64)
    assert teacher_forced(m, codes, CLASSES[:1]).shape == (1, 9, 24)
    assert made(m.job(CLASSES)).forwards == 5


# ---- as a person uses it


def test_defaults_are_the_authors() -> None:
    job = model().job(CLASSES)
    assert job.weights(job.plan.steps[0]) == (2.0, -1.0) and job.filters(job.plan.steps[0]) == []
    text = model("nar:text")
    job = text.job(text.encode_prompts(["red"]))
    assert job.weights(job.plan.steps[0]) == (7.5, -6.5) and job.filters(job.plan.steps[0]) == []


def test_a_pipeline_of_images_and_of_texts(tmp_path: Path) -> None:
    pipe = load(pretrained.save(tmp_path / "image", model(), defaults={"guidance_scale": 2.0}))
    assert type(pipe) is Pipeline
    out = pipe(3, n=2, seed=1, previews=True)
    assert out.tensors.shape == (2, 3, 6, 6) and len(out.previews) == 5
    again = pipe.inpaint(out.tensors[:1], box=(0.0, 0.0, 0.4, 0.4), classes=3)
    kept = pipe.system.keep_mask(torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1]]))
    assert kept.sum() == 8 and torch.equal(again.tokens[0, kept], pipe.tokenizer.encode(out.tensors[:1])[0, kept])
    prompts = load(pretrained.save(tmp_path / "text", model("nar:text")))
    assert type(prompts) is TextPipeline
    assert prompts("red pear", n=2, negative_prompt="blue").tensors.shape == (2, 3, 6, 6)


def test_a_clip_is_what_the_video_tokenizer_decodes() -> None:
    m = model("nar:clip")
    job = m.job(CLASSES)
    clips = finish(run := Run.of(job, Noise(0)))
    assert clips.shape == (3, 3, 4, 8, 8) and torch.equal(clips, m.tokenizer.decode(run.codes()))
    with pytest.raises(NextsetError, match="a token of this model belongs to no place of its clip"):
        m.keep_mask(torch.ones(2, 3))


def test_tokenizers_that_do_not_fit_are_refused() -> None:
    image, clip = model(), model("nar:clip")
    with pytest.raises(
        NextsetError, match="the tokenizer is VQTokenizer, which reads images, but this model makes clips"
    ):
        Nar(clip.config, image.tokenizer)
    with pytest.raises(NextsetError, match="2x2x2 = 8 tokens, but a clip of the tokenizer has 12"):
        Nar(clip.config.replace(grid=(2, 2, 2)), clip.tokenizer)
    with pytest.raises(NextsetError, match="ids of one map need a VQTokenizer"):
        Nar(image.config, clip.tokenizer)


@pytest.mark.parametrize(
    "values",
    [
        {"grid": (2, 2), "positions": "learned"},
        {"grid": (2, 0, 2), "positions": "learned"},
        {"positions": "grid", "grid": (2, 2, 2)},
        {"asked_with": "text", "grid": (2, 2, 2), "positions": "learned"},
        {"extra": -1},
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(NextsetError, match=f"NarConfig.{next(iter(values))} is"):
        NarConfig(**values)


def test_a_negative_number_of_guided_tokens_is_refused() -> None:
    with pytest.raises(NextsetError, match="guidance_tokens is -1, but must be at least 0; 0 guides every token"):
        model().job(CLASSES, guidance_tokens=-1)


# ---- training


def test_of_images_the_first_head_begins_at_zero_and_of_clips_all_do() -> None:
    image, clip = Nar(model().config), Nar(model("nar:clip").config)
    assert [float(head.weight.detach().abs().sum()) > 0 for head in image.heads] == [False, True]
    assert 0.015 < float(image.heads[1].weight.detach().std()) < 0.025
    batch = instance("nar:clip").batch(torch.arange(4))  # type: ignore[misc]
    with torch.no_grad():
        (update,) = clip.eval().updates(batch, 0, Noise(0))
    torch.testing.assert_close(update.loss, torch.tensor(math.log(24)))


def test_of_clips_linear_maps_alone_decay() -> None:
    from nextset.training.optim import decays

    m = model("nar:clip")
    decayed = {n for n, p in m.named_parameters() if decays(n, p.ndim, m.no_decay)}
    assert decayed and all(n.startswith(("blocks.", "classifier.", "further.")) for n in decayed)
    assert not hasattr(model(), "no_decay")


def test_the_recipes_fit_together() -> None:
    for name, tokens in (("cifar10", 64), ("emoji", 64)):
        recipe = dict(load_recipe(f"llamagen-{name}-tokenizer").model)
        values = {k: v for k, v in recipe.items() if k not in ("type", "objective")}
        vq = VQTokenizer(VQConfig.from_dict(values))
        assert vq.spec.tokens == tokens
        blocks = []
        for system, cls, config in (("llamagen", LlamaGen, LlamaGenConfig), ("nar", Nar, NarConfig)):
            mine = load_recipe(f"{system}-{name}")
            asked: dict[str, Any] = {"classes": 10}
            if "words" in mine.model:
                words = {**mine.model["words"], "words": ["red"]}
                asked = {"words": words, "text_channels": words["width"], "text_length": words["length"]}
            with torch.device("meta"):
                m = cls(config.from_dict({**sizes_of(cls, vq), **mine.model, **asked}))
            blocks.append((len(m.blocks), mine.train))
        assert blocks[0] == blocks[1], "as many blocks, steps and pictures"


def test_the_recipe_of_clips_fits_its_tokenizer() -> None:
    recipe = load_recipe("shapes-tokenizer").model
    folded = FoldedVQ(FoldedVQConfig.from_dict({k: v for k, v in recipe.items() if k not in ("type", "objective")}))
    sizes = {"classes": 16, **sizes_of(Nar, folded), **load_recipe("nar-shapes").model}
    m = Nar(NarConfig.from_dict(sizes), folded)
    assert len(m.blocks) == 6 and len(m.plan) == sum(folded.config.grid) - 2


# ---- the authors' files


def released(m: Nar) -> dict[str, Tensor]:
    """Its weights under the authors' names."""
    names = {"classifier.": "output_R.", "norm.": "norm_R.", "further.0.norm.": "norm_D.", "further.0.classifier.": "output_D.",
             "further.1.norm.": "norm_B.", "further.1.classifier.": "output_B.", "place": "abs_pe"}  # fmt: skip
    if not m.config.grid:
        names = {"further.0.norm.": "medusa_norm.", "further.0.classifier.": "medusa_output."}
    out, rest = {}, {}
    for name, tensor in m.state_dict().items():
        mine = next((ours for ours in names if name.startswith(ours)), None)
        if mine is None:
            rest[name] = tensor
        else:
            out[names[mine] + name[len(mine) :]] = tensor[None] if mine == "place" else tensor
    return {**out, **renamed(rest)}


def test_files_of_images_are_read(tmp_path: Path) -> None:
    vq = released_sizes()
    ours = small(sides=(3,), depth=2, extra=2)
    ours.attach(vq)
    torch.save({"model": {**released(ours), "freqs_cis": torch.zeros(10, 8, 2)}}, tmp_path / "nar.pt")
    torch.save({"model": released_tokenizer(vq)}, tmp_path / "vq.pt")
    read: Any = convert([tmp_path / "nar.pt", tmp_path / "vq.pt"], heads=2, extra=2)
    assert type(read) is Nar and (read.config.depth, read.config.extra, read.config.sides) == (2, 2, (3,))
    assert torch.equal(made(read.job(CLASSES)).codes(), made(ours.job(CLASSES)).codes())
    one: Any = convert([tmp_path / "nar.pt"], heads=2)
    assert (one.config.depth, one.config.extra) == (3, 1), "one block between the heads, as in all releases"
    with pytest.raises(NextsetError, match="extra is 4, but the file has 4 blocks in all"):
        convert([tmp_path / "nar.pt"], heads=2, extra=4)
    torch.save(released_generator(instance("llamagen").model), tmp_path / "llamagen.pt")  # type: ignore[arg-type]
    assert type(convert([tmp_path / "llamagen.pt"], heads=4, sides=[3])) is LlamaGen
    assert type(convert([tmp_path / "vq.pt"])) is VQTokenizer


def test_files_of_clips_are_read(tmp_path: Path) -> None:
    ours = model("nar:clip")
    torch.save({"model": released(ours)}, tmp_path / "nar.pt")
    larp = ours.tokenizer
    back = {ours: theirs for theirs, ours in ((n, next(iter(TABLE.names([n])))) for n in AUTHORS)}
    state = {back.get(n, n): t for n, t in pretrained.published_state(larp).items()}
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"].view(16, 3, 2, 4, 4)
    torch.save(state, tmp_path / "larp.pt")
    read: Any = convert([tmp_path / "nar.pt"], heads=2, grid=[2, 2, 3])
    assert type(read) is Nar and read.config.grid == (2, 2, 3) and read.config.positions == "learned"
    for name, tensor in ours.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    alone: Any = convert([tmp_path / "larp.pt"], frames=4, heads=2, grid=[2, 2, 3])
    assert type(alone) is Larp
    read.attach(alone)
    assert torch.equal(finish(Run.of(read.job(CLASSES), Noise(0))), finish(Run.of(ours.job(CLASSES), Noise(0))))
    with pytest.raises(NextsetError, match=r"the grid is 4x16x16 = 1024 tokens, but the file has positions of 12"):
        convert([tmp_path / "nar.pt"], heads=2)


AUTHORS = (
    *(f"x_embedder.proj.{x}" for x in ("weight", "bias")), "encoder_patch_pe", "encoder_latent_query_embed",
    *(f"bottleneck.{y}_linear.{x}" for y in ("in", "out") for x in ("weight", "bias")),
    "bottleneck.regularizer.embedding.weight", "decoder_latent_pe", "decoder_patch_query_embed",
    "decoder_patch_query_token_type_embed",
    *(f"final_layer.{y}.{x}" for y in ("norm_final", "linear") for x in ("weight", "bias")),
)  # fmt: skip
