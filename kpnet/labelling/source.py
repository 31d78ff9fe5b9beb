"""What `kpnet label` labels: the images of a folder, frames of a video, or those of a labelled file."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from kpnet.config.fields import Part
from kpnet.core.errors import KpnetError
from kpnet.core.files import file_name, partial_path
from kpnet.core.outputs import check_writable, folder_kind, mark_folder
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import KeypointDataset
from kpnet.data.build import open_dataset
from kpnet.data.formats.detect import detect_format
from kpnet.data.formats.image_files import ImageFile, ImageFileDataset
from kpnet.data.formats.instances import PERSON, SOURCES
from kpnet.data.formats.writing import sample_points, sample_sources
from kpnet.data.images import VIDEO_SUFFIXES, find_image_files, is_turned, read_image, read_image_size
from kpnet.data.video import Video
from kpnet.labelling.background_training import runs_folder
from kpnet.labelling.label_rows import Instance, Point, check_kept, reorder_points
from kpnet.labelling.labels import Content, LabelFile, is_label_file, read_content, skeleton_path
from kpnet.labelling.picking import SIDE, Pick, pick_different

IMAGES = "images of a labelled file"  # the kind of a folder that is written, as these are
FRAMES = {Pick.evenly: "frames of a video", Pick.difference: "frames of a video by difference"}
_OF_FOLDERS = ("pts", "deeplabcut", "yolo")  # formats of labels that a folder as a whole has
_log = logging.getLogger("kpnet")


@dataclass
class Source:
    """Images to label.

    Attributes:
        images: The image files.
        labels: The file of labels, by default.
        skeleton: Keypoints of the labels that the images came with; None if they have none.
        start: These labels, by image.
        problems: Images that cannot be labelled, with the reason.
        inside: Folder that the images have to lie in, links followed. None: a labelled file names them.
        stays: The file that the labels come from, if they go to another one.
        content: What was read of the file that the labels come from, if `kpnet label` wrote it.
    """

    images: list[Path]
    labels: Path
    skeleton: Skeleton | None = None
    start: Mapping[int, tuple[Instance, ...]] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    inside: Path | None = None
    stays: Path | None = None
    content: Content | None = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the keypoints of these labels."""
        return None if self.skeleton is None else self.skeleton.names

    def read(self, index: int) -> np.ndarray:
        """Return an image as kpnet reads it, RGB uint8 (H, W, 3).

        Args:
            index: The image.

        Raises:
            KpnetError: It cannot be read, or lies outside of the folder.
        """
        if index in self.problems:
            raise KpnetError(self.problems[index])
        path = self.images[index]
        if self.inside is not None and not path.resolve().is_relative_to(self.inside):
            raise KpnetError(f"{path}: a link that leads out of {self.inside}")
        return read_image(path)


def open_source(
    data: Path,
    form: Part | None = None,
    skeleton: str | None = None,
    *,
    frames: int = 100,
    pick: Pick | None = None,
    out: Path | None = None,
) -> Source:
    """Find the images to label, and the labels that they come with.

    Args:
        data: A folder of images, a video, or a file or folder of labels.
        form: Format of the labels. None: detected.
        skeleton: Skeleton of points without names.
        frames: Number of frames to take from a video; they are written as PNG beside it.
        pick: How these are picked. None: evenly. Frames that are there from an earlier call are taken as they are.
        out: The file of labels. None: chosen from `data`.

    Returns:
        The images.

    Raises:
        KpnetError: There is nothing to label, the frames cannot be written, or `pick` is given without a video.
    """
    if data.suffix.lower() in VIDEO_SUFFIXES and data.is_file():
        folder = data.with_name(f"{file_name(data.stem)}_frames")
        there = folder_kind(folder) if folder.is_dir() else None
        pick = pick or Pick.evenly
        if there in FRAMES.values() and there != FRAMES[pick]:
            _log.warning("%s: its %s are taken; to pick them otherwise, move it away", folder, there)
        else:
            _write_once(folder, FRAMES[pick], lambda target: _write_frames(Video(data), frames, pick, target))
        return open_folder(folder, out or default_labels(data.with_name(f"{file_name(data.stem)}_labels")))
    if pick is not None and data.exists():
        raise KpnetError(f"--pick: expected a video whose frames are picked, found {data}; leave out --pick")
    if form is None and data.is_file() and data.suffix.lower() in (".csv", ".json") and is_label_file(data):
        try:
            return _of_label_file(data, out or data)
        except KpnetError:  # it has what kpnet label would not keep, and may stay as it is
            if out is None:
                raise
    if form is None and data.is_dir() and holds_only_images(data):
        return open_folder(data, out or default_labels(data / "labels"))
    return _of_dataset(data, open_dataset(data, form, skeleton), out)


def holds_only_images(folder: Path) -> bool:
    """Return whether a folder's images are to be labelled; False where the folder as a whole has labels.

    A single file of labels in it is named in a warning.
    """
    try:
        found, form = detect_format(folder)
    except KpnetError:
        return True
    if found.is_file() and not is_label_file(found):
        _log.warning("%s: its labels are not shown; to start from them, give the file: kpnet label %s", folder, found)
    return form not in _OF_FOLDERS


def default_labels(base: Path, *, several: bool = False) -> Path:
    """Return the file of labels where the user gives none: the one that is there, or a new one.

    Args:
        base: The file without its ending.
        several: Whether images have several instances, or boxes: then a new one is COCO JSON, else points CSV.
    """
    table, coco = (base.with_name(base.name + suffix) for suffix in (".csv", ".json"))
    if is_label_file(coco):
        if not is_label_file(table):
            return coco
        _log.warning("%s: the labels in %s are not used; to go on with those, give --out %s", table, coco, coco)
        return table
    return coco if several and not os.path.lexists(table) else table


def open_folder(folder: Path, labels: Path) -> Source:
    """Find the images of a folder to label into a file; those that a training on the labels drew are not among them."""
    runs = runs_folder(labels)  # their figures are no data
    images = [path for path in find_image_files(folder) if runs not in path.parents]
    return Source(images, labels, inside=folder.resolve())


def _of_label_file(path: Path, labels: Path) -> Source:
    content = read_content(path)
    if not content.instances:
        raise KpnetError(f"{path}: it names no image; give the folder of the images")
    images, start = [path.parent / name for name in content.instances], dict(enumerate(content.instances.values()))
    stays = path if labels != path else None
    return Source(images, labels, content.skeleton, start, stays=stays, content=content)


def _of_dataset(data: Path, dataset: KeypointDataset, out: Path | None) -> Source:
    groups: dict[str, list[int]] = {}
    for index in range(len(dataset)):
        groups.setdefault(dataset.image_key(index), []).append(index)
    start = {
        number: tuple(_instance(dataset, index) for index in indices) for number, indices in enumerate(groups.values())
    }
    firsts = [indices[0] for indices in groups.values()]
    stem = file_name(data.stem if data.is_file() else data.name)
    files = [dataset.image_file(index) for index in firsts]
    paths = [path for path in files if path is not None]
    if len(paths) < len(files):
        folder = data.with_name(f"{stem}_images")
        _write_once(folder, IMAGES, lambda target: _write_images(dataset, firsts, target))
        paths = [folder / f"{number:06d}.png" for number in range(len(firsts))]
    labelled = any(any(instance.points) for each in start.values() for instance in each)
    several = any(len(each) > 1 or each[0].box is not None for each in start.values())
    labels = out or default_labels(data.with_name(f"{stem}_labels"), several=labelled and several)
    problems: dict[int, str] = {}
    if isinstance(dataset, ImageFileDataset):
        for number, index in enumerate(firsts):
            if is_turned(paths[number]) and _is_read_as_stored(dataset.image_source(index)):
                problems[number] = (
                    f"{paths[number]}: turned by EXIF, and its labels are those of the stored pixels; "
                    "kpnet data convert writes upright copies"
                )
                del start[number]
    skeleton = dataset.skeleton if labelled else None
    return Source(paths, labels, skeleton, start if labelled else {}, problems, stays=data)


def _is_read_as_stored(file: ImageFile) -> bool:
    """Return whether an image is read without its EXIF rotation, which needs no more than its header."""
    if file.exif is not None:
        return not file.exif
    return file.size in (None, tuple(read_image_size(file.path, exif=False)))


def _instance(dataset: KeypointDataset, index: int) -> Instance:
    levels, xy, box = dataset.visibility(index), sample_points(dataset, index), dataset.box(index)
    stated = sample_sources(dataset, index)
    sources = [""] * len(levels) if stated is None else [SOURCES[code] for code in stated]
    points = [
        Point(float(x), float(y), int(level), source or PERSON)
        if level and np.isfinite((x, y)).all()
        else Point(None, None, 0, source)
        if source
        else None
        for (x, y), level, source in zip(xy, levels, sources, strict=True)
    ]
    return Instance(tuple(points), None if box is None else tuple(box.tolist()))


def _write_once(folder: Path, kind: str, write: Callable[[Path], None]) -> None:
    """Fill a folder that appears once it is complete; one that an earlier call has made stays as it is."""
    if os.path.lexists(folder):
        if not folder.is_dir() or folder_kind(folder) != kind:
            raise KpnetError(f"{folder}: exists, and kpnet label did not write it; move it away")
        return
    check_writable(folder.parent)
    beside = partial_path(folder)
    try:
        beside.mkdir()
        write(beside)
        mark_folder(beside, kind)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_frames(video: Video, count: int, pick: Pick, folder: Path) -> None:
    """Write frames of a video, evenly spaced or different from each other."""
    if pick is Pick.difference:
        wanted = set(pick_different(video.small_frames(SIDE), count))
    else:
        total = video.declared_frames or sum(1 for _ in video.frames())
        wanted = set(np.linspace(0, max(total - 1, 0), min(count, max(total, 1))).round().astype(int).tolist())
    for number, frame in enumerate(video.frames()):
        if number in wanted:
            _write_png(folder / f"frame_{number:06d}.png", frame)


def _write_images(dataset: KeypointDataset, indices: list[int], folder: Path) -> None:
    for number, index in enumerate(indices):
        _write_png(folder / f"{number:06d}.png", dataset.read(index)[0])


def _write_png(path: Path, image: np.ndarray) -> None:
    bgr = image if image.ndim == 2 or image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    path.write_bytes(cv2.imencode(".png", bgr)[1].tobytes())


def relative_names(images: list[Path], labels: Path) -> list[str]:
    """Return how the file of labels names the images: from its folder, so that both can be moved together.

    Args:
        images: The image files.
        labels: The file of labels.

    Returns:
        A name for each image.
    """
    base = os.path.abspath(labels.parent)
    names = []
    for image in images:
        try:
            names.append(Path(os.path.relpath(os.path.abspath(image), base)).as_posix())
        except ValueError:  # another drive of Windows
            names.append(Path(os.path.abspath(image)).as_posix())
    return names


def open_labels(
    source: Source, path: Path, skeleton: Skeleton | None = None, trained: Skeleton | None = None
) -> LabelFile:
    """Open the file of labels of a source, or prepare it from the labels that the images come with.

    Args:
        source: The images.
        path: The file.
        skeleton: The keypoints. None: those made in the page earlier, of the file, of the source, or `trained`.
        trained: The keypoints of a model.

    Returns:
        The file of labels; it is written at the first change.

    Raises:
        KpnetError: The file is another program's, or the skeleton does not fit the labels.
    """
    beside = skeleton_path(path)
    names = relative_names(source.images, path)
    chosen = skeleton or (Skeleton.load(beside) if beside.is_file() else None)
    if os.path.lexists(path):
        return LabelFile(path, names, chosen, known=source.content)
    chosen = chosen or source.skeleton or trained
    start = source.start
    if source.names is not None and chosen is not None:
        check_kept(str(source.stays or path), source.names, [*start.values()], chosen)
        start = {i: reorder_points(each, source.names, chosen.names) for i, each in start.items()}
    return LabelFile(path, names, chosen, start)
