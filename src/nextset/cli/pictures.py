"""Commands on given pictures: `reconstruct`, `inpaint`, `outpaint`, `edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from nextset.cli.options import (
    Cfg,
    Device,
    Dtype,
    Model,
    Seed,
    Settings,
    Smooth,
    Threads,
    TopK,
    TopP,
    console,
    load_pipeline,
    named,
    parse_box,
    sampling,
    use,
    wrote,
)
from nextset.cli.sheets import film, page
from nextset.core.errors import NextsetError

if TYPE_CHECKING:
    import torch

Picture = Annotated[Path, typer.Argument(help="The picture: PNG, JPEG, WebP, GIF, BMP, TIFF.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Picture to write.")]
BoxOption = Annotated[str | None, typer.Option("--box", help="y0,x0,y1,x1 as fractions, or in pixels of the picture.")]
MaskOption = Annotated[Path | None, typer.Option("--mask", help="Mask picture, white = inside.")]
Fit = Annotated[
    str, typer.Option("--fit", help="How the picture is brought to the model's size: contain, cover or stretch.")
]
Count = Annotated[int, typer.Option("-n", help="Number of different results.")]


def _read(path: Path, size: tuple[int, int], fit_how: str) -> tuple[torch.Tensor, tuple[int, int]]:
    """The picture at the model's size (1, 3, H, W), and its own (H, W)."""
    from nextset.data.images import fit, from_pil, read_image

    if fit_how not in ("contain", "cover", "stretch"):
        raise NextsetError(f"fit is {fit_how!r}, but must be contain, cover or stretch")
    image, notes = read_image(path)
    for note in notes:
        console.print(f"{path}: {note}")
    if image.size != (size[1], size[0]):
        console.print(f"{path}: {image.width}x{image.height} brought to {size[1]}x{size[0]} ({fit_how})")
    return from_pil(fit(image, *size, how=fit_how))[None], (image.height, image.width)  # type: ignore[arg-type]


def _read_clip(path: Path, spec: Any, fit_how: str) -> torch.Tensor:
    """The clip at the model's size and number of frames (1, 3, T, H, W)."""
    from nextset.data.video import read_video

    if fit_how not in ("contain", "cover", "stretch"):
        raise NextsetError(f"fit is {fit_how!r}, but must be contain, cover or stretch")
    clip, notes = read_video(path, frames=spec.frames, size=spec.size, how=fit_how)  # type: ignore[arg-type]
    for note in notes:
        console.print(f"{path}: {note}")
    return clip[None]


def reconstruct(
    image: Annotated[
        Path, typer.Argument(help="The picture; for a tokenizer of clips, a film, a GIF or WebP, or a strip of frames.")
    ],
    out: Out = Path("reconstruct.png"),
    video: Annotated[
        Path | None, typer.Option("--video", help="Also write clip and reconstruction side by side: .mp4, .gif, .webp.")
    ] = None,
    fps: Annotated[float, typer.Option("--fps", help="Frames a second of --video, 1 to 50.")] = 8.0,
    model: Model = None,
    fit: Fit = "contain",
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Show what each scale of the tokenizer adds to a picture, with PSNR; or a clip and its reconstruction.

    Examples:

      nextset reconstruct cat.png -o out/cat.png

      nextset reconstruct clip.mp4 --model TOKENIZER-OF-CLIPS --video out/both.gif
    """
    import torch

    from nextset.core.errors import check_range
    from nextset.core.spec import VideoSpec
    from nextset.data.images import save_png
    from nextset.data.video import check_video_path, save_video
    from nextset.hub import pretrained
    from nextset.pipelines import reconstruct as rebuild

    check_range("fps", fps, 1, 50)
    if video is not None:
        check_video_path(video)
    use(device, threads)
    loaded = pretrained.load(model or pretrained.default_model("class"), device=device)
    tokenizer = loaded.model if loaded.kind == "tokenizer" else loaded.model.tokenizer
    clips = isinstance(tokenizer.spec, VideoSpec)
    if video is not None and not clips:
        raise NextsetError(f"{loaded.name} reads pictures and no clips; leave out --video, or name another --model")
    x = _read_clip(image, tokenizer.spec, fit) if clips else _read(image, tokenizer.spec.size, fit)[0]
    result = rebuild(tokenizer, x)
    if video is not None:
        wrote(save_video(film(torch.cat([x, result.scales[-1]]), 2, 0), video, fps=fps), "clip and reconstruction")
    table = Table("scale", "side", "tokens so far", "PSNR, dB", box=None, pad_edge=False)
    total = 0
    for k, ((h, w), value) in enumerate(zip(tokenizer.sides, result.psnr, strict=True)):
        total += h * w
        table.add_row(str(k), f"{h}x{w}", str(total), f"{float(value[0]):.2f}")
    console.print(table)
    wrote(
        save_png(page(torch.cat([x, *result.scales]), 1 if clips else len(result.scales) + 1, 0), out),
        "the clip, then its reconstruction" if clips else "the picture, then scale by scale",
    )


def _change(
    name: str,
    image: Path,
    out: Path,
    box: str | None,
    mask: Path | None,
    fit: str,
    n: int,
    classes: str,
    model: str | None,
    seed: int,
    settings: dict[str, Any],
    dtype: str,
    device: str,
    threads: int,
) -> None:
    import torch

    from nextset.core.errors import check_range
    from nextset.data.images import read_mask, save_png

    check_range("n", n, 1, 256)
    pipe = load_pipeline(model, dtype, device, threads)
    x, size = _read(image, pipe.tokenizer.spec.size, fit)
    if (box is None) == (mask is None):
        raise NextsetError("give either --box y0,x0,y1,x1 or --mask FILE, to say which part is meant")
    where: dict[str, Any] = {"box": parse_box(box, size)} if box is not None else {"mask": read_mask(mask)}  # type: ignore[arg-type]
    result = getattr(pipe, name)(x, **where, classes=classes, seed=seed, n=n, **settings)
    rebuilt = pipe.reconstruct(x).scales[-1]
    wrote(
        save_png(page(torch.cat([x, rebuilt, result.tensors]), None if n > 6 else n + 2, 0), out),
        f"the picture, its reconstruction, {n} results, seed {seed}",
    )


def inpaint(
    image: Picture,
    out: Out = Path("inpaint.png"),
    box: BoxOption = None,
    mask: MaskOption = None,
    n: Count = 4,
    fit: Fit = "contain",
    classes: Annotated[str, typer.Option("--class", "-c", help="Class to draw; 'none' leaves it open.")] = "none",
    model: Model = None,
    seed: Seed = 0,
    cfg: Cfg = None,
    top_k: TopK = None,
    top_p: TopP = None,
    more_smooth: Smooth = False,
    own: Settings = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Draw the inside of a box (or mask) again, to fit the rest.

    Example: nextset inpaint cat.png --box 0.3,0.3,0.7,0.7 -o out/cat.png
    """
    _change(
        "inpaint",
        image,
        out,
        box,
        mask,
        fit,
        n,
        classes,
        model,
        seed,
        {**sampling(cfg, top_k, top_p, more_smooth), **named(own, "steps=32")},
        dtype,
        device,
        threads,
    )


def outpaint(
    image: Picture,
    out: Out = Path("outpaint.png"),
    box: BoxOption = None,
    mask: MaskOption = None,
    n: Count = 4,
    fit: Fit = "contain",
    classes: Annotated[str, typer.Option("--class", "-c", help="Class to draw; 'none' leaves it open.")] = "none",
    model: Model = None,
    seed: Seed = 0,
    cfg: Cfg = None,
    top_k: TopK = None,
    top_p: TopP = None,
    more_smooth: Smooth = False,
    own: Settings = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Keep the inside of a box (or mask) and draw the rest.

    Example: nextset outpaint cat.png --box 0.2,0.2,0.8,0.8 -o out/cat.png
    """
    _change(
        "outpaint",
        image,
        out,
        box,
        mask,
        fit,
        n,
        classes,
        model,
        seed,
        {**sampling(cfg, top_k, top_p, more_smooth), **named(own, "steps=32")},
        dtype,
        device,
        threads,
    )


def edit(
    image: Picture,
    classes: Annotated[str, typer.Option("--class", "-c", help="Class that the inside of the box becomes.")],
    out: Out = Path("edit.png"),
    box: BoxOption = None,
    mask: MaskOption = None,
    n: Count = 4,
    fit: Fit = "contain",
    model: Model = None,
    seed: Seed = 0,
    cfg: Cfg = None,
    top_k: TopK = None,
    top_p: TopP = None,
    more_smooth: Smooth = False,
    own: Settings = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Draw the inside of a box (or mask) again, as another class.

    Example: nextset edit cat.png --class heart --box 0.5,0.5,1,1 -o out/cat.png
    """
    _change(
        "edit",
        image,
        out,
        box,
        mask,
        fit,
        n,
        classes,
        model,
        seed,
        {**sampling(cfg, top_k, top_p, more_smooth), **named(own, "steps=32")},
        dtype,
        device,
        threads,
    )
