"""What SAR's own is: two passes, what flows through them, and which network they train."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from nextset.core.errors import NextsetError
from nextset.core.noise import Noise
from nextset.hub import pretrained
from nextset.systems.flexvar import FlexVar
from nextset.systems.flexvar.convert import components as flexvar_components
from nextset.systems.sar import Sar, SarConfig
from nextset.systems.sar.convert import components, post_trained
from nextset.systems.sar.model import Passes, SarFlex
from nextset.systems.var import Var, VarConfig
from nextset.training.recipes import load_recipe
from tests.battery.instances import instance

SAMPLES = torch.arange(4)


def batch(name: str = "sar", samples: torch.Tensor = SAMPLES) -> dict[str, Any]:
    make = instance(name).batch
    assert make is not None
    return make(samples)


def changed(name: str = "sar", **settings: Any) -> Sar:
    """The instance's weights under other settings."""
    model: Sar = instance(name).model  # type: ignore[assignment]
    other = Sar(model.config.replace(**settings), model._outside["tokenizer"])
    other.load_state_dict(model.state_dict())
    return other.eval()


def passes(model: Sar, name: str = "sar") -> Passes:
    b = batch(name)
    return model.passes(b["codes"], b["labels"], b["index"], Noise(0))


def gradients(model: torch.nn.Module, b: dict[str, Any], step: int = 0) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for update in model.updates(b, step, Noise(0)):  # type: ignore[operator]
        update.loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def plain(name: str) -> tuple[Var, Sar]:
    """A model, and SAR's on its weights with sigma 0."""
    base = instance(name).model
    wanted = "sar" if name == "flexvar" else "sar:var"
    model = changed(wanted, sigma=0.0)
    model.load_state_dict(base.state_dict())
    return base, model  # type: ignore[return-value]


# ---- the objective


@pytest.mark.parametrize("name", ["flexvar", "var"])
@pytest.mark.parametrize("training", [False, True])
def test_without_its_weight_a_step_is_that_of_the_model_it_trains(name: str, training: bool) -> None:
    """Same loss, same gradients; in training with the same sides and dropped labels."""
    models = plain(name)
    found = []
    for model in models:
        model.train(training)
        for block in model.layers:
            block.drop_path.eval()
        found.append([gradients(model, batch(name, torch.arange(16)), step) for step in range(3)])
        model.eval()
    for a, b in zip(*found, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], msg=key)


@pytest.mark.parametrize(
    ("settings", "forwards"),
    [({}, 2), ({"ssr": "all"}, 2), ({"rollout": "sampled"}, 3), ({"rollout": "sampled", "rollout_guidance": 1.0}, 2)],
)
def test_a_step_is_two_forwards_and_one_more_where_the_rollout_is_guided(
    settings: dict[str, Any], forwards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, trunk = [0], SarFlex.trunk

    def counted(self: SarFlex, *args: Any) -> torch.Tensor:
        count[0] += 1
        return trunk(self, *args)

    monkeypatch.setattr(SarFlex, "trunk", counted)
    passes(changed(**settings))
    assert count[0] == forwards


@pytest.mark.parametrize("name", ["sar", "sar:var"])
def test_no_gradient_flows_through_the_prediction(name: str) -> None:
    """The student's loss has the gradients of the second pass alone, its inputs and targets being constants."""
    model = changed(name, ssr="all")
    p = passes(model, name)
    assert p.predicted is not None and not p.predicted.requires_grad
    p.loss_student.backward()
    found = {n: q.grad for n, q in model.named_parameters() if q.grad is not None}
    model.zero_grad(set_to_none=True)
    logits = model.teacher_forced(model.given(p.predicted), batch(name)["labels"])
    torch.nn.functional.cross_entropy(logits[:, 1:].flatten(0, 1), p.predicted[:, 1:].flatten()).backward()
    for n, q in model.named_parameters():
        if q.grad is not None:
            torch.testing.assert_close(found[n], q.grad, msg=n)


@pytest.mark.parametrize("ssr", ["last", "all"])
def test_the_second_pass_is_held_to_the_first_or_to_the_truth(ssr: str) -> None:
    losses = {t: passes(changed(ssr=ssr, target=t)) for t in ("teacher", "gt")}
    assert losses["teacher"].loss_teacher == losses["gt"].loss_teacher
    assert losses["teacher"].loss_student != losses["gt"].loss_student
    student = losses["gt"].student
    assert student is not None and student.shape[1] == (9 if ssr == "last" else 14)
    wanted = batch()["codes"][:, -9 if ssr == "last" else 1 :]
    logits = student if ssr == "last" else student[:, 1:]
    torch.testing.assert_close(
        losses["gt"].loss_student, torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
    )


def test_the_last_scale_alone_knows_the_prediction_before_it_and_the_class() -> None:
    """No start vector, no other scales: the authors' second pass."""
    model = changed()
    p = passes(model)
    assert p.predicted is not None and p.student is not None
    other = p.predicted.clone()
    other[:, 0] = (other[:, 0] + 1) % 24  # the first scale
    labels = batch()["labels"]
    with torch.no_grad():
        again = model.student(other, labels)
        torch.testing.assert_close(again, p.student)
        model.start += 1.0
        torch.testing.assert_close(model.student(p.predicted, labels), p.student)
        other[:, 1] = (other[:, 1] + 1) % 24
        assert (model.student(other, labels) - p.student).abs().max() > 1e-4
    assert model.order.sides == [(1, 1), (2, 2), (3, 3)] and isinstance(model.start, torch.nn.Parameter)


def test_a_list_of_one_side_has_no_second_pass() -> None:
    model = changed().at([3])  # type: ignore[attr-defined]
    b = batch()
    p = model.passes(b["codes"][:, 5:], b["labels"], b["index"], Noise(0))
    assert p.student is None and p.loss == p.loss_teacher


def test_a_sampled_rollout_is_a_function_of_the_sample() -> None:
    model = changed("sar:var")
    b, c = batch("sar:var", torch.arange(4)), batch("sar:var", torch.tensor([2]))
    whole = model.passes(b["codes"], b["labels"], b["index"], Noise(0)).predicted
    alone = model.passes(c["codes"], c["labels"], c["index"], Noise(0)).predicted
    assert whole is not None and alone is not None and torch.equal(whole[2:3], alone)
    other = model.passes(b["codes"], b["labels"], b["index"], Noise(1)).predicted
    assert other is not None and not torch.equal(other, whole)


def test_an_argmax_rollout_takes_the_likeliest_of_the_first_pass() -> None:
    p = passes(changed())
    assert p.null is None and p.predicted is not None and torch.equal(p.predicted, p.teacher.argmax(-1))


@pytest.mark.parametrize("name", ["sar", "sar:var"])
def test_the_gap_is_that_of_inputs(name: str) -> None:
    model, b = changed(name), batch(name, torch.arange(16))
    found = model.gap(b["codes"], b["labels"], b["index"], Noise(0))
    assert set(found) == {"teacher_forced", "rolled_out"} and found["rolled_out"] != found["teacher_forced"]
    logits = model.teacher_forced(model.given(b["codes"]), b["labels"])[:, 1:]
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), b["codes"][:, 1:].flatten())
    torch.testing.assert_close(found["teacher_forced"], wanted)


# ---- what is trained


def test_the_network_is_the_one_that_the_config_names(tmp_path: Path) -> None:
    assert isinstance(instance("sar").model, FlexVar) and not isinstance(instance("sar:var").model, FlexVar)
    for name, kind in (("sar", SarFlex), ("sar:var", Sar)):
        folder = pretrained.save(tmp_path / name.replace(":", "-"), instance(name).model)
        assert type(pretrained.load(folder).model) is kind


def test_weights_are_those_of_the_model_that_is_trained() -> None:
    base: FlexVar = instance("flexvar").model  # type: ignore[assignment]
    model = post_trained(base, sigma=0.2)
    assert type(model) is SarFlex and model.config.sigma == 0.2 and model.tokenizer.config.sides == (1, 2, 3)
    state = base.state_dict()
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in state.items()}
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize(("name", "base"), [("sar-cifar10", "flexvar-cifar10"), ("sar-cifar10-var", "var-cifar10")])
def test_the_recipes_go_on_with_their_bases(name: str, base: str) -> None:
    sizes = {"classes": 10, "vocabulary": 32, "channels": 16, "sides": (1, 2, 3, 4, 6, 8)}
    recipe, other = load_recipe(name), load_recipe(base)
    assert recipe.system is not None and recipe.data["start"] == f"runs/{base}/model"
    assert recipe.data["tokenizer"] == other.data["tokenizer"]
    model = Sar(SarConfig.from_dict({**sizes, **recipe.model}))
    cls = FlexVar if model.config.on == "flexvar" else Var
    finished = cls(cls.config_type.from_dict({**sizes, **other.model}))
    assert model.load_state_dict(finished.state_dict()) and recipe.train.steps * 10 == other.train.steps


def test_files_look_like_those_of_the_base_and_must_be_asked_for() -> None:
    places = torch.zeros(1, 32, 4, 4)
    state = {"pos_1LC": places, "word_embed.weight": torch.zeros(32, 4)}
    assert components(state) == {} and set(flexvar_components(state)) == {"generator"}
    assert set(components(state, asked=True)) == {"generator"}


@pytest.mark.parametrize(
    "values",
    [
        {"ssr": "last", "on": "var"}, {"sigma": -1.0}, {"rollout": "beam"}, {"target": "student"},
        {"rollout_top_p": 1.5}, {"rollout_top_k": -1}, {"rollout_guidance": -1.0},
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(NextsetError, match=next(iter(values))):
        SarConfig(**values)


def test_the_config_has_every_field_of_what_it_trains() -> None:
    own = {f.name for f in dataclasses.fields(SarConfig)}
    assert {f.name for f in dataclasses.fields(VarConfig)} < own
