"""The `kpnet calibrate` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kpnet.cli.options import BatchOption, FlipOption, FormatOption, RunArg, parse_format, parse_test_time
from kpnet.core.console import PlainConsole


def calibrate(
    run: RunArg,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labelled data that the model was not trained on.")],
    form: FormatOption = None,
    flip_test: FlipOption = False,
    batch_size: BatchOption = 64,
) -> None:
    """Calibrate a model's confidence on held-out data, and save the calibration with the model.

    For a model that finds instances, their scores are calibrated too.
    """
    from kpnet.cli.printing import print_instances, print_reliability
    from kpnet.core.errors import KpnetError
    from kpnet.core.hub_address import is_hub, parse_address
    from kpnet.core.model_folder import model_folder
    from kpnet.core.outputs import check_writable
    from kpnet.core.runtime import best_device
    from kpnet.evaluation.found import calibrate_found, find_and_measure, measure_found
    from kpnet.evaluation.measurement import predict_dataset
    from kpnet.evaluation.reliability import measure_reliability
    from kpnet.evaluation.run_data import check_unseen, evaluation_dataset
    from kpnet.models.build import load_model
    from kpnet.models.calibration import fit_calibration

    if is_hub(run):
        raise KpnetError(
            f"{parse_address(run)}: the calibration is saved with the model: save a copy, and calibrate that: "
            'python -c "import kpnet; kpnet.load_model(ADDRESS).save(FOLDER)"'
        )
    folder = model_folder(run)
    check_writable(folder)
    model = load_model(run).to(best_device())
    dataset = evaluation_dataset(run, data, model, parse_format(form, "--format"))
    validated = check_unseen(run, dataset, data, fix="calibrate on images of their own")
    model.calibration = model.instance_calibration = None
    size, test_time = model.config.input_size, parse_test_time(flip_test, "1", 0.0)
    result = predict_dataset(model, dataset, batch_size, test_time)
    model.calibration = fit_calibration(result.predicted, result.target, result.visible, size, test_time)
    instances = {}
    if model.finds_instances:
        # The confidence of the points is calibrated already.
        scenes, found, instances["before"] = find_and_measure(model, dataset, batch_size, test_time)
        model.instance_calibration = fitted = calibrate_found(found, scenes)
        instances["after"] = measure_found(model, scenes, [fitted(each) for each in found])
    console = PlainConsole()
    if validated:
        console.print(validated, highlight=False, soft_wrap=True)
    for when, predicted in (("before", result.predicted), ("after", model.calibration(result.predicted, size))):
        if predicted.covariance is not None:
            console.print(f"{when} calibration, on {data}", highlight=False, soft_wrap=True)
            print_reliability(console, measure_reliability(predicted, result.target, result.visible, size))
        if instances:
            print_instances(console, instances[when])
    model.save(folder)
    what = f"{model.calibration.points} points"
    what += f" and {model.instance_calibration.instances} instances" if model.instance_calibration else ""
    console.print(f"calibrated on {what}: {folder}", highlight=False, soft_wrap=True)
