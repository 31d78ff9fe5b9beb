"""The `kpnet calibrate` command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kpnet.cli.options import (
    BatchOption,
    FlipOption,
    FormatOption,
    RunArg,
    folder_to_save,
    parse_format,
    parse_test_time,
)
from kpnet.core.console import PlainConsole
from kpnet.core.errors import KpnetError

if TYPE_CHECKING:
    from kpnet.data import KeypointDataset
    from kpnet.evaluation.measurement import Predictions
    from kpnet.models.keypoint_model import KeypointModel
    from kpnet.models.test_time import TestTime

FOLDS = "folds"  # in the run folder: the trainings on the folds of its training data


def calibrate(
    run: RunArg,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="Labelled data that the model was not trained on.", show_default=False),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="In place of DATA: train N models, each on all folds but one of the run's training data, and "
            "calibrate on what each predicts for the fold that it did not see.",
        ),
    ] = None,
    form: FormatOption = None,
    flip_test: FlipOption = False,
    batch_size: BatchOption = 64,
) -> None:
    """Calibrate a model's confidence on held-out data, and save the calibration with the model.

    For a model that finds instances, their scores are calibrated too.
    """
    from kpnet.cli.printing import print_instances, print_presence, print_reliability
    from kpnet.core.runtime import best_device
    from kpnet.evaluation.cross_fitting import first_half
    from kpnet.evaluation.found import calibrate_found, find_and_measure, measure_found
    from kpnet.evaluation.measurement import predict_dataset
    from kpnet.evaluation.presence import first_rows, with_absences
    from kpnet.evaluation.reliability import cross_fit_presence, measure_presence
    from kpnet.evaluation.run_data import check_unseen, evaluation_dataset
    from kpnet.models.build import load_model
    from kpnet.models.calibration import fit_calibration

    if (data is None) == (folds is None):
        raise KpnetError(
            "expected labelled data that the model was not trained on, or --folds 5 for the run's training data, out "
            f"of fold; found {'neither' if data is None else 'both'}"
        )
    if folds is not None and form is not None:
        raise KpnetError("--format names the format of DATA; with --folds, leave it out")
    folder = folder_to_save(run, "the calibration")
    model = load_model(run).to(best_device())
    model.calibration = model.instance_calibration = None
    size, test_time = model.config.input_size, parse_test_time(flip_test, "1", 0.0)
    console = PlainConsole()
    instances: dict[str, dict[str, Any]] = {}
    validated = None
    if data is None:
        dataset, known = _out_of_fold(run, model, folds or 0, flip_test, console)
        result = first_rows(known, len(dataset))
    else:
        dataset = evaluation_dataset(run, data, model, parse_format(form, "--format"))
        validated = check_unseen(run, dataset, data, fix="calibrate on images of their own")
        result = predict_dataset(model, dataset, batch_size, test_time)
        known = with_absences(model, dataset, result, batch_size, test_time)
    model.calibration = fit_calibration(known.predicted, known.target, known.visible, size, test_time, known.present)
    if model.finds_instances:
        # The confidence of the points is calibrated already.
        scenes, found, instances["before"] = find_and_measure(model, dataset, batch_size, test_time)
        model.instance_calibration = fitted = calibrate_found(found, scenes)
        instances["after"] = measure_found(model, scenes, [fitted(each) for each in found])
    if validated is not None:
        console.print(validated, markup=False, highlight=False, soft_wrap=True)
    source = "the training data, out of fold" if data is None else str(data)
    for when, reliability in _reliability(model, result, known).items():
        if reliability is not None:
            console.print(f"{when} calibration, on {source}", markup=False, highlight=False, soft_wrap=True)
            print_reliability(console, reliability)
        if instances:
            print_instances(console, instances[when])
    if validated is None and (line := _difficulty(run, model, result, batch_size, test_time)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if known.predicted.presence is not None and known.present is not None:
        half = first_half(result.images)
        presence = cross_fit_presence(known.predicted.presence, known.present, half)
        print_presence(
            console, measure_presence(presence, known.present), copies=len(known.target) > len(result.target)
        )
    if model.watch_reference is not None:
        console.print(
            "the summary for kpnet watch is that of the earlier calibration: make it again with kpnet guarantee",
            highlight=False,
            soft_wrap=True,
        )
    model.save(folder)
    what = f"{model.calibration.points} points"
    what += f" and {model.instance_calibration.instances} instances" if model.instance_calibration else ""
    console.print(f"calibrated on {what}: {folder}", highlight=False, soft_wrap=True)


def _out_of_fold(
    run: Path, model: KeypointModel, folds: int, flip: bool, console: PlainConsole
) -> tuple[KeypointDataset, Predictions]:
    """Return the run's training data, and predictions for it by models that did not see them; behind them of copies.

    The copies are those of `with_absences`, where presence needs them.
    """
    from kpnet.config.loading import run_config
    from kpnet.evaluation.run_data import run_folder
    from kpnet.experiments.folds import predict_folds

    config = run_config(run)
    if config is None:
        raise KpnetError(f"{run}: --folds trains by the config of a run, and this is a model alone: give labelled data")
    if config.data.fold is not None:
        raise KpnetError(f"{run}: --folds: the run was trained on a fold itself (data.fold): give labelled data")
    if model.finds_instances:
        raise KpnetError(f"{run}: --folds: the scores of found instances need whole images: give labelled data")
    if sum(model.frame_window):
        raise KpnetError(f"{run}: --folds: frames around one of a fold are in the others: give labelled data")
    out = run_folder(run) / FOLDS
    console.print(f"{folds} trainings, kept and continued in {out}", markup=False, highlight=False, soft_wrap=True)
    return predict_folds(config, folds, out, console=console, flip=flip, absences=True)


def _reliability(model: KeypointModel, result: Predictions, known: Predictions) -> dict[str, dict[str, Any] | None]:
    """Return the reliability before and after the calibration; the latter cross-fitted where the data suffice.

    `known` are the predictions that the calibration was fitted to: the result, and maybe copies for presence.
    """
    from kpnet.evaluation.cross_fitting import first_half
    from kpnet.evaluation.reliability import measure_cross_fitted, measure_reliability

    assert model.calibration is not None
    size, predicted = model.config.input_size, result.predicted
    truth = (result.target, result.visible, size, result.present, result.images)
    before = None if predicted.covariance is None else measure_reliability(predicted, *truth)
    try:
        half = first_half(result.images)
        given = (known.predicted, known.target, known.visible, size)
        after = measure_cross_fitted(*given, half, known.present, result.images)
    except KpnetError:  # there are too few points for two calibrations
        after = measure_reliability(model.calibration(predicted, size), *truth)
    return {"before": before, "after": after}


def _difficulty(
    run: Path,
    model: KeypointModel,
    result: Predictions,
    batch_size: int,
    test_time: TestTime | None,
) -> str | None:
    """Return whether the run's validation data are as hard as those of the calibration; None where it has none."""
    from kpnet.config.loading import run_config
    from kpnet.evaluation.difficulty import compare_difficulty
    from kpnet.evaluation.measurement import predict_dataset
    from kpnet.evaluation.run_data import validation_dataset

    config = run_config(run)
    if config is None or (config.data.val is None and config.data.fold is None):
        return None
    try:
        validation = validation_dataset(run, model)
        other = predict_dataset(model, validation, batch_size, test_time)
        found = compare_difficulty(result, other, model.config.input_size)
    except KpnetError as error:  # its files may be elsewhere by now
        return f"not compared with the validation data: {error}"
    return found.describe(("the calibration data", "the validation data"))
