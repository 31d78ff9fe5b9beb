"""The labelled data that a trained model is evaluated on."""

from __future__ import annotations

from collections.abc import Mapping
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
from kpnet.data.seen_images import image_hashes, read_seen_images
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
    if data is None:
        if form is not None:
            raise KpnetError("--format: the run's validation data has its own; give labelled data, or leave it out")
        if run is None:
            raise KpnetError("no data to evaluate on: give a dataset or a file of labels")
        if (dataset := _validation_data(run, model)) is None:
            raise KpnetError(f"{_without_validation(run)}; give a file of labels")
    else:
        dataset = _labelled_data(run, data, model, form)
    return _as_evaluated(dataset, model)


def validation_dataset(run: Path, model: KeypointModel | ExportedModel | Ensemble) -> KeypointDataset:
    """Return a run's validation data, as `evaluation_dataset` does.

    Raises:
        KpnetError: The run has none, or it cannot be read.
    """
    if (dataset := _validation_data(run, model)) is None:
        raise KpnetError(_without_validation(run))
    return _as_evaluated(dataset, model)


def _validation_data(run: Path, model: KeypointModel | ExportedModel | Ensemble) -> KeypointDataset | None:
    config = run_config(run)
    return None if config is None else build_val(config, model.skeleton, model.frame_window)


def _without_validation(run: Path) -> str:
    return f"{format_path(run)}: no validation data in its config"


def _as_evaluated(dataset: KeypointDataset, model: KeypointModel | ExportedModel | Ensemble) -> KeypointDataset:
    """Return whole images for a model that finds instances, and else the samples as they are."""
    if not finds_instances(model.config.head):
        return dataset
    return Scenes(dataset, size=model.config.input_size, in_channels=model.config.in_channels)


def _labelled_data(
    run: Path | None, data: Path, model: KeypointModel | ExportedModel | Ensemble, form: Part | None
) -> KeypointDataset:
    config = None if run is None else run_config(run)
    trained = DataConfig() if config is None else config.data
    crop = None if model.config.crop is None else Crop(by=model.config.crop)
    path = data
    if form is None:
        own = split_spec(trained.format, "data.format")[0]
        try:
            path, name = (data, own) if data.is_dir() and own in FOLDERS else detect_format(data)
        except KpnetError:
            if not data.exists() or config is None:
                raise
            name = own
        form = trained.format_named(name)
    settings = DataConfig(format=form, crop=crop, missing=trained.missing, strict=trained.strict)
    return build_dataset(settings, model.config, str(path), skeleton=model.skeleton, partial=True)


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
    view.cropper, view.missing = build_cropper(view, config.crop, config.box_scale), dataset.missing
    return view


def check_reads_samples(head: Part, what: str) -> None:
    """Raise if a model with this head does not predict a labelled instance, but finds those of the whole image."""
    if finds_instances(head):
        raise KpnetError(
            f'{what} has the head "{split_spec(head, "model.head")[0]}", which finds the instances of whole images '
            "itself; expected a head that predicts each labelled instance, such as heatmap"
        )


def check_unseen(
    run: Path,
    dataset: KeypointDataset | None,
    what: Path,
    *,
    fix: str = "give images of their own",
    validation_allowed: bool = True,
) -> str | None:
    """Raise if a run was trained with held-out data, on which its errors are smaller.

    Images are known by the hashes that the run keeps, whatever their file is called; data of a run without them, by
    its file alone.

    Args:
        run: The run folder, or the folder of one of its models.
        dataset: The held-out data; None: only its file is looked at.
        what: Its file or folder.
        fix: What else to do, for the error.
        validation_allowed: Whether the run may have been validated with it.

    Returns:
        A line that says that the run was validated with it, to be printed; None where it was not.

    Raises:
        KpnetError: The run was trained with some of it, or validated with it where that is not allowed.
    """
    config = run_config(run)
    if config is None:
        return None
    seen = None if dataset is None else read_seen_images(run_folder(run))
    images = {} if dataset is None or seen is None else image_hashes(dataset, bar=True)
    for split, names in (("train", [entry.file for entry in config.data.train]), ("val", [config.data.val])):
        if seen is None:
            part = "it" if any(_is_source(Path(config.data.root), name, what) for name in names) else None
        else:
            part = _shared(images, seen[split])
        if part is None:
            continue
        if split == "train":
            raise KpnetError(f"{what}: {run} was trained on {part}; {fix}")
        if not validation_allowed:
            raise KpnetError(f"{what}: {run} was validated with {part}; {fix}")
        return f"{what}: {run} was validated with {part}"
    return None


def run_folder(run: Path) -> Path:
    """Return the folder of a run, of which that of a model may be given."""
    folder = (run.parent if run.is_file() else run).resolve()
    return folder.parent if folder.name in ("final", "best") else folder


def _is_source(root: Path, name: str | int | None, what: Path) -> bool:
    """Return whether an entry of a run's config is a file or folder of labels."""
    with suppress(KpnetError):  # `what` may be a folder with one file of labels
        what = detect_format(what)[0]
    return isinstance(name, str) and (root / name).resolve() == what.resolve()


def _shared(images: Mapping[str, str], seen: frozenset[str]) -> str | None:
    """Return how many of the images, names by hash, have been seen, with the name of the first; None where none has."""
    shared = [name for digest, name in images.items() if digest in seen]
    if not shared:
        return None
    if len(shared) == len(images):
        return "it"
    return f'{len(shared)} of its {len(images)} images, such as "{shared[0]}"'
