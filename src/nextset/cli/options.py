"""Options and small steps that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from nextset.core.errors import NextsetError

if TYPE_CHECKING:  # torch is loaded when a command needs it: --help need not wait
    from nextset.core.masks import Box

console = Console(stderr=True, highlight=False)

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Model folder, packaged name or hub name; the packaged default when left out."),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed", "-s", help="Every picture is a function of the seed, its index, its class and the settings."
    ),
]
Cfg = Annotated[
    float | None,
    typer.Option(
        "--cfg", help="Guidance; none is 0 for most models of classes, 1 for those of text. Default: the model's."
    ),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", help="Keep the k likeliest tokens; 0 = all. Default: the model's.")
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", help="Keep the likeliest tokens up to this mass; 0 = all. Default: the model's."),
]
Smooth = Annotated[bool, typer.Option("--more-smooth", help="Mix codes instead of choosing one: smoother pictures.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="A setting of the model's own, as name=value, such as steps=32; repeat it for several."),
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="float32 (same picture on every machine), bfloat16, or auto: fast.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]
Offload = Annotated[
    bool, typer.Option("--offload", help="Keep the blocks in the CPU's memory; they come to the device one by one.")
]
Compile = Annotated[
    bool,
    typer.Option("--compile", help="Compile the step of a model that goes token by token; pays for many pictures."),
]
Threads = Annotated[int, typer.Option("--threads", help="CPU threads; 0 = as torch likes.")]


def sampling(cfg: float | None, top_k: int | None, top_p: float | None, more_smooth: bool = False) -> dict[str, Any]:
    """The sampling settings that were given."""
    given = {"guidance_scale": cfg, "top_k": top_k, "top_p": top_p}
    settings = {k: v for k, v in given.items() if v is not None}
    return {**settings, "more_smooth": True} if more_smooth else settings


def named(texts: list[str] | None, example: str, taken: tuple[str, ...] = ()) -> dict[str, Any]:
    """What was given by --set, values as in a recipe. taken: names that are set otherwise."""
    from nextset.training.recipes import parse_value

    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in taken:
            raise NextsetError(f"--set has {text!r}, but must be name=value, such as {example}")
        found[name] = parse_value(value)
    return found


def use(device: str, threads: int) -> None:
    """Check the device, and give torch its threads."""
    import torch

    if threads < 0:
        raise NextsetError(f"threads is {threads}, but must be at least 0")
    if threads:
        torch.set_num_threads(threads)
    try:
        torch.device(device)
    except RuntimeError as error:
        raise NextsetError(f"device is {device!r}, which torch does not know; use cpu or cuda") from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise NextsetError(f"device is {device!r}, but no CUDA device is there; use cpu")


def load_pipeline(
    model: str | None, dtype: str, device: str, threads: int, asked_with: str = "class", offload: bool = False
) -> Any:
    """The pipeline of the common options. asked_with: which packaged model is the default."""
    from nextset.hub.pretrained import default_model
    from nextset.pipelines import Locator, load

    use(device, threads)
    pipe = load(model or default_model(asked_with), dtype=dtype, device=device, offload=offload)
    if isinstance(pipe, Locator):
        raise NextsetError(
            f"{pipe.name} locates photos and makes no pictures; use `nextset locate`, or name another --model"
        )
    return pipe


def parse_box(text: str, size: tuple[int, int]) -> Box:
    """`y0,x0,y1,x1` as fractions, or in pixels of the original picture (H, W) when a number is above 1."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4:
        raise NextsetError(f"box is {text!r}, but must be four numbers y0,x0,y1,x1, such as 0.25,0.25,0.75,0.75")
    if max(numbers) > 1:
        h, w = size
        numbers = [numbers[0] / h, numbers[1] / w, numbers[2] / h, numbers[3] / w]
    return (numbers[0], numbers[1], numbers[2], numbers[3])


def wrote(path: Path, what: str) -> None:
    """Say what was written where."""
    console.print(f"wrote {path} ({what})")
