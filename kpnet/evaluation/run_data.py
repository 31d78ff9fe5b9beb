"""The labelled data that a trained model is evaluated on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from kpnet.config.loading import run_config
from kpnet.config.schema import Crop, DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.registry import split_spec
from kpnet.data import KeypointDataset
from kpnet.data.build import build_dataset, build_val
from kpnet.data.formats.detect import detect_format
from kpnet.models.ensemble import Ensemble
from kpnet.models.keypoint_model import KeypointModel

FOLDERS = ("pts", "deeplabcut", "folder")  # data formats of folders


def evaluation_dataset(run: Path | None, data: Path | None, model: KeypointModel | Ensemble) -> KeypointDataset:
    """The dataset to evaluate on: a file or folder, or what the run's config calls its validation data.

    The format of data is told from it, with the options of the run's where that is the same; the run's own, where that
    is of folders and it is one, or where it cannot be told. It is cropped as the model's training data was. Points are
    those that model and file share.
    """
    config = None if run is None else run_config(run)
    if data is not None:
        trained = DataConfig() if config is None else config.data
        own = split_spec(trained.format, "data.format")[0]
        try:
            path, form = (data, own) if data.is_dir() and own in FOLDERS else detect_format(data)
        except KpnetError:
            if not data.exists() or config is None:
                raise
            path, form = data, own
        crop = None if model.config.crop is None else Crop(by=model.config.crop)
        settings = DataConfig(format=trained.format if own == form else form, crop=crop, strict=trained.strict)
        return build_dataset(settings, model.config, str(path), skeleton=model.skeleton, partial=True)
    dataset = None if config is None else build_val(config, model.skeleton, model.frame_window)
    if dataset is None:
        raise KpnetError(
            "no data to evaluate on: give a dataset or a file of labels"
            if run is None
            else f"{run}: no validation data in its config; give some: kpnet evaluate {run} val.csv"
        )
    return dataset


def check_unseen(run: Path, data: Path) -> None:
    """A KpnetError where a model was trained or validated with the file: there its errors are smaller."""
    config = run_config(run)
    if config is None:
        return
    with suppress(KpnetError):  # which a folder with one file of labels is
        data = detect_format(data)[0]
    trained = [("trained on", entry.file) for entry in config.data.train]
    for split, name in (*trained, ("validated with", config.data.val)):
        if isinstance(name, str) and (Path(config.data.root) / name).resolve() == data.resolve():
            raise KpnetError(f"{data}: {run} was {split} it; calibrate on a split of its own")
