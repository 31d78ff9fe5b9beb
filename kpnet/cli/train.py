"""What the commands of `kpnet.cli` share: options to settings, arguments to data."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.config import load_config
from kpnet.ensemble import Ensemble
from kpnet.errors import KpnetError
from kpnet.model import KeypointModel
from kpnet.pictures import Picture, dataset_pictures, write_drawn
from kpnet.predictor import Box, Predictor
from kpnet.pretrain_config import PretrainConfig
from kpnet.registry import split_spec
from kpnet.schema import Config, Crop, DataConfig
from kpnet.tables import Table
from kpnet.testtime import TestTime

FOLDERS = ("pts", "deeplabcut", "folder")  # data formats of folders


def train_and_tell(config: Config, out: Path | None, resume: bool, force: bool) -> Path:
    """The run's folder, once trained; measures and files go to the terminal."""
    from rich.console import Console

    from kpnet.engine.training import train as run_training
    from kpnet.report import print_measures

    console = Console()
    with _told(out or Path("runs") / config.name):
        folder, _, measures = run_training(config, out=out, resume=resume, force=force, console=console)
    if measures:
        print_measures(console, measures, "final model on the validation data")
    if int(os.environ.get("LOCAL_RANK", "0")):
        return folder  # a further process of the same training
    files = "final/ and best/ (the models), predictions.png, curves.png, metrics.csv"
    console.print(f"the run is in {folder}: {files}", soft_wrap=True)
    return folder


def pretrain_and_tell(config: PretrainConfig, out: Path | None, resume: bool, force: bool) -> None:
    """Pretrain; what was measured and where the encoder is go to the terminal."""
    from rich.console import Console

    from kpnet.engine.pretrain import pretrain

    console = Console()
    with _told(out or Path("runs") / config.name):
        folder, _, measures = pretrain(config, out=out, resume=resume, force=force, console=console)
    if int(os.environ.get("LOCAL_RANK", "0")):
        return
    lines = []
    if measures:
        errors = (f"{measures[key]:.5f}" for key in ("mse", "mean_image_mse"))
        lines.append("mean squared error of the validation images {}, of their mean image {}".format(*errors))
    lines.append(f"the run is in {folder}: reconstructions.png, interpolations.png, curves.png, metrics.csv, final/")
    lines.append(f"its encoder is a backbone: kpnet train CONFIG model.pretrained={folder}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """An interrupted training, and one that cannot write its run, as one line each."""
    try:
        yield
    except KeyboardInterrupt:
        raise KpnetError("interrupted; the same command with --resume goes on after the last whole epoch") from None
    except OSError as error:  # a full disk does not say where, inside a checkpoint
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or folder)) from None


def parse_test_time(flip: bool, scales: str, shift: float) -> TestTime | None:
    """The settings of --flip-test, --scales and --shift; None where they ask for nothing."""
    try:
        numbers = tuple(float(scale) for scale in scales.split(","))
    except ValueError:
        raise KpnetError(f'--scales: expected numbers, e.g. 0.95,1,1.05, found "{scales}"') from None
    settings = TestTime(flip, numbers, shift)
    return None if settings == TestTime() else settings


def labelled(run: Path, data: Path | None, model: KeypointModel | Ensemble) -> Any:
    """The dataset to evaluate on: a file or folder, or what the run's config calls its validation data.

    The format of data is told from it, with the options of the run's where that is the same; the run's own, where that
    is of folders and it is one, or where it cannot be told. It is cropped as the model's training data was. Points are
    those that model and file share.
    """
    from kpnet.data.build import build_dataset, build_val
    from kpnet.data.guess import guess_format

    config = run_config(run)
    if data is not None:
        trained = DataConfig() if config is None else config.data
        own = split_spec(trained.format, "data.format")[0]
        try:
            path, form = (data, own) if data.is_dir() and own in FOLDERS else guess_format(data)
        except KpnetError:
            if not data.exists() or config is None:
                raise
            path, form = data, own
        crop = None if model.config.crop is None else Crop(by=model.config.crop)
        settings = DataConfig(format=trained.format if own == form else form, crop=crop, strict=trained.strict)
        return build_dataset(settings, model.config, str(path), skeleton=model.skeleton, partial=True)
    dataset = None if config is None else build_val(config, model.skeleton)
    if dataset is None:
        raise KpnetError(f"{run}: no validation data in its config; give some: kpnet evaluate {run} val.csv")
    return dataset


def val_pictures(run: Path, model: KeypointModel) -> list[Picture]:
    """The samples of what the run's config calls its validation data, none of them read yet."""
    from kpnet.data.build import build_val

    config = run_config(run)
    dataset = None if config is None else build_val(config, model.skeleton)
    if dataset is None:
        raise KpnetError(f"{run}: no validation data in its config; give pictures: kpnet visualize {run} photo.jpg")
    return dataset_pictures(dataset, "val", "val")


def check_unseen(run: Path, data: Path) -> None:
    """A KpnetError where a model was trained or validated with the file: there its errors are smaller."""
    from kpnet.data.guess import guess_format

    config = run_config(run)
    if config is None:
        return
    with suppress(KpnetError):  # which a folder with one file of labels is
        data = guess_format(data)[0]
    trained = [("trained on", entry.file) for entry in config.data.train]
    for split, name in (*trained, ("validated with", config.data.val)):
        if isinstance(name, str) and (Path(config.data.root) / name).resolve() == data.resolve():
            raise KpnetError(f"{data}: {run} was {split} it; calibrate on a split of its own")


def predict_pictures(
    predictor: Predictor, pictures: list[Picture], table: Table, out: Path, draw: bool
) -> tuple[Path, int, list[str]]:
    """The file that `table` writes into `out`, how many pictures are in it, and what was wrong with the others."""
    bad: list[str] = []
    loaded: deque[tuple[Picture, np.ndarray]] = deque()  # of a batch at most
    count = 0
    for prediction in predictor.stream(_load(pictures, bad, loaded)):
        count += 1
        picture, image = loaded.popleft()
        table.add(prediction, picture, image)
        if draw:
            write_drawn(prediction, image, predictor.model.skeleton, out / picture.target)
    if not count:
        raise KpnetError(bad[0])
    return table.save(out), count, bad


def _load(
    pictures: list[Picture], bad: list[str], loaded: deque[tuple[Picture, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray, Sequence[Box] | None]]:
    """(name, image, boxes) of each, with a progress bar; what cannot be read goes to `bad`, the rest to `loaded`."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    for picture in track(pictures, "pictures", console=console, transient=True, disable=not console.is_terminal):
        try:
            image = picture.load()
        except KpnetError as error:
            bad.append(str(error))
            continue
        bad += [picture.lost] if picture.lost else []
        loaded.append((picture, image))
        yield picture.name, image, picture.boxes


def visualize_pictures(model: KeypointModel, pictures: list[Picture], out: Path) -> tuple[list[str], list[str]]:
    """Draw the network's inside into `out`, of each picture in a folder of its own.

    The lines that say what was drawn, and what there is not to draw; and what was wrong with pictures.
    """
    from kpnet import plot

    kinds = {"features": plot.draw_features, "heatmaps": plot.draw_heatmaps, "spread": plot.draw_spread}
    drawn: dict[str, None] = {}  # in their order, each once
    missing: dict[str, None] = {}
    bad: list[str] = []

    def save(draw: Callable[[], Any], target: Path) -> None:
        try:
            plot.save_figure(draw(), target)
            drawn[target.name] = None
        except plot.NothingToDraw as error:
            missing[str(error)] = None

    for picture in pictures:
        try:
            image = picture.load()
        except KpnetError as error:
            bad.append(str(error))
            continue
        for name, draw in kinds.items():
            save(partial(draw, model, image), out / picture.target.with_suffix("") / f"{name}.png")
    count = len(pictures) - len(bad)
    if not count:
        raise KpnetError(bad[0])
    images = f"{count} image(s) in {out}, a folder each: {', '.join(drawn)}"
    save(partial(plot.draw_filters, model), out / "filters.png")
    return [images, *([f"the first layer: {out / 'filters.png'}"] if "filters.png" in drawn else []), *missing], bad


def tune_and_tell(
    config: Config, out: Path, lr: bool, batch_size: bool, most: int | None, steps: int
) -> tuple[list[str], list[str]]:
    """What was found, as key=value lines, and how; the curve of the learning rate is drawn into `out`."""
    from rich.console import Console

    from kpnet import plot
    from kpnet.data.build import build_splits, unlabelled_points
    from kpnet.engine.tuning import find_batch_size, find_lr, say_batch_size

    console = Console(stderr=True)
    data = build_splits(config)[0]
    unlabelled_points(data)  # a KpnetError for a file without a label
    found, notes = [], []
    if batch_size:
        with console.status("trying batch sizes"):
            batch = find_batch_size(config, data, most)
        config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": batch.size})})
        found.append(f"train.batch_size={batch.size}")
        notes.append(say_batch_size(batch, len(data)))
    if lr:
        with console.status("trying learning rates"):
            curve, said = find_lr(config, data, steps)
        figure = plot.draw_lr_curve(curve.rates, curve.losses, curve.smoothed, curve.suggestion)
        plot.save_figure(figure, out / "learning_rate.png")
        found.append(f"train.optimizer.lr={curve.suggestion:.1e}")
        notes += [*said, f"the curve: {out / 'learning_rate.png'}"]
    return found, notes


def run_config(run: Path) -> Config | None:
    """The config of a run folder, or of the folder of one of its models."""
    saved = (run.parent if run.name in ("final", "best") else run) / "config.yaml"
    return load_config(saved) if saved.is_file() else None
