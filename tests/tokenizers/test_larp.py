"""The video tokenizer: shapes and layout, ids by the nearest code, its training terms and draws, its released file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.core.spec import VideoSpec
from nextset.hub import pretrained
from nextset.pipelines import reconstruct
from nextset.tokenizers.clips import frames_of
from nextset.tokenizers.larp import Larp, LarpConfig
from nextset.tokenizers.larp_files import TABLE, larp_config, larp_part, load_larp
from nextset.tokenizers.objective import ObjectiveConfig

TINY = LarpConfig(frames=4, size=8, patch=(2, 4), grid=(2, 1, 3), width=16, depth=1, heads=2, channels=4, vocabulary=12)


def make(config: LarpConfig = TINY, **objective: float) -> Larp:
    torch.manual_seed(0)
    return Larp(config, ObjectiveConfig(**{"gradient": 0.0, "vq": 0.1, **objective})).eval()  # type: ignore[arg-type]


def clips(n: int = 2, config: LarpConfig = TINY) -> Tensor:
    shape = (n, 3, config.frames, config.size, config.size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def released(model: Larp, **more: Tensor) -> dict[str, Tensor]:
    """A file of the authors' names and shapes for a model: the converter's table, read backwards."""
    ours = pretrained.published_state(model)
    theirs = {
        "encoder.embed.weight": "x_embedder.proj.weight", "encoder.embed.bias": "x_embedder.proj.bias",
        "encoder.positions": "encoder_patch_pe", "encoder.queries": "encoder_latent_query_embed",
        "to_code.weight": "bottleneck.in_linear.weight", "to_code.bias": "bottleneck.in_linear.bias",
        "from_code.weight": "bottleneck.out_linear.weight", "from_code.bias": "bottleneck.out_linear.bias",
        "quantiser.codebook.weight": "bottleneck.regularizer.embedding.weight",
        "decoder.positions": "decoder_latent_pe", "decoder.queries": "decoder_patch_query_embed",
        "decoder.kind": "decoder_patch_query_token_type_embed",
        "decoder.norm.weight": "final_layer.norm_final.weight", "decoder.norm.bias": "final_layer.norm_final.bias",
        "decoder.pixels.weight": "final_layer.linear.weight", "decoder.pixels.bias": "final_layer.linear.bias",
    }  # fmt: skip
    state = {theirs.get(name, name): tensor for name, tensor in ours.items()}
    (frames, pixels), width = model.config.patch, model.config.width
    state["x_embedder.proj.weight"] = state["x_embedder.proj.weight"].view(width, 3, frames, pixels, pixels)
    for name in ("encoder_patch_pe", "decoder_latent_pe", "decoder_patch_query_embed"):
        state[name] = state[name][None]
    return {**state, "prior_model.wte.weight": torch.zeros(2), **more}


def test_videos_to_ids_and_back() -> None:
    model = make()
    ids, z = model.encode(clips()), model.features(clips())
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(2, 6))
    assert ids.shape == (2, 6) and torch.equal(ids, (z @ model.quantiser.codes.T).argmax(-1))
    again = model.decode(ids)
    assert again.shape == (2, 3, 4, 8, 8) and again.dtype == torch.float32 and again.abs().max() <= 1
    spec = model.spec
    assert isinstance(spec, VideoSpec) and (spec.frames, spec.size, spec.grid, spec.tokens) == (4, (8, 8), (2, 1, 3), 6)
    result = reconstruct(model, clips())
    assert torch.equal(result.scales[0], again) and result.psnr[0].shape == (2,)


def test_patches_are_cut_and_painted_where_they_lie() -> None:
    """Encoder: a patch reads its own pixels alone, channel before frame before row. Decoder: colours last."""
    model, config = make(), TINY
    reads, videos = model.encoder.embed.register_forward_pre_hook, clips(1)
    seen: list[Tensor] = []
    handle = reads(lambda module, given: seen.append(given[0]))
    model.features(videos)
    handle.remove()
    scaled = (videos + 1) / 2
    expected = [scaled[0, :, t : t + 2, y : y + 4, x : x + 4].flatten() for t in (0, 2) for y in (0, 4) for x in (0, 4)]
    torch.testing.assert_close(seen[0][0], torch.stack(expected))
    colours = torch.arange(8.0)[:, None] + torch.tensor([0.0, 0.1, 0.2]).repeat(
        2 * 4 * 4
    )  # of patch p, colour c: p + c / 10
    made = model.decoder
    handle = made.pixels.register_forward_hook(lambda module, given, found: colours[None])
    video = made(torch.zeros(1, config.tokens, config.width))
    handle.remove()
    assert video.shape == (1, 3, 4, 8, 8)
    for p, (t, y, x) in enumerate((t, y, x) for t in (0, 2) for y in (0, 4) for x in (0, 4)):
        for c in range(3):
            assert (video[0, c, t : t + 2, y : y + 4, x : x + 4] == colours[p, c]).all()


def test_frames_are_pictures_in_order() -> None:
    videos = clips()
    assert torch.equal(frames_of(videos)[5], videos[1, :, 1])


def test_a_decoder_of_another_size() -> None:
    config = TINY.replace(decoder_patch=(4, 2), decoder_width=8, decoder_depth=2, decoder_heads=1)
    assert make(config).decode(make(config).encode(clips())).shape == (2, 3, 4, 8, 8)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"frames": 5}, "a divisor of 5 frames"),
        ({"decoder_patch": (2,)}, "frames and pixels of a patch, or nothing"),
        ({"heads": 3}, "a divisor of 16"),
        ({"decoder_width": 18}, "decoder_heads is"),
        ({"grid": (0, 1, 1)}, "three sides"),
        ({"temperature": float("nan")}, "at least 0"),
        ({"block_norm_eps": 0.0}, "above 0"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict, line: str) -> None:
    with pytest.raises(NextsetError, match=line):
        TINY.replace(**changes)


def test_other_clips_and_ids_are_refused() -> None:
    model = make()
    with pytest.raises(NextsetError, match="a clip is 3x8x8, but this tokenizer reads 3x4x8x8"):
        model.encode(clips()[:, :, 0])
    with pytest.raises(NextsetError, match="but a clip has 6 of them"):
        model.decode(torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(NextsetError, match="upto is 2"):
        model.decode(torch.zeros(1, 6, dtype=torch.int64), upto=2)


def test_training_terms_and_gradients() -> None:
    model = make().train()
    (update,) = model.updates({"images": clips()}, 0, Noise(0))
    vq, commit = update.parts["vq"], update.parts["commit"]
    torch.testing.assert_close(update.loss, update.parts["l1"] + 0.1 * (vq + 0.25 * commit))
    update.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.usage.hits.sum() > 0


def test_ids_are_drawn_in_training_and_nearest_otherwise() -> None:
    """The draw is a function of (seed, step); its shares are those of softmax(cosine / temperature)."""
    model = make(TINY.replace(temperature=0.5, grid=(40, 10, 10))).train()
    with torch.no_grad():
        z = model.features(clips(1))
    drawn = model._drawn(z, 3, Noise(0))
    assert torch.equal(drawn, model._drawn(z, 3, Noise(0))) and not torch.equal(drawn, model._drawn(z, 4, Noise(0)))
    expected = (z @ model.quantiser.codes.T / 0.5).softmax(-1).mean((0, 1))
    found = torch.bincount(drawn.flatten(), minlength=12) / drawn.numel()
    assert (found - expected).abs().max() < 4 * (0.25 / drawn.numel()) ** 0.5
    sure = make().train()
    sure.config = TINY.replace(temperature=0.0)
    with torch.no_grad():
        assert torch.equal(sure._drawn(sure.features(clips()), 0, Noise(0)), sure.encode(clips()))


def test_a_critic_judges_frames() -> None:
    model = make(TINY.replace(size=16, patch=(2, 8)), adversarial=0.3, critic_layers=1, critic_channels=8).train()
    names = [(u.name, u.group) for u in model.updates({"images": clips(2, model.config)}, 0, Noise(0))]
    assert names == [("tokenizer", "main"), ("critic", "critic")] and "critic" in model.parameter_groups()


def test_a_model_folder_keeps_ids_and_tables(tmp_path: Path) -> None:
    model = make()
    with torch.no_grad():
        model.encoder.positions.add_(0.01)  # tables are stored, not computed again
    again = pretrained.load(pretrained.save(tmp_path / "model", model)).model
    assert type(again) is Larp and again.config == model.config
    assert torch.equal(again.encode(clips()), model.encode(clips()))
    assert torch.equal(again.encoder.positions, model.encoder.positions)


def test_a_released_file_is_read(tmp_path: Path) -> None:
    model = make()
    state = released(model)
    again = load_larp(state, frames=4, heads=2)
    assert again.config == TINY.replace(grid=(1, 1, 6), decoder_width=0)
    torch.testing.assert_close(again.decode(again.encode(clips())), model.decode(model.encode(clips())))
    wrapped = {f"model.{name}": tensor for name, tensor in state.items()}
    part = larp_part(wrapped)
    assert (
        part is not None and part.keys() == state.keys() and larp_part({"quantize.embedding.weight": clips()}) is None
    )
    save_file(wrapped, tmp_path / "larp.safetensors")
    assert set(TABLE.rename(state)) == set(pretrained.published_state(model))


def test_sizes_of_a_file_and_what_no_tensor_tells() -> None:
    square = make(TINY.replace(grid=(2, 2, 2), decoder_width=8, decoder_heads=2, decoder_depth=2))
    state = released(square)
    assert larp_config(state, frames=4, heads=2, decoder_heads=2) == square.config
    for changes, line in (
        ({"frames": 6}, "frames is 6, but 8 patches of 2 frames"),
        ({"frames": 4}, "the width is 16, as of no release.*heads=12"),
        ({"frames": 4, "heads": 2}, "--set decoder_heads=12"),
        ({"frames": 4, "heads": 2, "decoder_heads": 2, "decoder_patch": (4, 4)}, "--set decoder_patch"),
    ):
        with pytest.raises(NextsetError, match=line):
            larp_config(state, **changes)
    with pytest.raises(NextsetError, match="lacks 'encoder_patch_pe'; is it cut short"):
        larp_config({n: t for n, t in state.items() if n != "encoder_patch_pe"}, frames=4, heads=2)
    with torch.device("meta"):
        large = Larp(LarpConfig())
    outline = {n: t for n, t in released(large).items()}
    assert larp_config(outline) == LarpConfig()
    assert 170e6 < sum(p.numel() for p in large.parameters()) < 175e6  # the sheet: 173M
