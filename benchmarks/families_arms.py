"""What `compare_families.py` compares, as data: a line an arm. Adding one is adding a line.

An arm is a generator's recipe on the codes of a tokenizer's recipe. How it is sampled stands in the recipe's [sample]; its
size is fitted here, so that all arms have the same number of parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from nextset.core.errors import NextsetError, nearest
from nextset.hub import pretrained
from nextset.hub.requests import sizes_of
from nextset.training.recipes import Recipe, list_recipes, load_recipe

PARAMETERS = 3_100_000  # of a generator, unless asked otherwise: about those of the recipes
CLASSES = 10
NEAR, CLOSE = 0.02, 0.05  # shares by which an arm's parameters may miss what is asked: unnoticed, and at most
UNASKED = ("store", "prompts", "guidance_scale")  # entries of [sample] that are no settings here
KL = "mar-cifar10-tokenizer"  # of all systems of continuous tokens


class Arm(NamedTuple):
    """A generator as it is compared. recipe, tokenizer: names of recipes. changes: of the recipe, beside its size.
    guidance: what is tried; every arm gets as many values, of the same strengths."""

    name: str
    recipe: str
    tokenizer: str
    changes: tuple[str, ...] = ()
    guidance: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)  # the class's weight; 1 = none


ARMS = (
    Arm("VAR", "var-cifar10", "var-cifar10-tokenizer", guidance=(0.0, 0.5, 1.0, 2.0)),  # counts from 0 = none
    Arm("LlamaGen", "llamagen-cifar10", "llamagen-cifar10-tokenizer"),
    Arm("MAR", "mar-cifar10", KL),
    Arm("xAR token", "xar-cifar10", KL, ("model.entity=token",)),
    Arm("xAR cell", "xar-cifar10", KL, ("model.entity=cell",)),
    Arm("xAR scale", "xar-cifar10", KL, ("model.entity=scale",)),
    Arm("FlowAR", "flowar-cifar10", KL),
)


def chosen(names: Sequence[str] | None, arms: Sequence[Arm] = ARMS) -> tuple[list[Arm], dict[str, list[str]]]:
    """(arms that can be run, {recipe that is not there: arms that need it}). An arm that was asked for by its name and
    lacks a recipe is refused; without names, those that lack one are left out."""
    by_name = {arm.name: arm for arm in arms}
    for name in names or ():
        if name not in by_name:
            raise NextsetError(f"no arm is called {name!r}: {nearest(name, by_name)}")
    asked = list(arms) if names is None else [by_name[name] for name in dict.fromkeys(names)]
    known, missing = set(list_recipes()), dict[str, list[str]]()
    for arm in asked:
        for recipe in {arm.recipe, arm.tokenizer} - known:
            missing.setdefault(recipe, []).append(arm.name)
    left = [arm for arm in asked if not any(arm.name in of for of in missing.values())]
    if missing and (names is not None or not left):
        raise NextsetError(f"{without(missing)}; leave them out, or put the recipes into ./recipes")
    return left, missing


def without(missing: Mapping[str, Sequence[str]]) -> str:
    """One line about arms that lack a recipe."""
    return "; ".join(
        f"recipe {recipe} is not here, which {' and '.join(arms)} need" for recipe, arms in missing.items()
    )


def coder_of(recipe: Recipe, device: str = "meta") -> Any:
    """The tokenizer of a recipe with its initial weights; by default without any, for its sizes."""
    settings = {name: value for name, value in recipe.model.items() if name not in ("objective", "type")}
    cls = pretrained.class_of(pretrained.TOKENIZERS[recipe.model.get("type", "multiscale_vq")])
    with torch.device(device):
        return cls(cls.config_type.from_dict(settings))


def generator_of(recipe: Recipe, coder: Any, classes: int = CLASSES) -> Any:
    """The generator of a recipe on a tokenizer, with its initial weights."""
    assert recipe.system is not None
    cls = pretrained.system_class(recipe.system)
    fields = {field.name for field in dataclasses.fields(cls.config_type)}
    known = {name: value for name, value in {**sizes_of(cls, coder), "classes": classes}.items() if name in fields}
    return cls(cls.config_type.from_dict({**known, **recipe.model}))


def parameters(recipe: Recipe, coder: Any, classes: int = CLASSES) -> int:
    """Weights of a recipe's generator on a tokenizer; the tokenizer's are not counted."""
    with torch.device("meta"):
        return count(generator_of(recipe, coder, classes))


def count(module: torch.nn.Module) -> int:
    """All weights of a module."""
    return sum(p.numel() for p in module.parameters())


def sized(recipe: Recipe, coder: Any, target: int, classes: int = CLASSES) -> tuple[Recipe, int]:
    """The recipe with a width, and a depth next to its own, that give it `target` parameters; and how many they are.

    Its own depth is kept where that misses by 2 % or less, else the nearest counts. A recipe that misses by more than 5 %
    is refused. Widths are multiples of 4 x heads, so that rotary embeddings of two axes fit; other widths of the recipe, of
    its head say, grow with it.
    """
    own, found = recipe.model["depth"], list[tuple[int, Recipe]]()

    def miss(candidate: tuple[int, Recipe]) -> float:
        return abs(candidate[0] / target - 1)

    for depth in (own, own + 1, max(own - 1, 1)):
        found += _around(recipe, depth, lambda r: parameters(r, coder, classes), target)
        if min(map(miss, found)) <= NEAR:
            break
    number, best = min(found, key=miss)
    if miss((number, best)) > CLOSE:
        raise NextsetError(
            f"{recipe.name} comes to {number:,} parameters at its nearest, but must be within {CLOSE:.0%} of {target:,}; "
            "ask for another number of parameters"
        )
    return best, number


def _around(recipe: Recipe, depth: int, counted: Callable[[Recipe], int], target: int) -> list[tuple[int, Recipe]]:
    """The recipe at a depth with the widths that were tried on the way to `target` parameters, which grow about as the
    square of the width; those on both sides of it are among them."""
    unit = 4 * recipe.model["heads"]
    tried: dict[int, tuple[int, Recipe]] = {}

    def at(units: int) -> int:
        if units not in tried:
            share = units * unit / recipe.model["width"]
            others = {n: max(round(v * share / 8), 1) * 8 for n, v in recipe.model.items() if n.endswith("_width")}
            sizes = {**others, "depth": depth, "width": units * unit}
            changed = dataclasses.replace(recipe, model={**recipe.model, **sizes})
            tried[units] = counted(changed), changed
        return tried[units][0]

    units = max(recipe.model["width"] // unit, 1)
    for _ in range(4):
        units = max(round(units * math.sqrt(target / at(units))), 1)
    at(max(units + (1 if at(units) < target else -1), 1))
    return list(tried.values())


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """How a recipe is sampled, guidance aside."""
    return {name: value for name, value in recipe.sample.items() if name not in UNASKED}


def table_of_sizes(arms: Sequence[Arm], target: int) -> list[dict[str, Any]]:
    """Every arm's size, of its recipes alone: nothing is trained, and no data is needed."""
    rows = []
    for arm in arms:
        coder = coder_of(load_recipe(arm.tokenizer))
        recipe, number = sized(load_recipe(arm.recipe, arm.changes), coder, target)
        size = {name: recipe.model[name] for name in ("depth", "width", "heads")}
        rows.append({"arm": arm.name, **size, "parameters": number, "tokenizer_parameters": count(coder)})
    return rows
