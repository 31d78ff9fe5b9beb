"""Keypoints of images, in pixels of the original image."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image

from kpnet import coordinates
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.runtime import best_device
from kpnet.core.validation import check_bits
from kpnet.data.images import (
    Box,
    check_model_input,
    letterbox,
    model_inputs,
    read_image,
    to_channels,
)
from kpnet.heads import Keypoints
from kpnet.inference.inputs import trained_bits
from kpnet.inference.instances import Found, distinct, find_instances, instance_limits, normalized_boxes, unit_batch
from kpnet.inference.prediction import Prediction
from kpnet.inference.watch import Verdict, Watch, reference_for
from kpnet.models.ensemble import Ensemble, Model, load_ensemble
from kpnet.models.test_time import TestTime
from kpnet.models.watch import FEATURES, compute_signals, pooled_maps

T = TypeVar("T")
ImageLike = str | Path | np.ndarray | torch.Tensor | Image.Image
TOLERANCE = 0.01  # by which interpolated floats may leave [0, 1]


class Predictor:
    """Predicts keypoints of images and videos of any size, in pixels of the original image.

    An image, or the region around each of its boxes, is fitted into the model's input, and the prediction is mapped
    back. A model that finds instances (`model.instances`, or the head `centers`) needs no boxes.

    Args:
        model: A model, the folder of a run or of a saved model, an address on the hub (`hf://OWNER/NAME`) or an ONNX
            file that `kpnet export` wrote; or several of them, whose predictions are averaged. A model is used as it
            is, with the weights that it has at each prediction, and left as it is: a model in training mode stays in
            it. One that is loaded from a folder has its batch norms folded into convolutions.
        test_time: Average over mirrored, scaled and shifted views.
        device: The device to predict on; a model on another one is copied to it. None: where the model is, and for
            folders a GPU if there is one.
        batch_size: Images, or boxes, per forward pass.
        bits: Bits, from 8 to 16, that the values of 16-bit image files fill. None: for the folder of a run or of one of
            its models those of the training's data, else 16.
        max_instances: Instances that are kept of an image at most, those of the highest scores. None: as many as the
            model allows.
        threshold: Least score of an instance. None: that of `kpnet calibrate`, or else of the model's config.
        watch: Compare the images with the held-out data that `kpnet guarantee` saw, and warn when they turn into other
            data (`kpnet.inference.watch.OtherDataWarning`). A function: it is called with the verdict instead.

    Attributes:
        watch: The `kpnet.inference.watch.Watch` of the last 512 images; None unless asked for. Its `verdict()` compares
            them now.
        keeps_signals: Whether predictions have `signals`, for a comparison of your own.

    Raises:
        KpnetError: A model cannot be loaded, the models do not share their points and input, there is no such device,
            `batch_size` or `max_instances` is not positive, `threshold` is not in [0, 1], or one of the last two is
            given for a model that finds no instances; or `watch` is asked of a model without a summary of held-out
            data, or with one of another decoding, calibration or test-time views.

    Example:
        ```python
        predictor = kpnet.Predictor("runs/facial_heatmap")
        prediction = predictor("photo.jpg")
        print(prediction.to_frame())
        ```
    """

    def __init__(
        self,
        model: Model | Ensemble | Sequence[Model],
        *,
        test_time: TestTime | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        bits: int | None = None,
        max_instances: int | None = None,
        threshold: float | None = None,
        watch: bool | Callable[[Verdict], object] = False,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise KpnetError(f"batch_size: expected a positive number of images, found {batch_size}")
        if max_instances is not None and (not isinstance(max_instances, int) or max_instances < 1):
            raise KpnetError(f"max_instances: expected a positive number of instances, found {max_instances}")
        if threshold is not None and not 0 <= threshold <= 1:
            raise KpnetError(f"threshold: expected a score from 0 to 1, found {threshold}")
        self.model = load_ensemble(model, fold=True)
        self.max_instances, self.threshold = max_instances, threshold
        for name, given_value in (("max_instances", max_instances), ("threshold", threshold)):
            if given_value is not None and not self.model.finds_instances:
                raise KpnetError(
                    f"{name}: the model finds no instances, but sees one in each image or box; train with "
                    "model.instances=true, or leave it out"
                )
        self.test_time = test_time
        self.batch_size = batch_size
        held = next(itertools.chain(self.model.parameters(), self.model.buffers())).device
        given = model if isinstance(model, (list, tuple)) else [model]
        self._sources = given
        if bits is not None:
            check_bits(bits)
            self.bits = bits
        if device is None:
            device = best_device() if all(isinstance(each, (str, Path)) for each in given) else held
        try:
            self.device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
            raise KpnetError(f"device {device}: {first_line(error)}") from None
        if self.device != held:
            self.model = copy.deepcopy(self.model).to(self.device)
        self.keeps_signals = bool(watch)
        self.watch: Watch | None = None
        if watch:
            reference = reference_for(self.model, test_time)
            self.watch = Watch(reference, self.model, None if watch is True else watch)

    @cached_property
    def bits(self) -> int:
        """Bits that the values of 16-bit image files fill; looked up once a file is predicted."""
        return trained_bits(self._sources, self.model)

    @overload
    def __call__(self, image: ImageLike, boxes: Sequence[Box] | None = None) -> Prediction: ...
    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], boxes: Sequence[Sequence[Box] | None] | None = None
    ) -> list[Prediction]: ...
    def __call__(self, image: Any, boxes: Any = None) -> Prediction | list[Prediction]:
        """Predict the keypoints of one image, or of several.

        Args:
            image: A file; uint8 (H, W) or RGB (H, W, 3); a PIL image, whose EXIF rotation is not applied; or a tensor
                (C, H, W), uint8 or float in [0, 1]. A list: several of them.
            boxes: One (x0, y0, x1, y1) for each instance, in pixels. None: the model finds the instances, or else the
                whole image is one. With a list of images: the boxes of each, or None.

        Returns:
            The prediction, with one instance for each box, or 0 to N instances that were found, best first; a list of
            them for a list of images.

        Raises:
            KpnetError: An image cannot be read, or a box is not valid.
        """
        if not isinstance(image, (list, tuple)):
            return next(self.stream([self._named(image, boxes)]))
        boxes = [None] * len(image) if boxes is None else boxes
        if len(boxes) != len(image):
            raise KpnetError(f"expected the boxes of each of the {len(image)} images, found those of {len(boxes)}")
        return list(self.stream(self._named(each, own) for each, own in zip(image, boxes, strict=True)))

    def _named(self, image: ImageLike, boxes: Sequence[Box] | None) -> tuple[str, Any, Sequence[Box] | None]:
        """Return an image with its name, its file or "", and its boxes."""
        if isinstance(image, (str, Path)):
            return str(image), read_image(image, bits=self.bits), boxes
        return "", image, boxes

    def stream(self, images: Iterable[tuple[str, np.ndarray, Sequence[Box] | None]]) -> Iterator[Prediction]:
        """Predict many images, in batches.

        Args:
            images: Triples of a name, an image, uint8 (H, W) or RGB (H, W, 3), and its boxes or None. PIL images and
                tensors are taken as well.

        Yields:
            A prediction for each image, in their order.
        """
        iterator = iter(images)
        while group := list(itertools.islice(iterator, self.batch_size)):
            for prediction in self._predict(group):
                if self.watch is not None:
                    self.watch.add(prediction)
                yield prediction

    def track(self, frames: Iterable[np.ndarray]) -> Iterator[Prediction]:
        """Predict the frames of a video, with no more than a batch of them in memory.

        A temporal head sees each frame among its neighbours; the first and the last frame are repeated at the ends. A
        model that finds instances finds them in each frame anew.

        Args:
            frames: RGB frames, uint8 (H, W, 3).

        Yields:
            A prediction for each frame, in their order.
        """
        past, future = self.model.frame_window
        if not past + future or self.model.finds_instances:
            yield from self.stream(("", frame, None) for frame in frames)
            return
        held: list[tuple[np.ndarray, np.ndarray]] = []  # views that are predicted next, and the windows around them
        views = (model_inputs(to_pixels(frame), None, self.model.config)[0] for frame in frames)
        for view in _pad_edge_frames(views, past, future):
            held.append(view)
            if len(held) == past + self.batch_size + future:
                yield from self._predict_clip(held)
                held = held[self.batch_size :]
        if len(held) > past + future:
            yield from self._predict_clip(held)

    def _predict_clip(self, views: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Prediction]:
        """Yield predictions for frames with a complete window."""
        past, future = self.model.frame_window
        found = self._infer(np.stack([pixels for pixels, _ in views]), clip=True)
        for i, (_, matrix) in enumerate(views[past : len(views) - future]):
            yield self._to_image_pixels("", [matrix], found.take(np.array([i])))

    def _predict(self, group: list[tuple[str, np.ndarray, Sequence[Box] | None]]) -> Iterator[Prediction]:
        images = [(name, to_pixels(image), boxes) for name, image, boxes in group]
        for _, image, boxes in images:
            check_model_input(image, boxes, self.model.config)
        if self.model.finds_instances and self.model.finder is None:
            yield from self._predict_at_once(images)
            return
        found: list[Found | None] = [None] * len(images)
        if self.model.finds_instances:
            searched = [i for i, (_, _, boxes) in enumerate(images) if boxes is None]
            batches = self._find([images[i][1] for i in searched])
            for i, own in zip(searched, (each for _, batch in batches for each in batch), strict=True):
                found[i] = own
                images[i] = (*images[i][:2], own.boxes.tolist())
        for prediction, each in zip(self._predict_crops(images), found, strict=True):
            yield prediction if each is None else self._kept(prediction, each)

    def _predict_crops(self, images: Sequence[tuple[str, np.ndarray, Sequence[Box] | None]]) -> Iterator[Prediction]:
        """Yield predictions of whole images and of crops, of which one image's and one batch are in memory."""
        matrices: list[list[np.ndarray]] = [[] for _ in images]

        def inputs() -> Iterator[np.ndarray]:
            for own, (_, image, boxes) in zip(matrices, images, strict=True):
                for pixels, matrix in model_inputs(image, boxes, self.model.config):
                    own.append(matrix)
                    yield pixels

        waiting = inputs()
        parts = []
        while batch := list(itertools.islice(waiting, self.batch_size)):
            parts.append(self._infer(np.stack(batch)))
        found = Prediction.concatenate(parts) if parts else None
        start = 0
        for (name, _, _), of_image in zip(images, matrices, strict=True):
            own = None if found is None else found.take(np.arange(start, start + len(of_image)))
            start += len(of_image)
            yield self._to_image_pixels(name, of_image, own)

    def _find(self, images: Sequence[np.ndarray]) -> Iterator[tuple[torch.Tensor, list[Found]]]:
        """Yield each batch's input, and what was found in its images."""
        calibration = getattr(self.model, "instance_calibration", None)
        # Calibrated scores depend on the points too: only what cannot reach the threshold is left out before them.
        threshold = self.threshold if calibration is None else calibration.least_score(self.threshold)
        config = (self.model if self.model.finder is None else self.model.finder).config
        # Never fewer than the model's own limit: which are the best, a calibration may see otherwise.
        own = self.max_instances
        limit = None if own is None else max(own, instance_limits(self.model).max_instances)
        return find_instances(
            self.model, config.in_channels, config.input_size, images, self.device, self.batch_size, threshold, limit
        )

    def _predict_at_once(self, images: Sequence[tuple[str, np.ndarray, Sequence[Box] | None]]) -> Iterator[Prediction]:
        """Yield predictions of a head that finds instances with their points."""
        config = self.model.config
        searched = [image for _, image, boxes in images if boxes is None]
        found = self._find_with_features(searched)
        for name, image, boxes in images:
            if boxes is None:
                inputs, each, features = next(found)
                points, matrix = self._points(inputs, each), each.matrix
            else:
                pixels, matrix = letterbox(to_channels(image, config.in_channels), config.input_size)
                around = normalized_boxes(boxes, matrix, config.input_size).to(self.device)
                with self._pooled_maps() as pooled:
                    points = self._read(unit_batch(pixels[None]).to(self.device), around)
                features = pooled[0] if pooled else None
            prediction = self._to_image_pixels(
                name, [matrix] * len(points.keypoints), self._in_pixels(points, features)
            )
            yield prediction if boxes is not None else self._kept(prediction, each)

    def _find_with_features(
        self, images: Sequence[np.ndarray]
    ) -> Iterator[tuple[torch.Tensor, Found, torch.Tensor | None]]:
        """Yield the input of each image, what was found in it, and its pooled map (1, C) where signals are kept."""
        with self._pooled_maps() as pooled:
            for inputs, batch in self._find(images):
                features = pooled[-1] if pooled else None  # others are of points read meanwhile
                pooled.clear()
                for i, each in enumerate(batch):
                    yield inputs[i : i + 1], each, None if features is None else features[i : i + 1]

    def _pooled_maps(self) -> AbstractContextManager[list[torch.Tensor]]:
        """Return a context that collects the pooled maps of the backbone's passes, none unless signals are kept."""
        model: Any = self.model
        return pooled_maps(model.backbone) if self.keeps_signals else nullcontext([])

    def _points(self, inputs: torch.Tensor, found: Found) -> Keypoints:
        """Return the points of instances that were found with them, averaged over test-time views if there are any."""
        own = found.detections
        if self.test_time is not None or own.points is None:
            return self._read(inputs, own.boxes)
        return own.points

    def _read(self, inputs: torch.Tensor, boxes: torch.Tensor) -> Keypoints:
        """Return the points of known instances, whose boxes (N, 4) are normalised, of one input (1, C, H, W)."""
        if not len(boxes):
            return Keypoints(torch.zeros(0, len(self.model.skeleton), 2))
        model: Any = self.model
        points: Keypoints = model.read(inputs, boxes[None], self.test_time)
        return points

    def _kept(self, prediction: Prediction, found: Found) -> Prediction:
        """Return the instances that were found, without repeated ones, those of too low a score and those too many."""
        prediction = replace(prediction, scores=found.scores, boxes=found.boxes)
        calibration = getattr(self.model, "instance_calibration", None)
        scores = found.scores
        if calibration is not None:
            prediction = calibration(prediction)
            scores = np.asarray(prediction.scores)
        order = np.argsort(-scores, kind="stable")
        if calibration is not None:
            order = order[scores[order] >= (calibration.threshold if self.threshold is None else self.threshold)]
        prediction = prediction.take(order)
        return prediction.take(distinct(prediction, self.model.skeleton)[: self.max_instances])

    def predict_inputs(self, inputs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Prediction:
        """Predict inputs that have the model's size already.

        Args:
            inputs: For each one the pixels, uint8 (H, W, C), or (T, H, W, C) of a clip as long as the head's window;
                and the matrix (2, 3) from pixels of the original image to its pixels, as
                `kpnet.data.images.model_inputs` returns them.

        Returns:
            One prediction, whose instances are the inputs.
        """
        past, future = self.model.frame_window
        if past + future:
            parts = [self._infer(pixels, clip=True) for pixels, _ in inputs]
        else:
            parts = [self._infer(np.stack([pixels for pixels, _ in inputs]))]
        return self._to_image_pixels("", [matrix for _, matrix in inputs], Prediction.concatenate(parts))

    def _infer(self, pixels: np.ndarray, clip: bool = False) -> Prediction:
        images = torch.from_numpy(pixels)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        images = images[None] if clip else images
        with self._pooled_maps() as pooled:
            predicted = self.model.infer(images.to(self.device).float() / 255, self.test_time)
        return self._in_pixels(predicted, pooled[0] if pooled else None)  # of several views the first one's

    def _in_pixels(self, predicted: Keypoints, features: torch.Tensor | None = None) -> Prediction:
        """Return a prediction in pixels of the model's input, with the signals of these pooled maps (1 or B, C)."""
        size = self.model.config.input_size
        xy = coordinates.normalized_to_pixel(predicted.keypoints.cpu().double(), size).numpy()
        confidence, presence, radius, joint_radius = (
            None if each is None else each.float().cpu().numpy()
            for each in (predicted.confidence, predicted.presence, predicted.radius, predicted.joint_radius)
        )
        covariance = None
        if predicted.covariance is not None:
            scale = coordinates.normalized_distance_to_pixel(torch.ones(2, dtype=torch.float64), size)
            covariance = (predicted.covariance.cpu().double() * scale[:, None] * scale[None, :]).numpy()
        return Prediction(
            "",
            self.model.skeleton.names,
            xy,
            confidence,
            covariance,
            predicted.dof,
            presence=presence,
            radius=None if radius is None else radius * max(size),
            joint_radius=None if joint_radius is None else joint_radius * max(size),
            signals=None if features is None else self._signals(predicted, features),
        )

    def _no_signals(self) -> np.ndarray:
        model: Any = self.model
        return np.zeros((0, FEATURES + model.backbone.channels[-1]), np.float32)

    def _signals(self, predicted: Keypoints, features: torch.Tensor) -> np.ndarray:
        model: Any = self.model
        each = features.expand(len(predicted.keypoints), -1)
        return compute_signals(predicted, each, model.config.input_size, model.head.predicts_covariance).numpy()

    def _to_image_pixels(self, name: str, matrices: list[np.ndarray], found: Prediction | None) -> Prediction:
        """Return a prediction in pixels of the original image, of which the matrices lead to the input."""
        names = self.model.skeleton.names
        if found is None or not matrices:
            none = len(names)
            signals = self._no_signals() if self.keeps_signals else None
            nothing = np.zeros((0, none, 2)), np.zeros((0, none)), np.zeros((0, none, 2, 2))
            return Prediction(name, names, *nothing, signals=signals)
        inverses = [coordinates.invert(m) for m in matrices]
        points = np.stack([coordinates.transform(p, m) for p, m in zip(found.keypoints, inverses, strict=True)])
        longest = coordinates.largest_stretch(torch.from_numpy(np.stack(matrices))).numpy()[:, None]
        covariance = found.covariance
        if covariance is not None:
            linear = np.stack([m[:, :2] for m in inverses])
            covariance = linear[:, None] @ covariance @ linear[:, None].swapaxes(-1, -2)
        return replace(
            found,
            image=name,
            keypoints=points,
            covariance=covariance,
            radius=None if found.radius is None else found.radius * longest,
            joint_radius=None if found.joint_radius is None else found.joint_radius * longest,
        )


def to_pixels(image: Any) -> np.ndarray:
    """Convert an image to an array.

    Args:
        image: An array, which is returned as it is; a PIL image of 8 bits; or a tensor (C, H, W) of 1 or 3 channels, or
            (H, W), uint8 or float in [0, 1].

    Returns:
        The array; of PIL images and tensors uint8 (H, W) or RGB (H, W, 3).

    Raises:
        KpnetError: It is none of them.
    """
    if isinstance(image, np.ndarray):
        return image
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise KpnetError(f'expected a PIL image of 8 bits, found the mode "{image.mode}": convert it first')
        try:
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB"))
        except (OSError, ValueError, SyntaxError) as error:  # it is read from its file only now
            raise KpnetError(f"the PIL image cannot be read: {first_line(error)}") from None
    if not isinstance(image, torch.Tensor):
        raise KpnetError(
            f"expected a file, an array (H, W) or (H, W, 3), a PIL image or a tensor (C, H, W), found a "
            f"{type(image).__name__}"
        )
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[0] not in (1, 3)):
        raise KpnetError(
            f"expected a tensor (C, H, W) of 1 or 3 channels, found {tuple(image.shape)}: use permute, or a list for "
            "several images"
        )
    if image.is_floating_point():
        image = image.detach().float()
        low, high = (image.min().item(), image.max().item()) if image.numel() else (0.0, 0.0)
        if not -TOLERANCE <= low <= high <= 1 + TOLERANCE:  # not with NaN either
            raise KpnetError(f"expected a float tensor in [0, 1], found {low:g} to {high:g}: divide by 255")
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels: np.ndarray = (image[0] if image.ndim == 3 and len(image) == 1 else image).cpu().numpy()
    return pixels.transpose(1, 2, 0) if pixels.ndim == 3 else pixels


def _pad_edge_frames(items: Iterable[T], past: int, future: int) -> Iterator[T]:
    """Yield the items, with the first one repeated `past` times before and the last one `future` times after."""
    item: T | None = None
    for i, item in enumerate(items):
        yield from itertools.repeat(item, 1 if i else 1 + past)
    if item is not None:
        yield from itertools.repeat(item, future)
