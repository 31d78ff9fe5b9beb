"""The `kpnet tune` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpnet.cli.options import ConfigArg, OverridesArg
from kpnet.core.console import PlainConsole, echo
from kpnet.core.errors import KpnetError

if TYPE_CHECKING:
    from kpnet.config.schema import Config


def tune(
    config: ConfigArg,
    overrides: OverridesArg = None,
    out: Annotated[Path, typer.Option(help="Folder for the curve, learning_rate.png.")] = Path("tuning"),
    lr: Annotated[bool, typer.Option("--lr/--no-lr", help="Find a learning rate.")] = True,
    batch_size: Annotated[
        bool,
        typer.Option(
            "--batch-size/--no-batch-size", help="Find the largest batch that fits, then the learning rate for it."
        ),
    ] = False,
    max_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Largest batch to try; by default 256 on a CPU and 8192 on a GPU.")
    ] = None,
    steps: Annotated[int, typer.Option(min=50, help="Training steps of the learning-rate search.")] = 100,
) -> None:
    """Find a learning rate and the largest batch that fits; print them as KEY=VALUE for kpnet train."""
    from kpnet.config.loading import load_config
    from kpnet.core.outputs import output_files

    if not lr and not batch_size:
        raise KpnetError("--no-lr without --batch-size: nothing to find")
    if max_batch_size is not None and not batch_size:
        raise KpnetError("--max-batch-size goes with --batch-size")
    loaded = load_config(config, overrides or ())
    with output_files(out, ["learning_rate.png"] if lr else [], "--out"):
        found, notes = run_tuning(loaded, out, lr, batch_size, max_batch_size, steps)
    echo("\n".join(found))  # nothing else on stdout: kpnet train CONFIG $(kpnet tune CONFIG)
    echo("\n".join(notes), error=True)


def run_tuning(
    config: Config, out: Path, lr: bool, batch_size: bool, max_batch_size: int | None, steps: int
) -> tuple[list[str], list[str]]:
    """Search for a batch size and a learning rate, and draw the latter's curve into `out`.

    Returns:
        What was found, as KEY=VALUE lines, and notes on how it was found.
    """
    from kpnet import plot
    from kpnet.data.build import build_splits, points_without_labels, with_scenes
    from kpnet.heads import finds_instances, window_of
    from kpnet.training.tuning import describe_batch_size, find_batch_size, find_lr

    console = PlainConsole(stderr=True)
    data = build_splits(config, window_of(config.model.head))[0]
    points_without_labels(data)  # raises KpnetError for a file without a label
    data = with_scenes(config, data, None, whole=finds_instances(config.model.head))[0]
    found, notes = [], []
    if batch_size:
        with console.status("trying batch sizes"):
            batch = find_batch_size(config, data, max_batch_size)
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch.size})})
        found.append(f"train.batch_size={batch.size}")
        notes.append(describe_batch_size(batch, len(data)))
    if lr:
        with console.status("trying learning rates"):
            curve, remarks = find_lr(config, data, steps)
        figure = plot.draw_lr_curve(curve.rates, curve.losses, curve.smoothed, curve.suggestion)
        plot.save_figure(figure, out / "learning_rate.png")
        found.append(f"train.optimizer.lr={curve.suggestion:.1e}")
        notes += [*remarks, f"the curve: {out / 'learning_rate.png'}"]
    return found, notes
