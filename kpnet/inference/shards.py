"""Predictions in shards: a list of inputs in groups, and a Parquet file for each group, which is there whole or not.

The folder:

- `inputs.parquet`: the inputs, a row for each image or chunk of a video; each row group is one shard. Its metadata say
  which model, inputs and options it was made for.
- `predictions/000000.parquet`, …: the predictions of a shard, a row for each point. Its metadata list what could not be
  predicted, and count the images without an instance. A shard is done once its file is there.
- `failed.csv`: what could not be predicted, from all shards.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError
from kpnet.core.files import PARTIAL, replacing
from kpnet.core.outputs import MARKER, folder_kind, is_occupied, mark_folder
from kpnet.core.prefetch import map_ahead
from kpnet.data.formats.image_files import ImageFile
from kpnet.inference.inputs import InputImage
from kpnet.inference.parquet import columns, schema
from kpnet.inference.pipeline import read_pixels, reading_threads
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.inference.tables import TEXT, encodable, further_columns
from kpnet.inference.video_chunks import Chunk, predict_chunk, split_video

INPUTS, PREDICTIONS, FAILED = "inputs.parquet", "predictions", "failed.csv"
KIND = "predictions in shards"
KEY, FAILURES = b"kpnet", b"kpnet_failures"  # of the files' metadata
IMAGES, FRAMES = 1000, 1000  # in a shard
_CHUNK = ("first", "frames", "seek", "start", "stop")


@dataclass(frozen=True, slots=True)
class Shard:
    """What a shard's file says of itself: how many of its inputs were predicted, and why the others were not.

    Attributes:
        predicted: Inputs that were predicted.
        failed: Name of each other input, and why it was not.
        empty: Images in which no instance was found, which have no row.
    """

    predicted: int
    failed: list[tuple[str, str]]
    empty: int


def shard_file(folder: Path, number: int) -> Path:
    """Return the file of a shard."""
    return folder / PREDICTIONS / f"{number:06}.parquet"


def prepare(
    folder: Path,
    identity: Mapping[str, Any],
    images: Iterable[InputImage],
    videos: Iterable[Path],
    window: tuple[int, int],
    failures: list[str],
    size: int = IMAGES,
) -> int:
    """List the inputs in a new folder, or find in it the list that the same call has made before.

    Args:
        folder: The folder.
        identity: What makes two calls the same: the model, the inputs and the options.
        images: The images, which are iterated once, if at all.
        videos: The videos.
        window: Frames before and after a frame that the network looks at.
        failures: Lines on inputs that cannot be listed, to which those on videos are added.
        size: Images in a shard.

    Returns:
        The number of shards.

    Raises:
        KpnetError: The folder is another call's or the user's, or there is nothing to predict.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = json.dumps(identity, sort_keys=True)
    path = folder / INPUTS
    if is_occupied(folder) and folder_kind(folder) != KIND:
        raise KpnetError(f"{folder}: holds other files than those of --engine ray; give another --out")
    if path.exists():
        _check_identity(path, said)
    else:
        (folder / PREDICTIONS).mkdir(parents=True, exist_ok=True)
        mark_folder(folder, KIND)
        schema = _schema(pa).with_metadata({KEY: said.encode()})
        with replacing(path) as beside, pq.ParquetWriter(beside, schema, compression="zstd") as writer:
            for group in _groups(images, videos, window, failures, size):
                writer.write_table(pa.Table.from_pylist(group, schema), row_group_size=len(group))
            writer.add_key_value_metadata({FAILURES: json.dumps(failures).encode()})
    remove_partial(folder)
    count: int = pq.read_metadata(path).num_row_groups
    return count


def listing_failures(folder: Path) -> list[str]:
    """Return a line for each input that could not be listed."""
    import pyarrow.parquet as pq

    found: list[str] = json.loads((pq.read_metadata(folder / INPUTS).metadata or {}).get(FAILURES, b"[]"))
    return found


def missing(folder: Path, count: int) -> list[int]:
    """Return the numbers of the shards that are not there yet."""
    return [number for number in range(count) if not shard_file(folder, number).exists()]


def remove_partial(folder: Path) -> None:
    """Remove the files that workers were writing when they were killed; no worker may be at work."""
    for left in (folder / PREDICTIONS).glob(f"{PARTIAL}*"):
        left.unlink(missing_ok=True)


def predict_shard(predictor: Predictor, folder: Path, number: int) -> None:
    """Predict the inputs of a shard, and write its file, whole or not at all.

    Args:
        predictor: The predictor.
        folder: The folder.
        number: The shard's number.

    Raises:
        OSError: The inputs' list cannot be read, or the shard's file not be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(folder / INPUTS) as file:
        rows = file.read_row_group(number).to_pylist()
    failed: list[tuple[str, str]] = []
    extra = further_columns(predictor.model)
    own = schema(video=True, extra=extra)
    held: dict[str, list[Any]] = {name: [] for name in own.names}
    empty = 0

    def add(prediction: Prediction, frame: int | None = None, time: float | None = None) -> None:
        nonlocal empty
        empty += frame is None and not len(prediction.keypoints)
        for name, values in columns(prediction, extra, frame, time).items():
            held[name] += values

    for prediction in _predict_images(predictor, [row for row in rows if row["video"] is None], failed):
        add(prediction)
    for row in rows:
        if row["video"] is not None:
            for frame, time, prediction in _predict_video(predictor, row, failed):
                add(prediction, frame, time)
    table = pa.table(held, own)
    said = json.dumps({"predicted": len(rows) - len(failed), "failed": failed, "empty": empty}).encode()
    with replacing(shard_file(folder, number)) as beside:
        pq.write_table(table.replace_schema_metadata({KEY: said}), beside, compression="zstd")


def read_shard(path: Path) -> Shard:
    """Read what a shard's file says of itself.

    Raises:
        KpnetError: The file is damaged, or no shard.
    """
    import pyarrow.parquet as pq

    try:
        said = json.loads((pq.read_metadata(path).metadata or {})[KEY])
        return Shard(said["predicted"], [(name, reason) for name, reason in said["failed"]], int(said["empty"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise KpnetError(f"{path}: damaged, or no shard of kpnet: delete it, and give the same command again") from None


def write_failures(folder: Path, count: int) -> tuple[int, int, int]:
    """Write `failed.csv` from the shards that are there, if any of their inputs failed.

    Returns:
        How many inputs were predicted, how many failed, and in how many of the images no instance was found.

    Raises:
        KpnetError: A shard is damaged.
    """
    import pyarrow.parquet as pq

    predicted = failed = empty = 0
    with pq.ParquetFile(folder / INPUTS) as listed:
        rows = [listed.metadata.row_group(number).num_rows for number in range(count)]
    with replacing(folder / FAILED) as beside, beside.open("w", newline="", **TEXT) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "reason"])
        for number in range(count):
            path = shard_file(folder, number)
            if path.exists():
                shard = read_shard(path)
                if shard.predicted + len(shard.failed) != rows[number]:
                    raise KpnetError(f"{path}: of other inputs: delete it, and give the same command again")
                predicted += shard.predicted
                failed += len(shard.failed)
                empty += shard.empty
                table.writerows([encodable(name), encodable(reason)] for name, reason in shard.failed)
    if not failed:
        (folder / FAILED).unlink()
    return predicted, failed, empty


def _check_identity(path: Path, said: str) -> None:
    import pyarrow.parquet as pq

    try:
        known = json.loads((pq.read_schema(path).metadata or {})[KEY])
    except (OSError, ValueError, KeyError):
        raise KpnetError(f"{path}: not a list of inputs that kpnet wrote; give another --out") from None
    for key, value in json.loads(said).items():
        if known.get(key) != value:
            raise KpnetError(
                f"{path.parent}: predictions of another call: its {key} is {known.get(key)}, and here {value}; "
                "give another --out, or the same command again to go on"
            )


def _groups(
    images: Iterable[InputImage], videos: Iterable[Path], window: tuple[int, int], failures: list[str], size: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each shard: some images, or a chunk of a video."""
    rows = _image_rows(images, failures)
    found = False
    while group := list(islice(rows, size)):
        found = True
        yield group
    for path in videos:
        try:
            chunks = split_video(path, FRAMES, window)
        except KpnetError as error:
            failures.append(str(error))
            continue
        for chunk in chunks:
            found = True
            whole = f"{path}, {chunk.frames} frame(s) from {chunk.first}"
            values = {name: getattr(chunk, name) for name in _CHUNK}
            yield [{"image": encodable(whole), "file": _text(path), "video": encodable(str(path)), **values}]
    if not found:
        raise KpnetError(failures[0] if failures else "there is nothing to predict")


def _image_rows(images: Iterable[InputImage], failures: list[str]) -> Iterator[dict[str, Any]]:
    for image in images:
        source = image.source
        if source is None:
            failures.append(f"{image.name}: --engine ray reads image files alone: predict it with the plain engine")
            continue
        failures += [image.warning] if image.warning else []
        height, width = source.size or (None, None)
        yield {
            "image": encodable(image.name),
            "file": _text(source.path),
            "exif": source.exif,
            "bits": source.bits,
            "height": height,
            "width": width,
            "source": source.source,
            "boxes": None if image.boxes is None else [float(value) for box in image.boxes for value in box],
        }


def _text(path: Path) -> bytes:
    return str(path.absolute()).encode(**TEXT)


def _path(row: Mapping[str, Any]) -> Path:
    return Path(row["file"].decode(**TEXT))


def _predict_images(
    predictor: Predictor, rows: list[dict[str, Any]], failed: list[tuple[str, str]]
) -> Iterator[Prediction]:
    images = []
    for row in rows:
        size = None if row["height"] is None else (row["height"], row["width"])
        source = ImageFile(_path(row), row["exif"], row["bits"], size, row["source"])
        boxes = None if row["boxes"] is None else tuple(np.reshape(row["boxes"], (-1, 4)).tolist())
        images.append(InputImage(row["image"], Path(), source.read, boxes=boxes))

    def readable() -> Iterator[tuple[str, np.ndarray, Any]]:
        config, ahead = predictor.model.config, predictor.batch_size
        for image, pixels in map_ahead(partial(read_pixels, config=config), images, reading_threads(), ahead):
            if isinstance(pixels, str):
                failed.append((image.name, pixels))
            else:
                yield image.name, pixels, image.boxes

    return predictor.stream(readable())


def _predict_video(
    predictor: Predictor, row: Mapping[str, Any], failed: list[tuple[str, str]]
) -> Iterator[tuple[int, float, Prediction]]:
    chunk = Chunk(*(row[name] for name in _CHUNK))
    count = 0
    try:
        for number, time, prediction in predict_chunk(predictor, _path(row), chunk):
            count += 1
            yield number, time, replace(prediction, image=row["video"])
    except KpnetError as error:
        failed.append((row["image"], str(error)))
        return
    if count < chunk.frames:
        failed.append((row["image"], f"{chunk.frames - count} of these frames could not be decoded"))


def _schema(pa: Any) -> Any:
    """Return the columns of the list of inputs."""
    text, number = pa.string(), pa.int64()
    return pa.schema(
        {
            "image": text,
            "file": pa.binary(),
            "exif": pa.bool_(),
            "bits": pa.int8(),
            "height": pa.int32(),
            "width": pa.int32(),
            "source": text,
            "boxes": pa.list_(pa.float64()),
            "video": text,
            **dict.fromkeys(_CHUNK, number),
        }
    )


def read_key(path: Path) -> str:
    """Return what is the same for two views of one list of inputs: its metadata and number of shards."""
    import pyarrow.parquet as pq

    found = pq.read_metadata(path)
    return f"{found.num_row_groups} {(found.metadata or {}).get(KEY, b'').decode()}"


def remove_empty(folder: Path) -> None:
    """Remove what `prepare` has made in a folder where there was nothing to predict."""
    with suppress(OSError):
        (folder / PREDICTIONS).rmdir()
        (folder / MARKER).unlink()
        folder.rmdir()
