"""SLEAP (https://sleap.ai): projects (`.slp`, with or without embedded images) and analysis files (`.h5`).

Read and written by sleap-io (`pip install kpnet[sleap]`). A project holds frames of videos or lists of images, and on
each the instances that people labelled and those that a model predicted. Its skeleton has names, edges and symmetries,
which are the left/right pairs.

A point that is not visible is absent: SLEAP trains without it, and what is left of its coordinates is where it stood
last. Predicted instances are used with `predictions` alone, on frames without one that people labelled; analysis files
have predictions only. A frame without an instance, such as one that is marked as negative, says that nothing is on it.

Coordinates: pixels, integers are pixel centres, as in kpnet; sleap-io converts older files.

Videos and images are found as the project states them, or beside it. Frames of videos are decoded when they are read.

Ignored, with a note: predictions, and frames without a labelled point (unless `empty`). Skipped with a warning: frames
whose image or video is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from kpnet.core.errors import KpnetError, did_you_mean, few, first_line, shorten
from kpnet.core.skeleton import Skeleton
from kpnet.data.base import DATASETS, KeypointDataset
from kpnet.data.formats.gathering import Gatherer, Shapes
from kpnet.data.formats.instances import InstanceDataset
from kpnet.data.formats.skipped import Skipped
from kpnet.data.formats.writing import sample_points, write_images
from kpnet.data.images import image_problem, read_image

_EXPECTED = "a SLEAP project (.slp) or analysis file (.h5)"
_NEEDS = "needs sleap-io: pip install kpnet[sleap]"


@DATASETS.register("sleap")
class SLEAP(InstanceDataset):
    """Frames of a SLEAP project, one sample for each instance.

    Args:
        path: The file, `.slp` or `.h5`.
        category: Name of the skeleton to use, if there are several.
        predictions: Also use the predictions of frames that nobody has labelled.
        empty: Also use frames without an instance.
        skeleton: Skeleton whose order of names is used if it has the names of the file.
        strict: Raise an error at the first frame that cannot be used, instead of skipping it with a warning.
        **options: `complete_only` and the arguments of `KeypointDataset`.

    Raises:
        KpnetError: The file is no such file, no frame in it can be used, or sleap-io is not installed.

    Example:
        >>> dataset = SLEAP("flies.slp")
    """

    def __init__(
        self,
        path: str | Path,
        *,
        category: str | None = None,
        predictions: bool = False,
        empty: bool = False,
        skeleton: Skeleton | None = None,
        strict: bool = False,
        **options: Any,
    ) -> None:
        path = Path(path)
        if options.get("normalized"):
            raise KpnetError(f"{path}: normalized: SLEAP's coordinates are pixels; leave the option out")
        skipped = Skipped(path, strict)
        labels = _load(path)
        own = _skeleton(path, labels, category)
        gatherer = Gatherer(skipped, empty)
        gatherer.names = dict.fromkeys(own.names)
        videos = _Videos(path, labels.videos)
        self._frames: dict[str, tuple[int, int]] = {}  # by the image's name: the video and the frame
        _gather(labels, gatherer, videos, self._frames, predictions, own.names)
        instances = gatherer.build(skeleton, own.edges, own.pairs)
        problems = [videos.problem(*self._frames[name]) for name in instances.images.tolist()]
        self._videos = videos
        super().__init__(instances, skipped, problems, skeleton=skeleton, **options)

    def image(self, index: int) -> np.ndarray:
        return self._videos.read(*self._frames[self.image_name(index)])

    def image_file(self, index: int) -> Path | None:
        return self._videos.file(*self._frames[self.image_name(index)])

    def image_key(self, index: int) -> str:
        return self._key(self.image_name(index))

    def _key(self, name: str) -> str:
        file = self._file(name)
        return f"{self.skipped.source}/{name}" if file is None else os.path.realpath(file)

    def _file(self, name: str) -> Path | None:
        return self._videos.file(*self._frames[name])

    def _reader(self, name: str, size: tuple[int, int]) -> Callable[[], np.ndarray] | None:
        frame = self._frames[name]
        return None if self._videos.problem(*frame) is not None else partial(self._videos.read, *frame)


def is_sleap_h5(head: bytes) -> bool:
    """Return whether an HDF5 file that begins so is SLEAP's analysis."""
    return b"node_names" in head and b"tracks" in head


def _load(path: Path) -> Any:
    if not path.is_file():
        raise KpnetError(f"{path}: no such file; expected {_EXPECTED}")
    try:
        import sleap_io
    except ImportError:
        raise KpnetError(f"{path}: {_NEEDS}") from None
    try:
        if path.suffix.lower() == ".h5":
            return sleap_io.load_analysis_h5(str(path))
        return sleap_io.load_slp(str(path), open_videos=False)
    except Exception as error:  # sleap-io and h5py raise all kinds of errors for a damaged file
        raise KpnetError(f"{path}: {first_line(error, with_type=True)}; expected {_EXPECTED}") from None


def _skeleton(path: Path, labels: Any, category: str | None) -> Skeleton:
    """Return the points, symmetries and edges of the skeleton to use."""
    known = {str(each.name): each for each in labels.skeletons}
    if category is not None and category not in known:
        raise KpnetError(
            f'{path}: no skeleton "{shorten(category)}"{did_you_mean(category, known)}; it has {few(known, 5)}'
        )
    found = [known[category]] if category is not None else list(labels.skeletons)
    lists = dict.fromkeys(tuple(map(str, each.node_names)) for each in found)
    if len(lists) != 1:
        what = f"skeletons {few(known, 5)} have different points; set category to one" if lists else "no skeleton in it"
        raise KpnetError(f"{path}: {what}")
    try:
        own = Skeleton.of_names(next(iter(lists)))
        names = set(own.names)
        edges = [(str(a), str(b)) for a, b in found[0].edge_names]
        pairs = [tuple(sorted(map(str, pair), key=_right_last)) for pair in found[0].symmetry_names]
        given = dict.fromkeys((a, b) for a, b in pairs if {a, b} <= names and a != b)
        derived = {frozenset(pair): pair for pair in own.pairs}
        ordered = tuple(derived.get(frozenset(pair), pair) for pair in given)
        return Skeleton(own.names, ordered or own.pairs, tuple(e for e in edges if {*e} <= names))
    except (KpnetError, ValueError, TypeError) as error:
        raise KpnetError(f"{path}: its skeleton: {first_line(error)}") from None


def _right_last(name: str) -> tuple[bool, str]:
    return "r" in name.lower(), name


def _gather(
    labels: Any,
    gatherer: Gatherer,
    videos: _Videos,
    frames: dict[str, tuple[int, int]],
    predictions: bool,
    names: tuple[str, ...],
) -> None:
    """Add the frames of a project to the gatherer, and note what is not used."""
    numbers = {id(video): number for number, video in enumerate(labels.videos)}
    unused = 0
    for labelled in labels.labeled_frames:
        number, frame = numbers[id(labelled.video)], int(labelled.frame_idx)
        chosen = list(labelled.user_instances)
        predicted = list(labelled.predicted_instances)
        if not chosen and predictions:
            chosen = predicted
        elif predicted:
            unused += len(predicted)
            if not chosen:
                continue
        name = videos.name(number, frame)
        frames[name] = number, frame
        shapes = Shapes()
        for k, instance in enumerate(each for each in chosen if tuple(each.skeleton.node_names) == names):
            points = instance.points
            for node, xy, visible in zip(names, points["xy"].tolist(), points["visible"].tolist(), strict=True):
                if visible and np.isfinite(xy).all():
                    shapes.add_point(f"instance {k}", node, xy[0], xy[1])
        gatherer.add_image(name, (0, 0), name, shapes)
    if unused:
        gatherer.skipped.note(
            f"{unused} predicted instances are not used (predictions: true uses those of other frames)"
        )


@dataclass
class _Videos:
    """The videos and lists of images of a project, which are opened by each process of its own."""

    source: Path
    videos: list[Any]
    _opened: dict[tuple[int, int], Any] = field(default_factory=dict)
    _places: dict[str, Path] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def name(self, number: int, frame: int) -> str:
        """Return a name for a frame: its image's, or the video's with the frame's number."""
        file = self.file(number, frame)
        if file is not None:
            return os.path.relpath(file, self.source.parent)
        stem = Path(self._stated(number)).stem or "video"
        shared = sum(Path(self._stated(k)).stem == stem for k in range(len(self.videos))) > 1
        return f"{stem}{f'_{number}' if shared else ''}_{frame:06d}"

    def file(self, number: int, frame: int) -> Path | None:
        """Return the file of a frame of a list of images, None for a frame of a video."""
        names = self.videos[number].filename
        if not isinstance(names, list):
            return None
        return self._find(str(names[frame])) if 0 <= frame < len(names) else self.source.parent / f"frame {frame}"

    def problem(self, number: int, frame: int) -> str | None:
        """Return why a frame cannot be read, as far as that is known without reading it; else None."""
        file = self.file(number, frame)
        if file is not None:
            return image_problem(file) if file.is_file() else f"no image {file}"
        video = self._find(self._stated(number))
        return None if video.is_file() else f"no video {video}"

    def read(self, number: int, frame: int) -> np.ndarray:
        """Return a frame, uint8 (H, W) or (H, W, 3)."""
        file = self.file(number, frame)
        if file is not None:
            return read_image(file)
        try:
            image = np.asarray(self._open(number)[frame])
        except Exception as error:  # of any of the libraries that decode videos
            raise KpnetError(
                f"{self.source}: {self.name(number, frame)} cannot be read: {first_line(error, with_type=True)}"
            ) from None
        image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
        return np.ascontiguousarray(image)

    def _open(self, number: int) -> Any:
        key = os.getpid(), number  # a forked process cannot share a decoder
        if key not in self._opened:
            import sleap_io

            video = self.videos[number]
            path = str(self._find(self._stated(number)))
            self._opened[key] = sleap_io.Video(path, backend_metadata=video.backend_metadata, open_backend=True)
        return self._opened[key]

    def _stated(self, number: int) -> str:
        name = self.videos[number].filename
        return str(name[0] if name else "") if isinstance(name, list) else str(name)

    def _find(self, stated: str) -> Path:
        """Return the file as it is stated, relative to the project, or of that name beside it."""
        if stated not in self._places:
            plain = stated.replace("\\", "/")
            beside = self.source.parent
            places = [
                beside / plain,
                beside / PureWindowsPath(stated).name,
                beside / "images" / PureWindowsPath(stated).name,
            ]
            self._places[stated] = next((each for each in places if each.is_file()), places[0])
        return self._places[stated]


def write_sleap(dataset: KeypointDataset, folder: Path) -> None:
    """Write labels.slp, and the images in `images/`: a list of images for each size, as SLEAP needs them."""
    try:
        import sleap_io as sio
    except ImportError:
        raise KpnetError(f"writing sleap {_NEEDS}") from None
    own = dataset.skeleton
    skeleton = sio.Skeleton(list(own.names), list(own.edges), list(own.pairs), name=own.name or "object")
    lists: dict[tuple[int, int], list[str]] = {}
    places: dict[Path, tuple[tuple[int, int], int]] = {}
    rows: list[tuple[Path, np.ndarray]] = []
    for index, path, size in write_images(dataset, folder / "images"):
        if path not in places:
            names = lists.setdefault(size, [])
            places[path] = size, len(names)
            names.append(f"images/{path.as_posix()}")
        rows.append((path, sample_points(dataset, index)))
    videos = {size: _image_list(sio, size, names) for size, names in lists.items()}
    frames = {path: sio.LabeledFrame(video=videos[size], frame_idx=frame) for path, (size, frame) in places.items()}
    for path, xy in rows:
        if np.isfinite(xy).any():
            frames[path].instances.append(sio.Instance.from_numpy(xy, skeleton=skeleton))
    for frame in frames.values():
        frame.is_negative = not frame.instances
    labels = sio.Labels(list(frames.values()), videos=list(videos.values()), skeletons=[skeleton])
    labels.save(str(folder / "labels.slp"), embed=False, verbose=False)


def _image_list(sio: Any, size: tuple[int, int], names: list[str]) -> Any:
    shape = [len(names), *size, 3]
    metadata = {"type": "ImageVideo", "shape": shape, "filename": names[0], "filenames": names, "grayscale": False}
    return sio.Video(names, backend_metadata=metadata, open_backend=False)
