"""`nextset locate`: where photos were taken. `nextset city`: a city as files, to try it on."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from nextset.cli.options import Device, Model, Threads, use, wrote
from nextset.core.errors import NextsetError

if TYPE_CHECKING:
    from nextset.data.maps import Region
    from nextset.pipelines.locate import Located


def locate(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.", show_default=False)],
    map: Annotated[
        Path | None,
        typer.Option("--map", help="Folder of tiles z/x/y.png, .mbtiles, GeoTIFF, or picture with bounds.json."),
    ] = None,
    model: Model = None,
    k: Annotated[int, typer.Option("-k", help="Cells to name for each photo.")] = 5,
    beam: Annotated[int | None, typer.Option("--beam", help="Paths to follow; as many as cells by default.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Stop early, at coarser cells.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Above 1: less sure. Default: the model's.")
    ] = None,
    region: Annotated[
        str | None, typer.Option("--region", help="Square to search: LAT,LON,SIDE in metres. Default: the whole map.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    geojson: Annotated[bool, typer.Option("--geojson", help="Print GeoJSON: a polygon a cell.")] = False,
    table: Annotated[Path | None, typer.Option("--csv", help="Also write the likeliest cells to this file.")] = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="Also write the zoom path; of several photos, into this folder.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = 0,
) -> None:
    """Say where photos were taken, by zooming into a map.

    A cell has a centre, a radius that reaches its corners, and a probability. A photo's own EXIF position is not used; if it
    has one, the error is said.

    Examples:

      nextset city out/city

      nextset locate out/city/photos/0001.jpg --map out/city/map --picture out/zoom.png

      nextset locate my/photos --map tiles.mbtiles --region 38.89,-77.01,10000 --geojson

      nextset locate photo.jpg --map ortho.tif --beam 16 -k 3 --json
    """
    from nextset.core.files import atomic_write
    from nextset.data.images import check_picture_path, save_png
    from nextset.hub.pretrained import default_model
    from nextset.pipelines import Locator, load

    if map is None:
        raise NextsetError(
            "a photo is located on a map; give one with --map: a folder of tiles, an .mbtiles, or a GeoTIFF"
        )
    if as_json and geojson:
        raise NextsetError("--json and --geojson print to one place; leave out one of them")
    found_photos = _photos(photos)
    if picture is not None and len(found_photos) == 1:
        check_picture_path(picture)
    square = _region(region)
    use(device, threads)
    pipe = load(model or default_model("photo"), device=device)
    if not isinstance(pipe, Locator):
        raise NextsetError(f"{pipe.name} makes pictures and locates none; name a model that does with --model")
    found = pipe(found_photos, map, k=k, beams=beam, temperature=temperature, steps=steps, region=square)
    if geojson:
        features = [feature for each in found for feature in each.geojson()["features"]]
        print(json.dumps({"type": "FeatureCollection", "features": features}, indent=2))
    elif as_json:
        print(json.dumps([each.to_dict() for each in found], indent=2))
    else:
        _print(found)
    if table:
        with atomic_write(table) as handle:
            handle.write(_csv(found).encode())
        wrote(table, f"{len(found)} photo{'s' * (len(found) != 1)}")
    if picture:
        several = len(found) > 1
        for i, each in enumerate(found):
            save_png(each.picture(), picture / f"{i:04d}-{Path(each.name).stem}.png" if several else picture)
        wrote(picture, "the zoom path over the map")


def city(
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    seed: Annotated[int, typer.Option("--seed", "-s", help="Which city.")] = 0,
    side: Annotated[int, typer.Option("--side", help="Metres. The packaged model knows 1280 m of city 0.")] = 1280,
    photos: Annotated[int, typer.Option("--photos", help="Photos from its streets.")] = 24,
    pixels: Annotated[int, typer.Option("--pixels", help="Rows of a photo, which is twice as wide.")] = 128,
    finest: Annotated[int, typer.Option("--zoom", help="Zoom level of the finest tiles.")] = 17,
) -> None:
    """Write a procedural city as people have maps: tiles in map/, photos with positions in photos/.

    Examples:

      nextset city out/city --seed 3

      nextset city out/large --side 5120 --photos 200
    """
    from nextset.data.city import City
    from nextset.data.city_files import export_city

    place = City(seed, side)
    export_city(out, place, photos=photos, pixels=pixels, finest=finest)
    wrote(out, f"{side} m around {place.lat:.4f}, {place.lon:.4f}; {photos} photos")


def _photos(given: list[Path]) -> list[Path]:
    """Files, and those of folders, by name."""
    from nextset.data.folder import ENDINGS

    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS)
            if not inside:
                raise NextsetError(f"{path} holds no photo; give a folder of JPEG or PNG files")
            found += inside
        else:
            found.append(path)
    return found


def _region(text: str | None) -> Region | None:
    if text is None:
        return None
    try:
        lat, lon, side = (float(part) for part in text.split(","))
    except ValueError as error:
        raise NextsetError(f"region is {text!r}, but must be LAT,LON,SIDE, such as 38.89,-77.01,10000") from error
    return lat, lon, side


def _print(found: list[Located]) -> None:
    out = Console(highlight=False, soft_wrap=True)
    for each in found:
        error = each.error_m
        told = "" if error is None else f": {error:,.0f} m from where it says that it was taken"
        out.print(f"{each.name}{told}", markup=False)
        rows = Table("", "latitude", "longitude", "radius", "probability")
        for rank, cell in enumerate(each, start=1):
            rows.add_row(
                str(rank),
                f"{cell.lat:.6f}",
                f"{cell.lon:.6f}",
                f"{cell.radius_m:,.1f} m",
                f"{100 * cell.probability:.1f} %",
            )
        out.print(rows)
        if any(share > 0.001 for share in each.unknown):
            shares = ", ".join(f"{100 * share:.1f} %" for share in each.unknown)
            out.print(f"note: unknown ground in the views on the way: {shares}", markup=False)


def _csv(found: list[Located]) -> str:
    """The likeliest cell of each photo."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "latitude", "longitude", "radius_m", "probability", "sequence"])
    for each in found:
        cell = each[0]
        place = [f"{cell.lat:.8f}", f"{cell.lon:.8f}", f"{cell.radius_m:.3f}", f"{cell.probability:.6f}"]
        writer.writerow([each.name, *place, str(list(cell.actions))])
    return text.getvalue()
