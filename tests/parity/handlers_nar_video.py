"""How the case of the video tokenizer of `nar` is computed with nextset; `handlers_nar` hands it on."""

from __future__ import annotations

from torch import Tensor

from nextset.tokenizers.larp import Larp
from nextset.tokenizers.larp_files import load_larp
from tests.parity.cases import Case


def tokenizer(case: Case) -> Larp:
    a = case.args
    model = load_larp(
        case.weights,
        frames=a["frame_num"],
        heads=a["encoder_num_heads"],
        decoder_heads=a["decoder_num_heads"],
        decoder_patch=(a["decoder_temporal_patch_size"], a["decoder_patch_size"]),
    )
    c = model.config
    assert (c.size, c.patch) == (a["input_size"], (a["temporal_patch_size"], a["patch_size"]))
    assert (c.tokens, c.channels, c.vocabulary) == (a["bottleneck_token_num"], a["bottleneck_dim"], a["codebook_size"])
    assert c.encoder[:2] == (a["encoder_hidden_size"], a["encoder_depth"])
    assert c.decoder[:2] == (a["decoder_hidden_size"], a["decoder_depth"])
    return model


def encode_and_decode(case: Case) -> dict[str, Tensor]:
    """The authors' range of pixels is [0, 1]."""
    model, videos = tokenizer(case), case.inputs["video"] * 2 - 1
    ids = model.encode(videos)
    again = model.decode_features(model.quantiser.embed(ids))
    return {"normalised_z": model.features(videos), "indices": ids, "recon": (again + 1) / 2}


HANDLERS = {"tokenizer": encode_and_decode}
