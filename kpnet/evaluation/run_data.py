"""The labelled data that a trained model is evaluated on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from kpnet.config.fields import Part
from kpnet.config.loading import run_config
from kpnet.config.schema import Crop, DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.hub_address import format_path
from kpnet.core.registry import split_spec
from kpnet.data import KeypointDataset
from kpnet.data.build import build_dataset, build_val
from kpnet.data.croppers import build_cropper
from kpnet.data.formats.detect import detect_format
from kpnet.data.wrappers.concat import ConcatDataset, ConcatPart
from kpnet.data.wrappers.scenes import Scenes
from kpnet.heads import finds_instances
from kpnet.models.ensemble import Ensemble
from kpnet.models.exported import ExportedModel
from kpnet.models.keypoint_model import KeypointModel

FOLDERS = ("pts", "deeplabcut", "folder", "yolo")  # data formats whose data is a folder


def evaluation_dataset(
    run: Path | None, data: Path | None, model: KeypointModel | ExportedModel | Ensemble, form: Part | None = None
) -> KeypointDataset:
    """Return the dataset to evaluate on: a file or folder of labels, or the run's validation data.

    The samples are cropped as in the model's training, and their points are those that the model and the labels share.

    Args:
        run: The run whose config gives the validation data and the options of its data format.
        data: The labels. Their format is detected; it is the run's if that is one of folders and `data` is a folder, or
            if none is detected. None: the run's validation data.
        model: The model to evaluate.
        form: Name of the labels' data format, or a mapping with its options. None: found as described for `data`.

    Returns:
        The dataset, without augmentation; whole images for a model with the head `centers`.

    Raises:
        KpnetError: The data cannot be read, or the run has no validation data.
    """
    dataset = _evaluation_samples(run, data, model, form)
    if not finds_instances(model.config.head):
        return dataset
    return Scenes(dataset, size=model.config.input_size, in_channels=model.config.in_channels)


def _evaluation_samples(
    run: Path | None, data: Path | None, model: KeypointModel | ExportedModel | Ensemble, form: Part | None
) -> KeypointDataset:
    if form is not None and data is None:
        raise KpnetError("--format: the run's validation data has its own; give labelled data, or leave it out")
    config = None if run is None else run_config(run)
    if data is not None:
        trained = DataConfig() if config is None else config.data
        crop = None if model.config.crop is None else Crop(by=model.config.crop)
        if form is not None:
            settings = DataConfig(format=form, crop=crop, strict=trained.strict)
            return build_dataset(settings, model.config, str(data), skeleton=model.skeleton, partial=True)
        own = split_spec(trained.format, "data.format")[0]
        try:
            path, name = (data, own) if data.is_dir() and own in FOLDERS else detect_format(data)
        except KpnetError:
            if not data.exists() or config is None:
                raise
            path, name = data, own
        settings = DataConfig(format=trained.format if own == name else name, crop=crop, strict=trained.strict)
        return build_dataset(settings, model.config, str(path), skeleton=model.skeleton, partial=True)
    dataset = None if config is None else build_val(config, model.skeleton, model.frame_window)
    if dataset is None:
        raise KpnetError(
            "no data to evaluate on: give a dataset or a file of labels"
            if run is None
            else f"{format_path(run)}: no validation data in its config; give some: "
            f"kpnet evaluate {format_path(run)} val.csv"
        )
    return dataset


def adapt_dataset(dataset: KeypointDataset, model: KeypointModel) -> KeypointDataset:
    """Return the samples of a dataset as a model sees them: its points, size and channels, cropped as in its training.

    Args:
        dataset: The samples, without augmentation.
        model: The model.

    Returns:
        The same samples. Points that the dataset lacks are missing.

    Raises:
        KpnetError: The dataset has none of the model's points, or the model reads whole images.
    """
    config = model.config
    check_reads_samples(config.head, "the model")
    common = {"image_size": config.input_size, "in_channels": config.in_channels}
    view = ConcatDataset(model.skeleton, [ConcatPart("the labels", dataset)], partial=True, **common)
    view.cropper = build_cropper(view, config.crop, config.box_scale)
    return view


def check_reads_samples(head: Part, what: str) -> None:
    """Raise if a model with this head does not predict a labelled instance, but finds those of the whole image."""
    if finds_instances(head):
        raise KpnetError(
            f'{what} has the head "{split_spec(head, "model.head")[0]}", which finds the instances of whole images '
            "itself; expected a head that predicts each labelled instance, such as heatmap"
        )


def check_unseen(run: Path, data: Path, fix: str = "calibrate on a split of its own") -> None:
    """Raise if a run was trained or validated with the file, on which its errors are smaller; `fix` says what to do."""
    config = run_config(run)
    if config is None:
        return
    with suppress(KpnetError):  # `data` may be a folder with one file of labels
        data = detect_format(data)[0]
    trained = [("trained on", entry.file) for entry in config.data.train]
    for split, name in (*trained, ("validated with", config.data.val)):
        if isinstance(name, str) and (Path(config.data.root) / name).resolve() == data.resolve():
            raise KpnetError(f"{data}: {run} was {split} it; {fix}")
