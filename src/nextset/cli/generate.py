"""`nextset generate`: pictures or clips of prompts, or of classes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from nextset.cli.options import (
    Cfg,
    Compile,
    Device,
    Dtype,
    Model,
    Offload,
    Seed,
    Settings,
    Smooth,
    Threads,
    TopK,
    TopP,
    console,
    load_pipeline,
    named,
    sampling,
    wrote,
)
from nextset.cli.sheets import Live, film, frames, page
from nextset.core.errors import NextsetError, check_range

TEXT = "For models that read text"


def generate(
    prompts: Annotated[
        list[str] | None,
        typer.Argument(help="What to draw, in quotes; several make several pictures. @FILE: a prompt a line."),
    ] = None,
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
    video: Annotated[
        Path | None,
        typer.Option("--video", help="Also write the clips of a model of clips: .mp4, .gif, .webp, or a strip .png."),
    ] = None,
    fps: Annotated[float, typer.Option("--fps", help="Frames a second of --video, 1 to 50.")] = 8.0,
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
    negative: Annotated[
        str | None, typer.Option("--negative", help="What guidance leads away from.", rich_help_panel=TEXT)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="Below 1: surer, where the model knows it. Default: the model's."),
    ] = None,
    aspect: Annotated[
        str | None, typer.Option("--aspect", help="Width over height: 1.5, 3:2, 16:9.", rich_help_panel=TEXT)
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", help="In pixels, with --height, where the model knows several sizes."),
    ] = None,
    height: Annotated[int | None, typer.Option("--height", help="In pixels.")] = None,
    from_image: Annotated[
        Path | None, typer.Option("--from-image", help="Begin with this picture's first scales.", rich_help_panel=TEXT)
    ] = None,
    strength: Annotated[
        float,
        typer.Option("--strength", help="Share of scales that --from-image draws again.", rich_help_panel=TEXT),
    ] = 0.7,
    lora: Annotated[
        list[str] | None,
        typer.Option("--lora", help="Adapter folder, or folder:scale; repeat it for several."),
    ] = None,
    text_encoder: Annotated[
        str | None,
        typer.Option("--text-encoder", help="A T5: folder or hub name. Default: the model's.", rich_help_panel=TEXT),
    ] = None,
    model: Model = None,
    seed: Seed = 0,
    cfg: Cfg = None,
    top_k: TopK = None,
    top_p: TopP = None,
    more_smooth: Smooth = False,
    own: Settings = None,
    batch: Annotated[int, typer.Option("--batch", help="Pictures at a time; changes no picture.")] = 64,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    offload: Offload = False,
    compile: Compile = False,
    threads: Threads = 0,
) -> None:
    """Make pictures, or clips, of prompts or of classes.

    Examples:

      nextset generate "red apple"

      nextset generate "a blue heart" "woman firefighter" -n 8 --seed 1 --preview

      nextset generate @examples/prompts.txt --columns 6 --gif out/grid.gif

      nextset generate "green circle" --from-image heart.png --strength 0.5

      nextset generate -n 36 --seed 1 -o out/grid.png --gif out/grid.gif

      nextset generate -c heart -c food-fruit -n 8 --cfg 3

      nextset generate -m models/mar-b -c 207 --set steps=32 --set head_steps=50-5

      nextset generate --model MODEL-OF-CLIPS -n 9 --video out/clips.mp4
    """
    from nextset.data.images import save_gif, save_png
    from nextset.data.video import check_video_path, save_video
    from nextset.hub.requests import settings_known

    check_range("fps", fps, 1, 50)
    if video is not None:
        check_video_path(video)

    prompts = _lines(prompts or [])
    if prompts and classes:
        raise NextsetError("prompts were given beside --class; a model is asked with one of them")
    asks = "text" if prompts or from_image or negative else "class"
    pipe = load_pipeline(model, dtype, device, threads, asked_with=asks, offload=offload)
    reads = pipe.asked_with == "text"
    if list_classes:
        _list(pipe)
        return
    check_range("zoom", zoom, 0, 64, remedy="0 chooses one")
    if video is not None and not pipe.makes_clips:
        raise NextsetError(f"{pipe.name} makes pictures and no clips; leave out --video, or name another --model")
    for entry in lora or []:
        pipe.load_lora(*_adapter(entry))
    settings: dict[str, Any] = {**sampling(cfg, top_k, top_p, more_smooth), **named(own, "head_steps=50-5")}
    chosen: Any
    if reads:
        if not prompts:
            raise NextsetError(f'{pipe.name} is asked with text; write what to draw: nextset generate "red apple"')
        if text_encoder:
            pipe.use_encoder(text_encoder, dtype=dtype if dtype != "auto" else "bfloat16")
        ratio = _aspect(aspect)
        settings |= {"negative_prompt": negative, "aspect": ratio, "width": width, "height": height}
        settings["temperature"] = temperature
        if from_image is not None:
            made = pipe.pixels_of(*pipe.size(width, height, ratio, None))
            settings |= {"image": _picture(from_image, made), "strength": strength}
        chosen, n = prompts, n if n is not None else len(prompts)
    else:
        given: dict[str, Any] = {
            "--negative": negative, "--aspect": aspect, "--from-image": from_image, "--text-encoder": text_encoder
        }  # fmt: skip
        for name, value in {"temperature": temperature, "width": width, "height": height}.items():
            if name in settings_known(pipe.system.job):  # some models of classes know them
                settings[name] = value
            else:
                given[f"--{name}"] = value
        if prompts or any(value is not None for value in given.values()):
            first = "a prompt" if prompts else next(name for name, value in given.items() if value is not None)
            raise NextsetError(
                f"{pipe.name} is asked with classes and has no use for {first}; leave it out, or name another --model"
            )
        chosen, n = classes or None, n if n is not None else (len(classes) if classes else 16)
    begun = time.perf_counter()
    live = Live(console, columns) if preview else None
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
            compile=compile,
            **settings,
        )
    if live:
        live.done()
    seconds = time.perf_counter() - begun
    wrote(
        save_png(page(result.tensors, columns, zoom), out),
        f"{_count(result.tensors)} in {seconds:.1f} s, seed {seed}",
    )
    if video:
        made = result.tensors
        wrote(save_video(film(made, columns, zoom), video, fps=fps), f"{made.shape[2]} frames, {fps:g} a second")
    if each:
        kind = (video.suffix if video else ".gif") if pipe.makes_clips else ".png"
        for image, asked, (s, i) in zip(result.tensors, result.asked, result.seeds, strict=True):
            name = asked if reads else pipe.class_names[asked] if asked < len(pipe.class_names) else str(asked)
            path = each / f"{i:05d}-{_file_name(name)}-seed{s}{kind}"
            save_video(image, path, fps=fps) if image.dim() == 4 else save_png(image, path)
        wrote(each, f"{len(result.tensors)} files")
    if gif:
        wrote(save_gif(frames(result.previews, columns, zoom), gif), f"{len(result.previews)} steps")


def _count(made: Any) -> str:
    """How many pictures or clips, in words."""
    return f"{len(made)} {'clip' if made.dim() == 5 else 'picture'}{'s' * (len(made) != 1)}"


def _lines(prompts: list[str]) -> list[str]:
    """Prompts, with `@FILE` replaced by the lines of the file."""
    found = []
    for prompt in prompts:
        if not prompt.startswith("@"):
            found.append(prompt)
            continue
        try:
            lines = Path(prompt[1:]).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise NextsetError(
                f"{prompt[1:]} cannot be read as a text file ({type(error).__name__}); it holds a prompt a line"
            ) from error
        lines = [line.strip() for line in lines if line.strip()]
        if not lines:
            raise NextsetError(f"{prompt[1:]} has no line with a prompt; write one a line")
        found += lines
    return found


def _list(pipe: Any) -> None:
    if pipe.asked_with == "text":
        raise NextsetError(f"{pipe.name} is asked with text and has no classes; --list is for models with classes")
    for i, name in enumerate(pipe.class_names or [str(i) for i in range(pipe.classes)]):
        print(f"{i:4d}  {name}")


def _file_name(text: str) -> str:
    """What of a prompt or a class may stand in a file's name."""
    return "".join(c if c.isalnum() or c in " .-_" else "-" for c in text)[:60].strip()


def _aspect(text: str | None) -> float | None:
    """`1.5` or `3:2` as a number."""
    if text is None:
        return None
    try:
        parts = [float(part) for part in text.split(":")]
        value = parts[0] if len(parts) == 1 else parts[0] / parts[1]
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if len(text.split(":")) > 2 or not 0 < value < float("inf"):
        raise NextsetError(f"aspect is {text!r}, but must be width over height, such as 1.5 or 3:2")
    return value


def _adapter(entry: str) -> tuple[str, None, float]:
    """`folder` or `folder:scale` as the arguments of `load_lora`."""
    folder, colon, scale = entry.rpartition(":")
    if colon:
        try:
            return folder, None, float(scale)
        except ValueError:
            pass  # a colon of the path
    return entry, None, 1.0


def _picture(path: Path, size: tuple[int, int]) -> Any:
    """A picture (1, 3, h, w) in [-1, 1], cut and resized to (h, w) = size."""
    from nextset.data.images import fit, from_pil, read_image

    return from_pil(fit(read_image(path)[0], *size))[None]
