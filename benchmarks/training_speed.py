"""Training steps of VAR recipes against a plain loop: dense mask, float32, eager, adaLN in every block.

    nextset bench training-speed -- --recipe var-emoji --pairs 5 --steps 8

A is the trainer with the recipe's own settings, B the plain loop: the same sizes, the same weights and batches, AdamW,
clipping and a running mean of weights. The first losses are compared in float32. Codes are cached on both sides.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.ab import ab, file_result, machine
from benchmarks.plain_var import PlainVar, random_state
from nextset.nn.autoencoder import channels_last
from nextset.systems.var.convert import load_generator, load_tokenizer, tokenizer_config
from nextset.training.recipes import load_recipe
from nextset.training.trainer import Trainer


class PlainLoop:
    """One training step as one would write it first."""

    def __init__(self, plain: PlainVar, lr: float, decay: float) -> None:
        self.plain, self.decay = plain, decay
        self.parameters = [t.requires_grad_() for t in plain.var.values()]
        self.mean = [t.detach().clone() for t in self.parameters]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0.05)

    def step(self, labels: torch.Tensor, codes: torch.Tensor) -> float:
        loss = self.plain.loss(labels, codes)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 2.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for mean, parameter in zip(self.mean, self.parameters, strict=True):
                mean.mul_(self.decay).add_(parameter, alpha=1 - self.decay)
        return float(loss)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="nextset bench training-speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", nargs="+", default=["var-emoji", "var-cifar10"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="training steps of one timing")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training-speed.json")
    options = parser.parse_args(arguments)
    console = Console()
    result: dict[str, Any] = {"machine": machine(), "rows": []}
    for name in options.recipe:
        recipe = load_recipe(name)
        tokenizer_recipe = load_recipe(f"{name}-tokenizer")
        sides, vocabulary = tokenizer_recipe.model["sides"], tokenizer_recipe.model["vocabulary"]
        sizes = {k: recipe.model[k] for k in ("depth", "width", "heads")}
        var, vae = random_state(
            **sizes,
            sides=sides,
            classes=options.classes,
            vocabulary=vocabulary,
            latent=16,
            channels=32,
            multipliers=(1,),
            blocks=1,
            shared=recipe.model.get("shared_adaln", False),
        )
        batch = recipe.train.batch
        generator = torch.Generator().manual_seed(0)
        codes = torch.randint(vocabulary, (batch, sum(s * s for s in sides)), generator=generator)
        labels = torch.randint(options.classes, (batch,), generator=generator)

        system = load_generator({k: v.clone() for k, v in var.items()}, sides)
        tokenizer = load_tokenizer(vae, tokenizer_config(vae, sides), optional=("encoder\\..*", "quant_conv\\..*"))
        system.attach(channels_last(tokenizer))  # type: ignore[arg-type]
        plain = PlainLoop(PlainVar(var, vae, sides, sizes["heads"]), recipe.train.lr, recipe.train.ema)
        # the sizes are the recipe's, the noise is off: dropped labels and paths would make the losses differ
        system.config = dataclasses.replace(system.config, label_drop=0.0, drop_path=0.0)
        for block in system.layers:
            block.drop_path.p = 0.0
        data = {"codes": codes, "labels": labels, "index": torch.arange(batch)}
        first = next(iter(system.updates(data, 0, None))).loss  # type: ignore[arg-type]
        both = (float(first), float(plain.plain.loss(labels, codes)))
        console.print(f"{name}: loss {both[0]:.6f}, plain {both[1]:.6f}")
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(system, lambda i, data=data: data, recipe.train, folder, console=Console(quiet=True))
            system.train()

            def ours(trainer: Trainer = trainer) -> None:
                for _ in range(options.steps):
                    trainer._one_step()

            def theirs(plain: PlainLoop = plain, labels: Any = labels, codes: Any = codes) -> None:
                for _ in range(options.steps):
                    plain.step(labels, codes)

            timing = ab(ours, theirs, options.pairs)
        ratio, rate = timing["ratio"], batch * options.steps / timing["a"]["wall"]
        console.print(
            f"{name}: {timing['a']['wall'] / options.steps * 1000:.0f} ms a step of {batch} ({rate:.0f} images/s), plain "
            f"{timing['b']['wall'] / options.steps * 1000:.0f} ms; plain / nextset in CPU-seconds "
            f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        )
        result["rows"].append({"recipe": name, "losses": both, "steps": options.steps, "batch": batch, **timing})
        file_result(options.out, result)
    console.print(f"filed in {options.out}")
