"""The `kpnet` command. Heavy imports happen inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpnet.errors import KpnetError

if TYPE_CHECKING:
    import numpy as np

    from kpnet.config import Config
    from kpnet.ensemble import Ensemble
    from kpnet.model import KeypointModel
    from kpnet.pictures import Picture
    from kpnet.testtime import TestTime

app = typer.Typer(
    help="Keypoint detection with any backbone in any head.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigArg = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a recipe's name (kpnet config).")]
OverridesArg = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]…", help="e.g. data.root=faces train.epochs=10")
]
RunArg = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a folder that model.save wrote.")]
DataArg = Annotated[Path | None, typer.Argument(metavar="[DATA]", help="A labelled CSV; else the run's own val data.")]
InputsArg = Annotated[
    list[Path], typer.Argument(metavar="INPUT…", help="Pictures, folders of pictures, or CSVs with an Image column.")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Images at once.")]
WithOption = Annotated[
    list[Path] | None, typer.Option("--with", metavar="RUN", help="Average with this run too; may be repeated.")
]
FlipOption = Annotated[bool, typer.Option("--flip-test", help="Average with the mirrored image's answer.")]
ScalesOption = Annotated[str, typer.Option(help="Average over these scales of the image, e.g. 0.95,1,1.05.")]
ShiftOption = Annotated[float, typer.Option(help="Average over shifts of so many input pixels.")]
DecodingOption = Annotated[
    str | None, typer.Option(help="Of a heatmap or offset head, instead of the one it was trained with.")
]


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
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/NAME where it is not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last whole epoch of the run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete the run of that name and start anew.")] = False,
    overfit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Sanity check: memorise N samples, write nothing.")
    ] = None,
) -> None:
    """Train from one YAML."""
    from kpnet.config import load_config

    if resume and force:
        raise KpnetError("--resume goes on with a run, --force deletes it: give one of them")
    loaded = load_config(config, overrides or ())
    if overfit and (out or resume or force):
        raise KpnetError("--overfit writes no run: leave out --out, --resume and --force")
    if overfit:
        return _overfit(loaded, overfit)
    _train(loaded, out, resume, force)


def _train(config: Config, out: Path | None, resume: bool, force: bool) -> Path:
    from rich.console import Console

    from kpnet.engine.training import train as run_training
    from kpnet.report import print_measures

    console = Console()
    try:
        folder, _, measures = run_training(config, out=out, resume=resume, force=force, console=console)
    except KeyboardInterrupt:
        raise KpnetError("interrupted; the same command with --resume goes on after the last whole epoch") from None
    except OSError as error:  # a full disk does not say where, inside a checkpoint
        where = error.filename or out or Path("runs") / config.name
        raise OSError(error.errno, error.strerror or str(error), str(where)) from None
    if measures:
        print_measures(console, measures, "final model on the validation data")
    if int(os.environ.get("LOCAL_RANK", "0")):
        return folder  # a further process of the same training
    files = "final/ and best/ (the models), predictions.png, curves.png, metrics.csv"
    console.print(f"the run is in {folder}: {files}", soft_wrap=True)
    return folder


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
def evaluate(
    run: RunArg,
    data: DataArg = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON alone on stdout.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw here how true the confidence is (a PNG), where the head has one.")
    ] = None,
    nme: Annotated[
        str | None, typer.Option(help="What NME divides by: box, diagonal, or two points as A,B; else the skeleton's.")
    ] = None,
    also: WithOption = None,
    decoding: DecodingOption = None,
    flip_test: FlipOption = False,
    scales: ScalesOption = "1",
    shift: ShiftOption = 0.0,
    batch_size: BatchOption = 64,
) -> None:
    """Score, RMSE, NME, PCK, how true the confidence is, and a table per point."""
    from rich.console import Console

    from kpnet.engine.evaluation import evaluate as run_evaluation
    from kpnet.model import best_device
    from kpnet.plot import draw_reliability, save_figure
    from kpnet.report import plain, print_groups, print_measures, print_points, print_reliability

    if plot is not None and plot.suffix.lower() != ".png":
        raise KpnetError(f"--plot: {plot}: expected a file that ends in .png")
    model = _ensemble(run, also, decoding).to(best_device())
    views = _test_time(flip_test, scales, shift)
    first, comma, second = (nme or "").partition(",")
    divisor = (first.strip(), second.strip()) if comma else nme
    measures = run_evaluation(model, _labelled(run, data, model), batch_size, views, divisor)
    reliability = measures.get("reliability")
    if plot is not None:
        if reliability is None:
            raise KpnetError(f"--plot: {run} has no confidence to draw: its head gives none; see kpnet calibrate")
        save_figure(draw_reliability(reliability), plot)
    if as_json:
        print(json.dumps(plain(measures), indent=2))
        return
    console = Console()
    print_measures(console, measures, str(data or "validation data"))
    if reliability is not None:
        print_reliability(console, reliability)
    print_points(console, measures["per_point"])
    print_groups(console, measures["per_group"])


@app.command()
def calibrate(
    run: RunArg,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A labelled CSV that was neither trained nor reported.")],
    flip_test: FlipOption = False,
    batch_size: BatchOption = 64,
) -> None:
    """Make a model's confidence agree with its errors on data it has not seen; written into the model."""
    from rich.console import Console

    from kpnet.calibration import fit_calibration
    from kpnet.engine.evaluation import answer_dataset
    from kpnet.model import best_device, load_model, model_folder
    from kpnet.reliability import measure_reliability
    from kpnet.report import print_reliability

    model = load_model(run).to(best_device())
    _check_unseen(run, data)
    model.calibration = None
    dataset, size, test_time = _labelled(run, data, model), model.config.input_size, _test_time(flip_test, "1", 0.0)
    result = answer_dataset(model, dataset, batch_size, test_time)
    model.calibration = fit_calibration(result.answer, result.target, result.visible, size, test_time)
    console = Console()
    for when, answer in (("before", result.answer), ("after", model.calibration(result.answer, size))):
        if answer.covariance is not None:
            console.print(f"{when}, on {data}", highlight=False, soft_wrap=True)
            print_reliability(console, measure_reliability(answer, result.target, result.visible, size))
    folder = model_folder(run)
    model.save(folder)
    console.print(f"calibrated on {model.calibration.points} points: {folder}", highlight=False, soft_wrap=True)


@app.command()
def predict(
    run: RunArg,
    inputs: InputsArg,
    out: Annotated[Path, typer.Option(help="Folder for the table and the pictures.")] = Path("predictions"),
    draw: Annotated[bool, typer.Option("--draw", help="Write each picture with its points drawn.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="predictions.json instead of predictions.csv.")] = False,
    also: WithOption = None,
    decoding: DecodingOption = None,
    flip_test: FlipOption = False,
    scales: ScalesOption = "1",
    shift: ShiftOption = 0.0,
    batch_size: BatchOption = 32,
) -> None:
    """Keypoints of pictures, in pixels of the original images."""
    import pandas as pd

    from kpnet.files import write_atomic
    from kpnet.pictures import find_pictures, write_drawn
    from kpnet.predictor import Predictor

    pictures = find_pictures(inputs)
    test_time = _test_time(flip_test, scales, shift)
    predictor = Predictor(_ensemble(run, also, decoding), test_time=test_time, batch_size=batch_size)
    made = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    bad: list[str] = []
    loaded: deque[tuple[Picture, np.ndarray]] = deque()  # of a batch at most
    frames = []
    for prediction in predictor.stream(_load(pictures, bad, loaded)):
        frames.append(prediction.to_frame())
        picture, image = loaded.popleft()
        if draw:
            write_drawn(prediction, image, predictor.model.skeleton, out / picture.target)
    if not frames:
        if made:
            out.rmdir()
        raise KpnetError(bad[0])
    table = pd.concat(frames, ignore_index=True)
    text = table.to_json(orient="records", indent=1) if as_json else table.to_csv(index=False, float_format="%.4f")
    target = out / ("predictions.json" if as_json else "predictions.csv")
    write_atomic(target, text.encode())
    print(f"{len(frames)} image(s): {target}" + (f", pictures in {out}" if draw else ""))
    for message in bad:
        print(f"kpnet: {message}", file=sys.stderr)
    if bad:
        raise typer.Exit(1)


@app.command()
def info(
    source: Annotated[str, typer.Argument(metavar="CONFIG|RUN", help="A YAML, the name of a recipe, or a run folder.")],
    overrides: OverridesArg = None,
) -> None:
    """The network layer by layer: shapes, parameters, MACs, memory, receptive field."""
    from rich.console import Console

    from kpnet.config import load_config
    from kpnet.info import render, summarize
    from kpnet.model import build_model, load_model

    if Path(source).is_dir():
        if overrides:
            raise KpnetError("a run's model is as it is: overrides go with a config")
        model = load_model(source)
    else:
        model = build_model(load_config(source, overrides or ()))
    config = model.config
    console = Console()
    # A table that is piped is not cut to a terminal's width.
    console = console if console.is_terminal else Console(width=200)
    console.print(render(summarize(model, (config.in_channels, *config.input_size))))


@app.command()
def config(name: Annotated[str | None, typer.Argument(help="A recipe; without it, their names.")] = None) -> None:
    """Print a recipe's YAML, to start your own from."""
    from kpnet.config import config_text, list_configs

    print(config_text(name) if name else "\n".join(list_configs()), end="" if name else "\n")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The run folder; an earlier demo there is replaced.")] = Path("runs/demo"),
    overrides: OverridesArg = None,
) -> None:
    """Train and evaluate on built-in synthetic faces; no data needed."""
    from kpnet.config import load_config

    config = load_config("demo", overrides or ())
    saved = out / "config.yaml"  # another run there is no demo's to delete
    folder = _train(config, out, False, saved.is_file() and load_config(saved).name == config.name)
    print(f"pictures: {folder / 'predictions.png'} and {folder / 'curves.png'}\nmodel:    {folder / 'final'}")
    print(f"next:     kpnet predict {folder} photo.jpg --draw   |   kpnet config facial_heatmap > my.yaml")


def _ensemble(run: Path, also: list[Path] | None, decoding: str | None) -> KeypointModel | Ensemble:
    from kpnet.ensemble import Ensemble
    from kpnet.model import load_model

    models = [load_model(path, decoding=decoding) for path in (run, *(also or []))]
    return models[0] if len(models) == 1 else Ensemble(models)


def _test_time(flip: bool, scales: str, shift: float) -> TestTime | None:
    from kpnet.testtime import TestTime

    try:
        settings = TestTime(flip, tuple(float(scale) for scale in scales.split(",")), shift)
    except ValueError:
        raise KpnetError(f'--scales: expected positive numbers, e.g. 0.95,1,1.05, found "{scales}"') from None
    return None if settings == TestTime() else settings


def _check_unseen(run: Path, data: Path) -> None:
    """Errors on what a model was trained on are smaller than those on what it was not."""
    from kpnet.config import load_config

    saved = (run.parent if run.name in ("final", "best") else run) / "config.yaml"
    if not saved.is_file():
        return
    config = load_config(saved).data
    for split, name in (("trained on", config.train), ("validated with", config.val)):
        if isinstance(name, str) and (Path(config.root) / name).resolve() == data.resolve():
            raise KpnetError(f"{data}: {run} was {split} it; calibrate on a split of its own")


def _labelled(run: Path, data: Path | None, model: KeypointModel | Ensemble) -> Any:
    """The dataset to evaluate on: a file, or what the run's config calls its validation data."""
    from kpnet.config import DataConfig, load_config
    from kpnet.data.build import build_dataset, build_val

    if data is not None:
        return build_dataset(DataConfig(), model.config, str(data), skeleton=model.skeleton)
    saved = (run.parent if run.name in ("final", "best") else run) / "config.yaml"
    dataset = build_val(load_config(saved), model.skeleton) if saved.is_file() else None
    if dataset is None:
        raise KpnetError(f"{run}: no validation data in its config; give a CSV: kpnet evaluate {run} val.csv")
    return dataset


def _load(
    pictures: list[Picture], bad: list[str], loaded: deque[tuple[Picture, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray, None]]:
    """(name, image, no boxes) of each, with a progress bar; what cannot be read goes to `bad`, the rest to `loaded`."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    for picture in track(pictures, "pictures", console=console, transient=True, disable=not console.is_terminal):
        try:
            image = picture.load()
        except KpnetError as error:
            bad.append(str(error))
            continue
        loaded.append((picture, image))
        yield picture.name, image, None


if __name__ == "__main__":
    main()
