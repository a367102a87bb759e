"""What is VAR's own: its options in training, its edit mask, its errors."""

from __future__ import annotations

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.events import StepDone
from nextset.core.noise import Noise
from nextset.engine.run import Run, proceed
from nextset.systems.var import Var, VarConfig
from tests.battery.instances import instance
from tests.tiny import tiny_model


def batch(model: Var) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 32, (2, 4, 30), generator=generator)
    codes = torch.cat([model.tokenizer.encode(model.tokenizer.decode(i)) for i in ids]).view(2, 4, 30)
    return {"codes": codes[0], "peers": codes[1], "labels": torch.tensor([1, 2, 3, 4]), "index": torch.arange(4)}


def test_corruption_replaces_codes_by_those_of_the_peers_and_explains_the_rest() -> None:
    model = tiny_model()
    model.config = model.config.replace(corruption=0.9)
    b = batch(model)
    targets, seen = model.corrupted(b["codes"], b["peers"], b["index"], Noise(0))
    swapped = seen != targets
    assert swapped.any() and not swapped.all()
    assert (seen[swapped] == b["peers"][swapped]).all()
    # the last scale's targets are the codes nearest to what the seen ones leave of the picture
    rest = model.tokenizer.f_hat(b["codes"]) - model.tokenizer.f_hat(seen, upto=3)
    nearest = model.tokenizer.quantiser.codebook.nearest(rest.flatten(2).transpose(1, 2))
    assert torch.equal(nearest, targets[:, 14:])


def test_without_corruption_the_peers_do_not_matter() -> None:
    model = tiny_model().train()
    b = batch(model)
    one = next(model.updates(b, 0, Noise(0))).loss
    torch.manual_seed(0)
    other = next(model.updates({**b, "peers": b["codes"]}, 0, Noise(0))).loss
    assert model.config.corruption == 0
    torch.testing.assert_close(one, other, atol=0.2, rtol=0.1)  # drop path alone differs


def test_scales_of_up_to_three_cells_stay_whole() -> None:
    model = tiny_model()
    keep = model.keep_mask(torch.zeros(4, 4))
    assert keep.tolist() == [True] + [False] * 29


@pytest.mark.parametrize(
    "values", [{"heads": 3}, {"sides": (4, 2)}, {"label_drop": 1.5}, {"vocabulary": 1}, {"depth": 0}]
)
def test_sizes_that_do_not_fit_are_refused(values: dict) -> None:
    with pytest.raises(NextsetError, match=next(iter(values))):
        VarConfig().replace(**values)


def test_class_ids_out_of_range_are_refused() -> None:
    with pytest.raises(NextsetError, match="between 0 and 9"):
        tiny_model().job(torch.tensor([11]))


def test_the_raster_baseline_asks_for_a_forward_a_token_and_scales_for_one_a_scale() -> None:
    for name, forwards in (("var", 3), ("var:raster", 9)):
        it = instance(name)
        run = Run.of(it.job(torch.arange(2)), Noise(0), torch.arange(2))
        calls = 0
        for event in proceed(run):
            calls += isinstance(event, StepDone)
        assert calls == forwards


def test_the_raster_baseline_is_one_map_without_the_options_of_scales() -> None:
    for wrong in ({"sides": (1, 2)}, {"sides": (4,), "corruption": 0.5}, {"sides": (4,), "progressive": 0.5}):
        with pytest.raises(NextsetError, match="raster is True, but must be"):
            VarConfig(raster=True, **wrong)


def test_the_raster_baseline_never_sees_a_later_token() -> None:
    model = instance("var:raster").model
    codes = torch.randint(0, 24, (2, 9), generator=torch.Generator().manual_seed(1))
    other = codes.clone()
    other[:, 5] = (other[:, 5] + 1) % 24
    logits = []
    with torch.no_grad():
        for ids in (codes, other):
            canvas = model.canvas(2)
            canvas.pin(ids, torch.ones(9, dtype=torch.bool))
            logits.append(model.teacher_forced(canvas, torch.tensor([0, 1])))
    changed = (logits[0] != logits[1]).any(-1).any(0)
    assert changed.tolist() == [False] * 6 + [True] * 3
