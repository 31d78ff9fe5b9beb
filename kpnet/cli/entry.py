"""The `kpnet` command. Heavy imports happen inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kpnet.cli_compare import compare, report, sweep
from kpnet.cli_data import app as data_app
from kpnet.cli_inside import tune, visualize
from kpnet.cli_measure import calibrate, evaluate
from kpnet.errors import KpnetError
from kpnet.options import (
    BatchOption,
    ConfigArg,
    DecodingOption,
    FlipOption,
    ForceOption,
    InputsArg,
    OutOption,
    OverridesArg,
    ResumeOption,
    RunArg,
    ScalesOption,
    ShiftOption,
    WithOption,
)

if TYPE_CHECKING:
    from kpnet.schema import Config

app = typer.Typer(
    help="Keypoint detection with any backbone in any head.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point: what a user can mend is one line on stderr and exit code 2."""
    try:
        app()
    except KpnetError as error:
        _fail(str(error))
    except OSError as error:  # a full disk, a folder that cannot be written
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> None:
    print(f"kpnet: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


@app.command()
def train(
    config: ConfigArg,
    overrides: OverridesArg = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
    overfit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Sanity check: memorise N samples, write nothing.")
    ] = None,
) -> None:
    """Train from one YAML."""
    from kpnet.commands import train_and_tell
    from kpnet.config import load_config

    if resume and force:
        raise KpnetError("--resume goes on with a run, --force deletes it: give one of them")
    loaded = load_config(config, overrides or ())
    if overfit and (out or resume or force):
        raise KpnetError("--overfit writes no run: leave out --out, --resume and --force")
    if overfit:
        return _overfit(loaded, overfit)
    train_and_tell(loaded, out, resume, force)


def _overfit(config: Config, samples: int) -> None:
    from rich.console import Console

    from kpnet.engine.overfit import STEPS, TARGET_PX
    from kpnet.engine.overfit import overfit as run_overfit

    error, steps = run_overfit(config, samples, Console())
    passed = error < TARGET_PX
    print(f"{'pass' if passed else 'FAIL'}: {error:.3f} px RMSE on {samples} sample(s) after {steps} steps", end="")
    print("" if passed else f"; expected under {TARGET_PX} px within {STEPS}: try train.overfit, or another lr")
    raise typer.Exit(0 if passed else 1)


@app.command()
def pretrain(
    config: ConfigArg,
    overrides: OverridesArg = None,
    out: OutOption = None,
    resume: ResumeOption = False,
    force: ForceOption = False,
) -> None:
    """Train a backbone on images without labels, as the encoder of an autoencoder."""
    from kpnet.commands import pretrain_and_tell
    from kpnet.pretrain_config import load_pretrain_config

    pretrain_and_tell(load_pretrain_config(config, overrides or ()), out, resume, force)


@app.command()
def predict(
    run: RunArg,
    inputs: InputsArg,
    out: Annotated[Path, typer.Option(help="Folder for the tables and the pictures.")] = Path("predictions"),
    draw: Annotated[
        bool | None, typer.Option("--draw/--no-draw", help="Copies with points drawn: of pictures no, of videos yes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="predictions.json instead of predictions.csv.")] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="labels.csv instead: a file to train on, missing labels filled in.")
    ] = False,
    smooth: Annotated[
        str | None, typer.Option(help="Of videos: one_euro or savgol, with options as in savgol:window=15,degree=3.")
    ] = None,
    also: WithOption = None,
    decoding: DecodingOption = None,
    flip_test: FlipOption = False,
    scales: ScalesOption = "1",
    shift: ShiftOption = 0.0,
    batch_size: BatchOption = 32,
) -> None:
    """Keypoints of pictures and videos, in pixels of the originals."""
    from kpnet.commands import parse_test_time, run_config
    from kpnet.ensemble import load_ensemble
    from kpnet.pictures import find_pictures
    from kpnet.predicting import check_videos, predict_inputs
    from kpnet.predictor import Predictor
    from kpnet.tables import LongTable, WideTable
    from kpnet.video import find_videos

    if wide and as_json:
        raise KpnetError("--wide writes a CSV to train on, --json a JSON: give one of them")
    others, videos = find_videos(inputs)
    check_videos(videos, wide or as_json, smooth)
    trained = run_config(run)
    test_time = parse_test_time(flip_test, scales, shift)
    predictor = Predictor(
        load_ensemble([run, *(also or [])], decoding=decoding), test_time=test_time, batch_size=batch_size
    )
    model = predictor.model
    crops = model.config.crop is not None
    pictures = find_pictures(others, None if trained is None else trained.data, boxes=crops)
    whole = len(videos) + sum(picture.boxes is None for picture in pictures)
    if crops and whole:
        note = f"{run} was trained on crops about boxes; without a box, and taken whole: {whole} of the inputs"
        print(f"kpnet: {note}; give a COCO file or a CSV with boxes", file=sys.stderr)
    table = WideTable(model.skeleton.names, model.config.in_channels) if wide else LongTable(as_json)
    told, bad = predict_inputs(predictor, pictures, table, videos, out, draw, smooth)
    print("\n".join(told))
    for message in bad:
        print(f"kpnet: {message}", file=sys.stderr)
    if bad:
        raise typer.Exit(1)


app.command()(evaluate)
app.command()(calibrate)
app.add_typer(data_app, name="data")
app.command()(compare)
app.command()(report)
app.command()(sweep)
app.command()(visualize)
app.command()(tune)


@app.command()
def info(
    source: Annotated[str, typer.Argument(metavar="CONFIG|RUN", help="A YAML, the name of a recipe, or a run folder.")],
    overrides: OverridesArg = None,
) -> None:
    """The network layer by layer: shapes, parameters, MACs, memory, receptive field; and what learns when."""
    from rich.console import Console

    from kpnet.commands import run_config
    from kpnet.config import load_config
    from kpnet.engine.transfer import check_freeze, frozen_stages, render_parts
    from kpnet.info import render, summarize
    from kpnet.model import build_model, load_model

    if Path(source).is_dir():
        if overrides:
            raise KpnetError("a run's model is as it is: overrides go with a config")
        model, config = load_model(source), run_config(Path(source))
    else:
        config = load_config(source, overrides or ())
        model = build_model(config)
    console = Console()
    # A table that is piped is not cut to a terminal's width.
    console = console if console.is_terminal else Console(width=200)
    if config is not None:
        warning = check_freeze(model, config.train)
        if warning:
            console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
        model.freeze_backbone(frozen_stages(config.train.freeze, len(model.backbone.strides), 0))
    console.print(render(summarize(model, (model.config.in_channels, *model.config.input_size))))
    if config is not None:
        console.print(render_parts(model, config.train))


@app.command()
def config(
    name: Annotated[str | None, typer.Argument(help="A recipe; without it, their names.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="The JSON schema of the YAML for `train`, or NAME: pretrain, sweep.")
    ] = False,
) -> None:
    """Print a recipe's YAML, to start your own from; or what a YAML may hold, for editors."""
    from kpnet.config import config_text, list_configs

    if schema:
        from kpnet.config_schema import schema_text

        return print(schema_text(name or "train"), end="")
    print(config_text(name) if name else "\n".join(list_configs()), end="" if name else "\n")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder; an earlier demo there is replaced.")] = Path("runs/demo"),
    overrides: OverridesArg = None,
) -> None:
    """Train and evaluate on built-in synthetic faces; no data needed."""
    from kpnet.commands import train_and_tell
    from kpnet.config import load_config

    config = load_config("demo", overrides or ())
    saved = out / "config.yaml"  # another run there is no demo's to delete
    folder = train_and_tell(config, out, False, saved.is_file() and load_config(saved).name == config.name)
    print(f"pictures: {folder / 'predictions.png'} and {folder / 'curves.png'}\nmodel:    {folder / 'final'}")
    print(f"next:     kpnet predict {folder} photo.jpg --draw   |   kpnet config facial_heatmap > my.yaml")


if __name__ == "__main__":
    main()
