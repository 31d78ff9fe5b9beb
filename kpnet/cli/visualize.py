"""Commands of `kpnet.cli` that look inside: what a network sees, how fast it can learn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kpnet.errors import KpnetError
from kpnet.options import ConfigArg, OverridesArg, RunArg


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


def tune(
    config: ConfigArg,
    overrides: OverridesArg = None,
    out: Annotated[Path, typer.Option(help="Folder for the curve, learning_rate.png.")] = Path("tuning"),
    lr: Annotated[bool, typer.Option("--lr/--no-lr", help="Find a learning rate.")] = True,
    batch_size: Annotated[
        bool,
        typer.Option("--batch-size/--no-batch-size", help="Find the largest batch that fits, then its rate."),
    ] = False,
    max_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Try none larger; 256 on a CPU and 8192 on a GPU where it is not given.")
    ] = None,
    steps: Annotated[int, typer.Option(min=50, help="Steps of the learning rate's test.")] = 100,
) -> None:
    """Find a learning rate, and the largest batch that fits: key=value lines for kpnet train."""
    from kpnet.commands import tune_and_tell
    from kpnet.config import load_config

    if not lr and not batch_size:
        raise KpnetError("--no-lr without --batch-size: nothing to find")
    if max_batch_size is not None and not batch_size:
        raise KpnetError("--max-batch-size goes with --batch-size")
    found, notes = tune_and_tell(load_config(config, overrides or ()), out, lr, batch_size, max_batch_size, steps)
    print("\n".join(found))  # alone on stdout: kpnet train CONFIG $(kpnet tune CONFIG)
    print("\n".join(notes), file=sys.stderr)
