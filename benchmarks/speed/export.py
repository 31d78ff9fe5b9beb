"""Compare the exports of a run with the model itself: time, size and score.

    python benchmarks/speed/export.py RUN [--out FOLDER] [--threads 1] [--repeats 30]

RUN is a run folder with validation data. It is exported in each precision into FOLDER (default: a temporary one); files
that are there are taken. Times are processor time for a batch of validation images of the input size, from bytes
to points; calls of all of them alternate, in one process. OpenVINO runs the same files, where it is installed.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from kpnet import Predictor, load_model
from kpnet.evaluation.measurement import evaluate_predictions, predict_dataset
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.export.parity import dataset_samples
from kpnet.models.exported import ExportedModel
from kpnet.models.keypoint_model import KeypointModel

PRECISIONS, BATCHES, STARTS = ("fp32", "fp16", "int8"), (1, 32), 5
AIMS = {  # shares of the model's own time at batch 1 and 32, of the size in fp32, and of the score that is lost
    "onnxruntime fp32": {"batch 1": 0.6},
    "onnxruntime int8": {"batch 1": 0.36, "batch 32": 0.62, "size": 0.3, "lost": 0.02},
}
START_AIM = 1.0  # processor seconds from the start of predict.py to its first prediction

Call = Callable[[np.ndarray, np.ndarray], Any]


def export(run: Path, folder: Path, precision: str) -> Path:
    """Return the file of a run in a precision, exported if it is not there."""
    path = folder / precision / f"{run.resolve().name}.onnx"
    if not path.is_file():
        command = [sys.executable, "-m", "kpnet.cli", "export", str(run), "--to", "onnx", "--force"]
        subprocess.run([*command, "--precision", precision, "--out", str(path.parent)], check=True)
    return path


def openvino_call(path: Path, threads: int) -> Call | None:
    """Return a function that runs a file in OpenVINO, or None where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
    return lambda images, matrices: request.infer([images, matrices])


def milliseconds(calls: dict[str, Call], images: np.ndarray, matrices: np.ndarray, repeats: int) -> list[float]:
    """Return each call's median processor time, of calls that alternate."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 3):
        for call, taken in zip(calls.values(), times, strict=True):
            start = time.process_time()
            call(images, matrices)
            if repeat >= 3:  # the first ones warm up
                taken.append(1e3 * (time.process_time() - start))
    return [statistics.median(taken) for taken in times]


def start_seconds(script: Path, model: Path, image: Path) -> float:
    """Return the processor seconds of a program that predicts one image, imports included."""
    taken = []
    for _ in range(STARTS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, str(script), str(model), str(image)], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(taken)


def measure(run: Path, folder: Path, repeats: int) -> None:
    files = {precision: export(run, folder, precision) for precision in PRECISIONS}
    model = load_model(run)
    predictor = Predictor(model, device="cpu")
    dataset = evaluation_dataset(run, None, model)
    samples = list(dataset_samples(dataset, max(BATCHES)))

    exported = {precision: ExportedModel(path) for precision, path in files.items()}
    calls: dict[str, Call] = {
        "kpnet": lambda images, _: predictor.model.infer(torch.from_numpy(images).movedim(-1, -3).float() / 255)
    }
    calls |= {f"onnxruntime {precision}": each.run for precision, each in exported.items()}
    for precision, path in files.items():
        call = openvino_call(path, torch.get_num_threads())
        if call is not None:
            calls[f"OpenVINO {precision}"] = call

    values: dict[str, dict[str, float]] = {name: {} for name in calls}
    for batch in BATCHES:
        images = np.stack([samples[index % len(samples)].pixels for index in range(batch)])
        matrices = np.stack([samples[index % len(samples)].matrix for index in range(batch)]).astype(np.float32)
        for name, taken in zip(calls, milliseconds(calls, images, matrices, repeats), strict=True):
            values[name][f"batch {batch} ms"] = taken
            values[name][f"batch {batch}"] = taken / values["kpnet"][f"batch {batch} ms"]
    models: dict[str, KeypointModel | ExportedModel] = {"kpnet": model}
    models |= {f"onnxruntime {precision}": each for precision, each in exported.items()}
    for name, each in models.items():
        values[name]["score"] = evaluate_predictions(predict_dataset(each, dataset), each)["score"]
        values[name]["lost"] = 1 - values[name]["score"] / values["kpnet"]["score"]
    for name in values:
        if name != "kpnet":
            size = files[name.split()[1]].stat().st_size
            values[name] |= {"size MB": size / 1e6, "size": size / files["fp32"].stat().st_size}
    show(values)
    script = files["fp32"].with_name("predict.py")
    image = folder / "first.png"
    pixels = samples[0].pixels
    Image.fromarray(pixels[0] if pixels.ndim == 4 else pixels.squeeze()).save(image)
    seconds = start_seconds(script, files["fp32"], image)
    print(f"{script.name}: {seconds:.2f} processor seconds from its start to its end: {reached(seconds, START_AIM)}")


def show(values: dict[str, dict[str, float]]) -> None:
    """Print the table, and the aims."""
    columns = {"batch 1 ms": ".2f", "batch 1": ".2f", "batch 32 ms": ".1f", "batch 32": ".2f"}
    columns |= {"size MB": ".2f", "size": ".2f", "score": ".1f"}
    print("| | " + " | ".join(columns) + " |\n| --- |" + " ---: |" * len(columns))
    for name, row in values.items():
        cells = [format(row[column], form) if column in row else "" for column, form in columns.items()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for name, aims in AIMS.items():
        for column, aim in aims.items():
            print(f"{name}, {column}: {values[name][column]:.3f}: {reached(values[name][column], aim)}")


def reached(value: float, aim: float) -> str:
    return f"at most {aim:g} {'reached' if value <= aim else 'missed'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = given.out or Path(tempfile.mkdtemp())
    try:
        measure(given.run, folder, given.repeats)
    finally:
        if given.out is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
