"""The authors' files: read as they are, recognised by names, refused safely."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import torch

from benchmarks.plain_var import PlainVar, random_state
from nextset.core.errors import NextsetError
from nextset.core.noise import Tape
from nextset.core.unpickle import read_torch
from nextset.engine.run import Run, finish
from nextset.hub import pretrained
from nextset.hub.convert import convert
from tests.tiny import tiny_model

SIDES = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def states() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    var, vae = random_state(
        2,
        width=32,
        heads=2,
        sides=SIDES,
        classes=10,
        vocabulary=32,
        latent=8,
        channels=32,
        multipliers=(1, 2),
        blocks=1,
    )
    # the derived buffers that released files carry
    var |= {"lvl_1L": torch.zeros(1, 30, dtype=torch.int64), "attn_bias_for_masking": torch.zeros(1, 1, 30, 30)}
    var |= {f"blocks.{i}.attn.zero_k_bias": torch.zeros(32) for i in range(2)}
    vae["quantize.ema_vocab_hit_SV"] = torch.zeros(4, 32)
    ours = tiny_tokenizer_like(vae)
    return var, {**ours, **vae}


def tiny_tokenizer_like(vae: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An encoder under the authors' names (which are ours) to go with a decoder."""
    from nextset.nn.autoencoder import AutoencoderConfig, Encoder

    encoder = Encoder(AutoencoderConfig(32, (1, 2), 1, 8, 32))
    state = {f"encoder.{n}": t for n, t in encoder.state_dict().items()}
    return state | {"quant_conv.weight": torch.randn(8, 8, 3, 3), "quant_conv.bias": torch.zeros(8)}


def test_flat_files_give_the_plain_implementation_s_pictures(states, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    var, vae = states
    torch.save(var, tmp_path / "g.pth")
    torch.save(vae, tmp_path / "t.pth")
    model = convert([tmp_path / "g.pth", tmp_path / "t.pth"], sides=SIDES)
    labels, u = torch.tensor([3, 5]), torch.rand(2, 30, generator=torch.Generator().manual_seed(0))
    run = Run.of(model.job(labels, guidance_scale=2.0, top_k=20, top_p=0.9), Tape({"draw": u}))
    images = finish(run)
    ids, expected, _ = PlainVar(var, vae, SIDES, 2).generate(labels, u, 2.0, 20, 0.9)
    assert torch.equal(run.codes(), ids)
    torch.testing.assert_close((images + 1) / 2, expected, atol=1e-4, rtol=1e-4)
    folder = pretrained.save(tmp_path / "m", model)
    assert torch.equal(pretrained.load(folder).model.word.weight, model.word.weight)


def test_the_trainer_s_wrapper_is_unwrapped(states, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    var, vae = states
    wrapped = {
        "epoch": 3,
        "iter": 7,
        "trainer": {"config": {"lr": 1.0}, "var_wo_ddp": var, "vae_local": vae},
        "args": argparse.Namespace(bs=8),
    }
    torch.save(wrapped, tmp_path / "ar-ckpt.pth")
    model = convert([tmp_path / "ar-ckpt.pth"], sides=SIDES)
    assert torch.equal(model.word.weight, var["word_embed.weight"])
    assert torch.equal(model.tokenizer.quantiser.codebook.weight, vae["quantize.embedding.weight"])


def test_released_plans_are_known_by_their_length() -> None:
    from nextset.systems.var.convert import generator_config

    var, _ = random_state(1, width=64, heads=1, classes=3, vocabulary=8, channels=32, multipliers=(1,), blocks=1)
    config = generator_config(var)
    assert config.sides[-1] == 16
    assert (config.depth, config.width, config.heads, config.classes) == (1, 64, 1, 3)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("d16", 310_283_520),
        ("d20", 600_917_136),
        ("d24", 1_033_399_360),
        ("d30", 2_010_020_356),
        ("d36-s", 2_353_893_904),
    ],
)
def test_every_released_size_has_its_parameters(name: str, params: int) -> None:
    from nextset.hub.catalogue import get_record
    from nextset.systems.var import Var, VarConfig

    size = next(s for s in get_record("var").sizes if s.name == name)
    sides = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32) if size.pixels == 512 else VarConfig().sides
    with torch.device("meta"):
        model = Var(
            VarConfig(
                depth=size.depth, width=size.width, heads=size.heads, sides=sides, shared_adaln=name.endswith("-s")
            )
        )
    assert sum(p.numel() for p in model.parameters()) == params == size.params


def test_the_plan_of_the_record_is_the_plan_of_the_model() -> None:
    from nextset.core.plans import scale_pyramid
    from nextset.hub.catalogue import get_record
    from nextset.systems.var import VarConfig

    plan, record = scale_pyramid(VarConfig().sides), get_record("var")
    assert record.plan is not None and record.tokenizer is not None
    assert (len(plan), plan.positions) == (record.plan.steps, record.tokenizer.tokens_256)


class Evil:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, ("touch /tmp/nextset-was-here",)


def hostile(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.pth" for name in ("code", "sparse", "stride", "cut", "text", "deep", "wrong")}
    torch.save({"a": Evil()}, files["code"])
    torch.save(
        {
            "a": torch.sparse_coo_tensor(
                torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2**40,), check_invariants=False
            )
        },
        files["sparse"],
    )
    torch.save({"pos_1LC": torch.ones(1).expand(2**40)}, files["stride"])
    torch.save({"a": torch.ones(100)}, files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:300])
    files["text"].write_bytes(b"hello")
    nested: object = torch.ones(1)
    for _ in range(40):
        nested = {"a": nested}
    torch.save(nested, files["deep"])
    torch.save({"some.weight": torch.ones(3)}, files["wrong"])
    return files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("code", "contains code"),
        ("sparse", "sparse tensors"),
        ("stride", "claims"),
        ("cut", "cut short"),
        ("text", "no zip archive"),
        ("deep", "nested"),
        ("wrong", "no part of"),
    ],
)
def test_hostile_files_are_refused_in_one_line(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(NextsetError, match=message) as error:
        convert([hostile(tmp_path)[name]])
    assert "\n" not in str(error.value)
    assert not Path("/tmp/nextset-was-here").exists()


def test_wrong_shapes_are_named(states, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    var, _ = states
    torch.save({**var, "blocks.1.attn.proj.weight": torch.zeros(32, 31)}, tmp_path / "g.pth")
    with pytest.raises(NextsetError, match=r"blocks\.1\.attn\.proj\.weight has shape"):
        convert([tmp_path / "g.pth"], sides=SIDES)
    torch.save(var, tmp_path / "g.pth")
    with pytest.raises(NextsetError, match="no released plan"):
        convert([tmp_path / "g.pth"])
    with pytest.raises(NextsetError, match="make 14 positions"):
        convert([tmp_path / "g.pth"], sides=(1, 2, 3))


def test_mixed_plain_content_is_kept(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "n": 3, "args": argparse.Namespace(x=1)}, tmp_path / "x.pth")
    assert read_torch(tmp_path / "x.pth")["args"].x == 1


def test_a_generator_without_tokenizer_says_so() -> None:
    model = tiny_model()
    model._outside.clear()
    with pytest.raises(NextsetError, match="no tokenizer"):
        model.job(torch.tensor([1]))
