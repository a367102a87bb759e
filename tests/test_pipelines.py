"""The pipeline as a person uses it: seeds, batches, names, edits, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.pipelines import Pipeline
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.from_pretrained(save_tiny(tmp_path_factory.mktemp("tiny") / "model"))


def test_batches_change_no_picture(pipe: Pipeline) -> None:
    whole = pipe(n=6, seed=4)
    assert torch.equal(whole.tokens, pipe(n=6, seed=4, batch=1).tokens)
    assert torch.equal(whole.tokens, pipe(n=6, seed=4, batch=4).tokens)


def test_one_picture_can_be_made_again_alone(pipe: Pipeline) -> None:
    whole = pipe(n=6, seed=4)
    seed, index = whole.seeds[5]
    assert torch.equal(pipe(seed=seed, indices=[index]).tokens[0], whole.tokens[5])


def test_other_seeds_other_pictures(pipe: Pipeline) -> None:
    assert not torch.equal(pipe(1, n=4, seed=0).tokens, pipe(1, n=4, seed=1).tokens)


def test_names_ids_and_none(pipe: Pipeline) -> None:
    assert pipe.class_id("HEART") == 8 and pipe.class_id("3") == 3 and pipe.class_id(None) == 10
    out = pipe(["heart", 3, "none"], n=5)
    assert out.classes.tolist() == [8, 3, 10, 8, 3]
    assert out.images[0].size == (16, 16) and len(out.images) == 5


def test_previews_grow_to_the_picture(pipe: Pipeline) -> None:
    out = pipe(1, n=2, previews=True)
    assert len(out.previews) == 4
    torch.testing.assert_close(out.previews[-1], out.tensors)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p("hart"), "did you mean 'heart'"),
        (lambda p: p(99), "ids 0 to 9"),
        (lambda p: p(-1), "ids 0 to 9"),
        (lambda p: p(1, n=0), "at least|between"),
        (lambda p: p(1, guidance_scale=-1.0), "guidance_scale is -1.0"),
        (lambda p: p(1, guidance_scale=float("nan")), "guidance_scale"),
        (lambda p: p(1, top_p=1.5), "top_p is 1.5"),
        (lambda p: p(1, top_k=-3), "top_k is -3"),
        (lambda p: p(1, topk=3), "did you mean 'top_k'"),
        (lambda p: p(1, cache="fulll"), "cache is 'fulll'"),
        (lambda p: p.inpaint(torch.zeros(1, 3, 16, 16)), "either a box or a mask"),
        (lambda p: p.inpaint(torch.zeros(1, 3, 16, 16), box=(0.5, 0, 0.2, 1)), "box is"),
        (lambda p: p.inpaint(torch.zeros(1, 3, 17, 16), box=(0, 0, 1, 1)), "works at 16x16"),
    ],
)
def test_bad_input_is_one_clear_line(pipe: Pipeline, call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(NextsetError, match=message) as error:
        call(pipe)
    assert "\n" not in str(error.value)


def test_inpainting_keeps_what_lies_outside(pipe: Pipeline) -> None:
    image = pipe(1, seed=2).tensors
    given = pipe.tokenizer.encode(image)
    out = pipe.inpaint(image, box=(0.25, 0.25, 0.75, 0.75), classes=4, seed=1, n=3)
    last = given.view(1, -1)[:, 14:].view(4, 4)
    drawn = out.tokens[:, 14:].view(3, 4, 4)
    outside = torch.ones(4, 4, dtype=torch.bool)
    outside[1:3, 1:3] = False
    assert (drawn[:, outside] == last[outside]).all()
    assert (drawn[:, ~outside] != last[~outside]).any()
    assert not torch.equal(out.tokens[0], out.tokens[1])


def test_outpainting_keeps_what_lies_inside(pipe: Pipeline) -> None:
    image = pipe(1, seed=2).tensors
    last = pipe.tokenizer.encode(image)[:, 14:].view(4, 4)
    out = pipe.outpaint(image, box=(0.25, 0.25, 0.75, 0.75), seed=1)
    assert (out.tokens[:, 14:].view(4, 4)[1:3, 1:3] == last[1:3, 1:3]).all()


def test_a_mask_says_the_same_as_its_box(pipe: Pipeline) -> None:
    image = pipe(1, seed=2).tensors
    mask = torch.zeros(32, 32)
    mask[8:24, 8:24] = 1
    a = pipe.inpaint(image, box=(0.25, 0.25, 0.75, 0.75), seed=1)
    b = pipe.inpaint(image, mask=mask, seed=1)
    assert torch.equal(a.tokens, b.tokens)


def test_everything_given_is_the_reconstruction(pipe: Pipeline) -> None:
    image = pipe(1, seed=2).tensors
    out = pipe.inpaint(image, mask=torch.zeros(16, 16), seed=1)
    torch.testing.assert_close(out.tensors, pipe.reconstruct(image).scales[-1])


def test_without_guidance_there_is_one_branch(pipe: Pipeline) -> None:
    assert len(pipe.job(torch.tensor([1]), guidance_scale=0.0).branches) == 1
    assert pipe.forwards() == 4


def test_load_knows_the_default_model() -> None:
    from nextset.hub.pretrained import default_model

    assert default_model()


def test_public_names(tmp_path: Path) -> None:
    import nextset

    assert nextset.list_systems(state="available")
    assert nextset.load(save_tiny(tmp_path / "m"))(1).tokens.shape == (1, 30)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = nextset.nothing


def test_candidates_change_no_other_picture_and_need_no_batch(pipe: Pipeline) -> None:
    out = pipe(1, n=3, seed=5, candidates=4, decide_at=1, previews=True)
    assert out.tokens.shape == (3, 30) and [len(p) for p in out.previews] == [3, 3, 3, 3]
    assert torch.equal(out.tokens, pipe(1, n=3, seed=5, candidates=4, decide_at=1, batch=1).tokens)
    assert torch.equal(pipe(1, n=3, seed=5, candidates=1).tokens, pipe(1, n=3, seed=5).tokens)
    torch.testing.assert_close(out.previews[-1], out.tensors)


def test_the_kept_candidate_is_the_likeliest(pipe: Pipeline) -> None:
    from nextset.core.noise import Noise
    from nextset.engine.controllers import Record
    from nextset.engine.run import Run, proceed
    from nextset.engine.search import KeepLikeliest

    record, search = Record(), KeepLikeliest(5, 2)
    run = Run.of(
        pipe.job(torch.ones(10, dtype=torch.int64)),
        Noise(0),
        torch.arange(2).repeat_interleave(5),
        controllers=[record, search],
    )
    run.attempt = torch.arange(5).repeat(2) << 16
    with torch.no_grad():
        list(proceed(run))
    law, drawn = record.dists[2], record.drawn[2]
    score = law.raw.log_softmax(-1).gather(-1, drawn.value[..., None]).mean((1, 2)).view(2, 5)  # type: ignore[attr-defined]
    assert search.kept is not None
    assert (search.kept - torch.tensor([0, 5])).tolist() == score.argmax(1).tolist()
    assert run.codes().shape[0] == 2


@pytest.mark.parametrize("values", [{"candidates": 0}, {"candidates": 2, "decide_at": 9}])
def test_candidates_out_of_range(pipe: Pipeline, values: dict) -> None:
    with pytest.raises(NextsetError, match=r"candidates is|decide_at is"):
        pipe(1, **values)
