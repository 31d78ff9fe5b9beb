"""Commands of `kpnet.cli` that look inside a network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kpnet.options import RunArg


def visualize(
    run: RunArg,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGE]…", help="As for predict; else the run's own val data.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("inside"),
    limit: Annotated[int, typer.Option(min=1, help="The first so many images alone.")] = 4,
) -> None:
    """What the network sees: filters, feature maps, heatmaps, and the spread of its points."""
    from kpnet.commands import val_pictures, visualize_pictures
    from kpnet.model import best_device, load_model
    from kpnet.pictures import find_pictures

    model = load_model(run).to(best_device())
    pictures = find_pictures(images) if images else val_pictures(run, model)
    lines, bad = visualize_pictures(model, pictures[:limit], out)
    if len(pictures) > limit:
        lines.append(f"the first {limit} of {len(pictures)} images; --limit takes more")
    print("\n".join(lines))
    for message in bad:
        print(f"kpnet: {message}", file=sys.stderr)
    if bad:
        raise typer.Exit(1)
