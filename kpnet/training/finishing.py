"""The end of a supervised training: the final model is calibrated, measured, saved and drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from kpnet import plot
from kpnet.coordinates import normalized_to_pixel
from kpnet.core.model_folder import WEIGHTS
from kpnet.data import KeypointDataset
from kpnet.data.seen_images import read_seen_images
from kpnet.evaluation.cross_fitting import calibrate_model
from kpnet.evaluation.found import find_and_measure
from kpnet.evaluation.measurement import Predictions, evaluate_predictions, predict_dataset
from kpnet.metrics import PASS_MARKS
from kpnet.models.build import load_model
from kpnet.models.files import weights_digest
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.record import FIGURE, write_record
from kpnet.plot.shape import mean_shape
from kpnet.training.callbacks import draw_samples, save_model


def finish_run(
    folder: Path, model: KeypointModel, val: KeypointDataset | None, workers: int, console: Console
) -> dict[str, Any]:
    """Calibrate the final model, and save it, its measures and the figures.

    Args:
        folder: The run folder.
        model: The final model, in eval mode.
        val: The validation data, or None.
        workers: Processes that load images in the background.
        console: Where is said what was calibrated.

    Returns:
        The measures on the validation data; none without it.
    """
    predictions, measures = None, {}
    if val is None:
        _tell(f"not calibrated, as there is no validation data: kpnet calibrate {folder} --folds 5", console)
    else:
        predictions = predict_dataset(model, val, workers=workers)
        measures = _calibrate_and_measure(folder, model, val, predictions, workers, console)
    plain = {k: v for k, v in measures.items() if not isinstance(v, dict)}
    if found := measures.get("instances"):
        plain |= {f"found_{name.lower()}": found[name] for name in ("AP", "recall", "precision")}
    table = pd.read_csv(folder / "metrics.csv")  # the callback's rows may be those of a forked process
    final = folder / "final"
    save_model(model, final, int(table.epoch.iloc[-1]), plain)
    model.folder = final
    if predictions is not None:
        write_record(final, model, measures)
        target = normalized_to_pixel(predictions.target, model.config.input_size)
        labelled = torch.where(predictions.visible[..., None], target, torch.nan)
        plot.save_figure(plot.draw_skeleton(model.skeleton, mean_shape(labelled.numpy())), final / FIGURE)
    figure = draw_samples(model, val)
    if figure is not None:
        plot.save_figure(figure, folder / "predictions.png")
    pass_mark = PASS_MARKS.get(str(model.skeleton.name))
    plot.save_figure(plot.draw_curves(table, pass_mark), folder / "curves.png")
    return measures


def _calibrate_and_measure(
    folder: Path,
    model: KeypointModel,
    val: KeypointDataset,
    predictions: Predictions,
    workers: int,
    console: Console,
) -> dict[str, Any]:
    """Calibrate the final and the best model, and return the measures of the final one."""
    measures = evaluate_predictions(predictions, model)
    if shared := _trained_on(folder):
        _tell(f"not calibrated, as the model was trained on {shared} of the validation images", console)
        return measures | ({"instances": find_and_measure(model, val).measures} if model.finds_instances else {})
    fitted = calibrate_model(model, val, predictions)
    if fitted.points:  # what was measured before is not of the calibrated model
        measures = {name: each for name, each in measures.items() if name not in ("reliability", "presence")}
    _tell(f"on the validation data, final/ is {fitted.describe()}", console)
    if fitted.points or fitted.instances:
        _calibrate_best(folder / "best", model, val, workers, console)
    return measures | fitted.measures


def _trained_on(run: Path) -> int:
    """Return how many of a run's validation images are among those of its training."""
    seen = read_seen_images(run)
    return 0 if seen is None else len(seen["train"] & seen["val"])


def _calibrate_best(folder: Path, final: KeypointModel, val: KeypointDataset, workers: int, console: Console) -> None:
    """Calibrate the model of the best validation score, and warn of what its calibration is worth."""
    if not (folder / WEIGHTS).is_file():
        return
    best = load_model(folder).to(final.mean.device)
    if weights_digest(best) == weights_digest(final):
        best.calibration, best.instance_calibration = final.calibration, final.instance_calibration
    else:
        best.calibration = best.instance_calibration = None
        calibrate_model(best, val, predict_dataset(best, val, workers=workers))
    best.save(folder)
    warning = "best/ is calibrated on the validation data too, which picked it: it is a little too sure"
    console.print(f"warning: {warning}", style="yellow", soft_wrap=True)


def _tell(line: str, console: Console) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
