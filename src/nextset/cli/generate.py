"""`nextset generate`: pictures of classes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nextset.cli.options import (
    Cfg,
    Device,
    Dtype,
    Model,
    Seed,
    Smooth,
    Threads,
    TopK,
    TopP,
    console,
    load_pipeline,
    sampling,
    wrote,
)
from nextset.core.errors import check_range

if TYPE_CHECKING:
    import torch


def generate(
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            "-c",
            help="Class name or id; repeat it for several, 'none' for no class. Drawn at random when left out.",
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("-n", help="Number of pictures.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Picture to write: a grid when there are several.")] = Path(
        "out.png"
    ),
    each: Annotated[Path | None, typer.Option("--each", help="Also write every picture into this folder.")] = None,
    gif: Annotated[Path | None, typer.Option("--gif", help="Also write an animation, scale by scale.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Show the pictures growing in the terminal.")] = False,
    columns: Annotated[int | None, typer.Option("--columns", help="Pictures in a row of the grid.")] = None,
    zoom: Annotated[int, typer.Option("--zoom", help="Enlarge pixels by this factor; 0 = to about 768 pixels.")] = 0,
    list_classes: Annotated[bool, typer.Option("--list", help="Print the class names and stop.")] = False,
    candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates", help="Begin each picture so often, go on with the likeliest. Default: the model's."
        ),
    ] = None,
    model: Model = None,
    seed: Seed = 0,
    cfg: Cfg = None,
    top_k: TopK = None,
    top_p: TopP = None,
    more_smooth: Smooth = False,
    batch: Annotated[int, typer.Option("--batch", help="Pictures at a time; changes no picture.")] = 64,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Make pictures.

    Examples:

      nextset generate -n 36 --seed 1 -o out/grid.png --gif out/grid.gif

      nextset generate -c heart -c food-fruit -n 8 --cfg 3

      nextset generate -c clothing --preview
    """
    from nextset.data.images import save_gif, save_png

    pipe = load_pipeline(model, dtype, device, threads)
    if list_classes:
        for i, name in enumerate(pipe.class_names or [str(i) for i in range(pipe.classes)]):
            print(f"{i:4d}  {name}")
        return
    check_range("zoom", zoom, 0, 64, remedy="0 chooses one")
    chosen: Any = classes or None
    n = n if n is not None else (len(classes) if classes else 16)
    begun = time.perf_counter()
    live = _Live(console, columns) if preview else None
    with Progress(
        TextColumn("making"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal or preview,
        transient=True,
    ) as bar:
        task = bar.add_task("make", total=None, note="")

        def on_event(offset: int, event: Any) -> None:
            from nextset.core.events import Preview, StepDone

            if isinstance(event, StepDone):
                batches = -(-n // batch)
                bar.update(
                    task,
                    total=batches * event.steps,
                    completed=(offset // batch) * event.steps + event.index + 1,
                    note=f"step {event.index + 1}/{event.steps}",
                )
            elif isinstance(event, Preview) and live:
                live.show(event.images)

        result = pipe(
            chosen,
            n=n,
            seed=seed,
            batch=batch,
            previews=bool(gif or preview),
            on_event=on_event,
            candidates=candidates,
            **sampling(cfg, top_k, top_p, more_smooth),
        )
    if live:
        live.done()
    seconds = time.perf_counter() - begun
    wrote(
        save_png(page(result.tensors, columns, zoom), out),
        f"{len(result.tensors)} pictures in {seconds:.1f} s, seed {seed}",
    )
    if each:
        for image, label, (s, i) in zip(result.images, result.classes.tolist(), result.seeds, strict=True):
            name = pipe.class_names[label] if label < len(pipe.class_names) else str(label)
            save_png(image, each / f"{i:05d}-{name.replace('/', '-')}-seed{s}.png")
        wrote(each, f"{len(result.tensors)} files")
    if gif:
        wrote(save_gif([page(t, columns, zoom) for t in result.previews], gif), f"{len(result.previews)} steps")


def page(images: torch.Tensor, columns: int | None, zoom: int) -> torch.Tensor:
    """One sheet of pictures, enlarged without blur."""
    from nextset.data.images import grid

    sheet = grid(images.clamp(-1, 1), columns)
    factor = zoom or max(1, round(768 / max(sheet.shape[-2:])))
    return sheet.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


class _Live:
    """A grid of pictures in the terminal, drawn over itself: two pixels a character cell."""

    def __init__(self, out: Any, columns: int | None) -> None:
        from rich.live import Live

        self.columns = columns
        self.live = Live(console=out, refresh_per_second=10)
        self.live.start()

    def show(self, images: torch.Tensor) -> None:
        self.live.update(blocks(images, self.columns, self.live.console.width))

    def done(self) -> None:
        self.live.stop()


def blocks(images: torch.Tensor, columns: int | None, width: int) -> Any:
    """Pictures as text: upper half blocks in 24-bit colour, at most `width` characters wide."""
    from rich.text import Text
    from torch.nn.functional import interpolate

    from nextset.data.images import grid, to_uint8

    sheet = grid(images[:16], columns, pad=1)[None]
    w = min(width - 1, sheet.shape[-1])
    h = max(2, round(sheet.shape[-2] * w / sheet.shape[-1] / 2) * 2)
    pixels = to_uint8(interpolate(sheet, size=(h, w), mode="area")[0]).permute(1, 2, 0).tolist()
    text = Text()
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=False):
        for a, b in zip(upper, lower, strict=True):
            text.append("▀", style=f"rgb({a[0]},{a[1]},{a[2]}) on rgb({b[0]},{b[1]},{b[2]})")
        text.append("\n")
    return text
